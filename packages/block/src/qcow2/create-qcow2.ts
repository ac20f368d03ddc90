import { ImageOptionError } from '../errors.ts'
import type { ImageFile } from '../image-file.ts'
import { setEntry, tableView } from './entries.ts'
import { type CompressionType, formatHeader, l1EntriesFor, MAX_L1_BYTES, type Qcow2Header } from './header.ts'

export interface CreateQcow2Options {
  /** Of the disk, bytes; a multiple of 512. */
  readonly size: number
  /** A power of two, 512 to 2 MiB. Default 65536. */
  readonly clusterBytes?: number
  /** 1, 2, 4 … 64. Default 16. */
  readonly refcountBits?: number
  /** Default zlib. */
  readonly compressionType?: CompressionType
  /** 2 is for programs of 2010 to 2012. Default 3. */
  readonly version?: 2 | 3
  readonly lazyRefcounts?: boolean
  readonly backingFile?: string
  readonly backingFormat?: string
}

/**
 * Writes an empty image over whatever the file had.
 * @throws ImageOptionError nothing was written @throws ImageIoError
 */
export async function createQcow2(file: ImageFile, options: CreateQcow2Options): Promise<void> {
  const { size, version = 3, clusterBytes = 65536, refcountBits = 16, compressionType = 'zlib' } = options
  const refuse = (problem: string): never => {
    throw new ImageOptionError(file.name, problem)
  }
  const clusterBits = Math.log2(clusterBytes)
  if (!Number.isInteger(clusterBits) || clusterBits < 9 || clusterBits > 21) {
    refuse(`cluster size ${clusterBytes}: it must be a power of two from 512 to 2M`)
  }
  const refcountOrder = Math.log2(refcountBits)
  if (!Number.isInteger(refcountOrder) || refcountOrder < 0 || refcountOrder > 6) {
    refuse(`refcount bits ${refcountBits}: it must be a power of two from 1 to 64`)
  }
  if (version === 2 && (refcountBits !== 16 || compressionType !== 'zlib' || options.lazyRefcounts)) {
    refuse('version 2 (compat=0.10) has counts of 16 bits, zlib and no lazy refcounts')
  }
  if (!Number.isSafeInteger(size) || size < 0 || size % 512 !== 0) refuse(`a disk of ${size} bytes`)
  const l1Size = Math.max(1, l1EntriesFor(size, clusterBits))
  if (l1Size * 8 > MAX_L1_BYTES) {
    refuse(`a disk of ${size} bytes is larger than clusters of ${clusterBytes} bytes can hold; take larger clusters`)
  }
  // Header, refcount table, its blocks, L1 table.
  const l1Clusters = Math.ceil((l1Size * 8) / clusterBytes)
  const perBlock = (clusterBytes * 8) / refcountBits
  let blocks = 1
  let tableClusters = 1
  while (blocks * perBlock < 1 + tableClusters + blocks + l1Clusters || tableClusters * (clusterBytes / 8) < blocks) {
    blocks = Math.ceil((1 + tableClusters + blocks + l1Clusters) / perBlock)
    tableClusters = Math.ceil(blocks / (clusterBytes / 8))
  }
  const header: Qcow2Header = {
    version,
    backingFile: options.backingFile,
    backingFormat: options.backingFormat,
    clusterBits,
    size,
    l1Size,
    l1TableOffset: (1 + tableClusters + blocks) * clusterBytes,
    refcountTableOffset: clusterBytes,
    refcountTableClusters: tableClusters,
    nbSnapshots: 0,
    snapshotsOffset: 0,
    dirty: false,
    corrupt: false,
    lazyRefcounts: options.lazyRefcounts ?? false,
    autoclearFeatures: 0n,
    refcountOrder,
    compressionType,
    bitmaps: undefined,
  }
  const first = formatHeader(file.name, header)
  const used = 1 + tableClusters + blocks + l1Clusters
  const table = new Uint8Array(tableClusters * clusterBytes)
  for (let i = 0; i < blocks; i++) setEntry(tableView(table), i, (1 + tableClusters + i) * clusterBytes, false)
  await file.truncate(0)
  await file.write(clusterBytes, table)
  for (let i = 0; i < blocks; i++) {
    const ones = Math.min(perBlock, used - i * perBlock)
    await file.write((1 + tableClusters + i) * clusterBytes, countsOfOne(ones, refcountBits, clusterBytes))
  }
  await file.truncate(used * clusterBytes)
  // The header comes last: before it this is no image.
  await file.write(0, first)
  await file.flush()
}

/** A block that begins with `count` counts of 1. */
function countsOfOne(count: number, bits: number, clusterBytes: number): Uint8Array {
  const block = new Uint8Array(clusterBytes)
  for (let i = 0; i < count; i++) {
    const bit = i * bits
    if (bits < 8) block[bit >> 3]! |= 1 << (bit & 7)
    else block[(bit + bits) / 8 - 1] = 1
  }
  return block
}
