/**
 * The header of a qcow2 image.
 * Spec: the format's interoperability document, "Header", "Additional fields", "Header extensions". Numbers are big-endian.
 */
import { ImageFeatureError, ImageFormatError } from '../errors.ts'

/** "QFI" and 0xfb. */
export const QCOW2_MAGIC = 0x5146_49fb
const V2_HEADER_BYTES = 72
const V3_HEADER_BYTES = 104
/** With `compression_type` and padding: what is written for new images. */
export const HEADER_BYTES = 112

const INCOMPATIBLE_DIRTY = 1
const INCOMPATIBLE_CORRUPT = 2
const INCOMPATIBLE_COMPRESSION = 8
/** What else would be needed to read it. */
const REFUSED_FEATURES: readonly [bit: number, name: string][] = [
  [4, 'an external data file'],
  [16, 'extended L2 entries'],
]
const COMPATIBLE_LAZY_REFCOUNTS = 1
export const AUTOCLEAR_BITMAPS = 1

const EXTENSION_END = 0
const EXTENSION_BACKING_FORMAT = 0xe279_2aca
const EXTENSION_FEATURE_NAMES = 0x6803_f857
const EXTENSION_BITMAPS = 0x2385_2875

/** Limits that stock QEMU has too; without them a header could ask for any amount of memory. */
export const MAX_L1_BYTES = 32 << 20
const MAX_REFCOUNT_TABLE_BYTES = 8 << 20
export const MAX_SNAPSHOTS = 65536
const MAX_BACKING_NAME_BYTES = 1023
const MIN_CLUSTER_BITS = 9
const MAX_CLUSTER_BITS = 21

/** Where fields are that change while an image is used. */
export const Field = {
  l1Size: 36,
  refcountTableOffset: 48,
  nbSnapshots: 60,
  incompatibleFeatures: 72,
  autoclearFeatures: 88,
} as const

export type CompressionType = 'zlib' | 'zstd'
const COMPRESSION_TYPES: readonly CompressionType[] = ['zlib', 'zstd']

export interface BitmapsExtension {
  readonly count: number
  readonly directoryBytes: number
  readonly directoryOffset: number
}

export interface Qcow2Header {
  readonly version: 2 | 3
  readonly backingFile: string | undefined
  readonly backingFormat: string | undefined
  readonly clusterBits: number
  /** Bytes of the disk that the guest sees. */
  readonly size: number
  l1Size: number
  l1TableOffset: number
  refcountTableOffset: number
  refcountTableClusters: number
  nbSnapshots: number
  snapshotsOffset: number
  dirty: boolean
  corrupt: boolean
  /** Others than those above are unknown and refused. */
  readonly lazyRefcounts: boolean
  autoclearFeatures: bigint
  readonly refcountOrder: number
  readonly compressionType: CompressionType
  readonly bitmaps: BitmapsExtension | undefined
}

export const clusterBytesOf = ({ clusterBits }: Pick<Qcow2Header, 'clusterBits'>): number => 2 ** clusterBits

/** L1 entries that a disk of so many bytes needs. */
export function l1EntriesFor(size: number, clusterBits: number): number {
  return Math.ceil(size / 2 ** (clusterBits + clusterBits - 3))
}

/**
 * @param bytes the file's first cluster, or what there is of it
 * @throws ImageFormatError, ImageFeatureError
 */
export function parseHeader(image: string, bytes: Uint8Array): Qcow2Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const refuse = (field: string, offset: number, problem: string): never => {
    throw new ImageFormatError(image, field, offset, problem)
  }
  if (bytes.length < V2_HEADER_BYTES) refuse('magic', 0, `a file of ${bytes.length} bytes is no qcow2 image`)
  if (view.getUint32(0) !== QCOW2_MAGIC) refuse('magic', 0, 'this is no qcow2 image')
  const version = view.getUint32(4)
  if (version !== 2 && version !== 3)
    throw new ImageFeatureError(image, `qcow version ${version}; supported are 2 and 3`)
  if (version === 3 && bytes.length < V3_HEADER_BYTES) refuse('header_length', 100, 'the file ends inside the header')

  const clusterBits = view.getUint32(20)
  if (clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS) {
    refuse('cluster_bits', 20, `${clusterBits}; possible are ${MIN_CLUSTER_BITS} to ${MAX_CLUSTER_BITS}`)
  }
  const clusterBytes = 2 ** clusterBits
  const aligned = (field: string, at: number): number => {
    const value = view.getBigUint64(at)
    if (value % BigInt(clusterBytes) !== 0n) refuse(field, at, `${value} is not at the start of a cluster`)
    if (value > Number.MAX_SAFE_INTEGER) refuse(field, at, `${value} is beyond what a file can have`)
    return Number(value)
  }

  if (view.getUint32(32) !== 0) throw new ImageFeatureError(image, 'the image is encrypted, which is not supported')
  const claimed = view.getBigUint64(24)
  const most = BigInt(MAX_L1_BYTES / 8) << BigInt(clusterBits + clusterBits - 3)
  if (claimed > most || claimed > BigInt(Number.MAX_SAFE_INTEGER)) {
    refuse('size', 24, `a disk of ${claimed} bytes is larger than clusters of ${clusterBytes} bytes can hold`)
  }
  const size = Number(claimed)
  const l1Size = view.getUint32(36)
  if (l1Size * 8 > MAX_L1_BYTES) refuse('l1_size', 36, `${l1Size} entries; at most ${MAX_L1_BYTES / 8} are supported`)
  const needed = l1EntriesFor(size, clusterBits)
  if (l1Size < needed) refuse('l1_size', 36, `${l1Size} entries; a disk of ${size} bytes has ${needed}`)
  const refcountTableClusters = view.getUint32(56)
  if (refcountTableClusters === 0) refuse('refcount_table_clusters', 56, 'there is no refcount table')
  if (refcountTableClusters * clusterBytes > MAX_REFCOUNT_TABLE_BYTES) {
    refuse('refcount_table_clusters', 56, `a table of more than ${MAX_REFCOUNT_TABLE_BYTES} bytes`)
  }
  const nbSnapshots = view.getUint32(60)
  if (nbSnapshots > MAX_SNAPSHOTS) refuse('nb_snapshots', 60, `${nbSnapshots}; at most ${MAX_SNAPSHOTS} are supported`)

  let incompatible = 0n
  let compatible = 0n
  let autoclearFeatures = 0n
  let refcountOrder = 4
  let headerLength = V2_HEADER_BYTES
  let compression = 0
  if (version === 3) {
    incompatible = view.getBigUint64(Field.incompatibleFeatures)
    compatible = view.getBigUint64(80)
    autoclearFeatures = view.getBigUint64(Field.autoclearFeatures)
    refcountOrder = view.getUint32(96)
    if (refcountOrder > 6) refuse('refcount_order', 96, `${refcountOrder}; possible are 0 to 6`)
    headerLength = view.getUint32(100)
    if (
      headerLength < V3_HEADER_BYTES ||
      headerLength % 8 !== 0 ||
      headerLength > Math.min(clusterBytes, bytes.length)
    ) {
      refuse('header_length', 100, `${headerLength} bytes`)
    }
    if (headerLength > 104) compression = view.getUint8(104)
  }
  for (const [bit, name] of REFUSED_FEATURES) {
    if (incompatible & BigInt(bit)) throw new ImageFeatureError(image, `the image has ${name}, which is not supported`)
  }
  const known = BigInt(INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT | INCOMPATIBLE_COMPRESSION)
  if (incompatible & ~known) {
    throw new ImageFeatureError(image, `unknown incompatible features 0x${(incompatible & ~known).toString(16)}`)
  }
  const compressionType = COMPRESSION_TYPES[compression]
  if (!compressionType) throw new ImageFeatureError(image, `unknown compression type ${compression}`)
  if ((compression !== 0) !== ((incompatible & BigInt(INCOMPATIBLE_COMPRESSION)) !== 0n)) {
    refuse('compression_type', 104, `${compressionType}, while the feature bit says otherwise`)
  }

  return {
    version,
    ...readNames(image, bytes, view, headerLength, clusterBytes),
    clusterBits,
    size,
    l1Size,
    l1TableOffset: aligned('l1_table_offset', 40),
    refcountTableOffset: aligned('refcount_table_offset', 48),
    refcountTableClusters,
    nbSnapshots,
    snapshotsOffset: aligned('snapshots_offset', 64),
    dirty: (incompatible & BigInt(INCOMPATIBLE_DIRTY)) !== 0n,
    corrupt: (incompatible & BigInt(INCOMPATIBLE_CORRUPT)) !== 0n,
    lazyRefcounts: (compatible & BigInt(COMPATIBLE_LAZY_REFCOUNTS)) !== 0n,
    autoclearFeatures,
    refcountOrder,
    compressionType,
  }
}

function readNames(image: string, bytes: Uint8Array, view: DataView, headerLength: number, clusterBytes: number) {
  let backingFormat: string | undefined
  let bitmaps: BitmapsExtension | undefined
  const text = (from: number, length: number) => new TextDecoder().decode(bytes.subarray(from, from + length))
  const end = Math.min(clusterBytes, bytes.length)
  for (let at = headerLength; at + 8 <= end; ) {
    const type = view.getUint32(at)
    const length = view.getUint32(at + 4)
    if (type === EXTENSION_END) break
    if (at + 8 + length > end) {
      throw new ImageFormatError(image, 'header extension', at, `${length} bytes reach beyond the first cluster`)
    }
    if (type === EXTENSION_BACKING_FORMAT) backingFormat = text(at + 8, length)
    if (type === EXTENSION_BITMAPS && length >= 24) {
      bitmaps = {
        count: view.getUint32(at + 8),
        directoryBytes: Number(view.getBigUint64(at + 16)),
        directoryOffset: Number(view.getBigUint64(at + 24)),
      }
    }
    at += 8 + Math.ceil(length / 8) * 8
  }
  const nameOffset = view.getBigUint64(8)
  if (nameOffset === 0n) return { backingFile: undefined, backingFormat: undefined, bitmaps }
  const nameBytes = view.getUint32(16)
  if (nameBytes > MAX_BACKING_NAME_BYTES) {
    throw new ImageFormatError(image, 'backing_file_size', 16, `${nameBytes} bytes; at most ${MAX_BACKING_NAME_BYTES}`)
  }
  if (nameOffset + BigInt(nameBytes) > BigInt(end)) {
    throw new ImageFormatError(image, 'backing_file_offset', 8, `${nameOffset} is outside of the first cluster`)
  }
  return { backingFile: text(Number(nameOffset), nameBytes), backingFormat, bitmaps }
}

/** Names of feature bits, for programs that do not know them. Type of feature, bit, name. */
const FEATURE_NAMES: readonly [type: number, bit: number, name: string][] = [
  [0, 0, 'dirty bit'],
  [0, 1, 'corrupt bit'],
  [0, 2, 'external data file'],
  [0, 3, 'compression type'],
  [0, 4, 'extended L2 entries'],
  [1, 0, 'lazy refcounts'],
  [2, 0, 'bitmaps'],
  [2, 1, 'raw external data'],
]

/** The first cluster of a new image. @throws ImageFormatError the names do not fit into it */
export function formatHeader(image: string, header: Qcow2Header): Uint8Array {
  const bytes = new Uint8Array(clusterBytesOf(header))
  const view = new DataView(bytes.buffer)
  view.setUint32(0, QCOW2_MAGIC)
  view.setUint32(4, header.version)
  view.setUint32(20, header.clusterBits)
  view.setBigUint64(24, BigInt(header.size))
  view.setUint32(Field.l1Size, header.l1Size)
  view.setBigUint64(40, BigInt(header.l1TableOffset))
  view.setBigUint64(Field.refcountTableOffset, BigInt(header.refcountTableOffset))
  view.setUint32(56, header.refcountTableClusters)
  view.setUint32(Field.nbSnapshots, header.nbSnapshots)
  view.setBigUint64(64, BigInt(header.snapshotsOffset))
  let at = V2_HEADER_BYTES
  if (header.version === 3) {
    const compressed = header.compressionType !== 'zlib'
    view.setBigUint64(Field.incompatibleFeatures, compressed ? BigInt(INCOMPATIBLE_COMPRESSION) : 0n)
    view.setBigUint64(80, header.lazyRefcounts ? BigInt(COMPATIBLE_LAZY_REFCOUNTS) : 0n)
    view.setUint32(96, header.refcountOrder)
    view.setUint32(100, HEADER_BYTES)
    view.setUint8(104, COMPRESSION_TYPES.indexOf(header.compressionType))
    at = HEADER_BYTES
  }
  const room = (length: number) => {
    if (at + length > bytes.length) {
      throw new ImageFormatError(image, 'header', at, `the names do not fit into a cluster of ${bytes.length} bytes`)
    }
  }
  const extension = (type: number, data: Uint8Array) => {
    room(8 + data.length + 16)
    view.setUint32(at, type)
    view.setUint32(at + 4, data.length)
    bytes.set(data, at + 8)
    at += 8 + Math.ceil(data.length / 8) * 8
  }
  const encoder = new TextEncoder()
  if (header.backingFormat !== undefined) extension(EXTENSION_BACKING_FORMAT, encoder.encode(header.backingFormat))
  const names = featureNames()
  // Small clusters may have no room for them; they are only good for messages.
  if (header.version === 3 && at + 8 + names.length + 8 + MAX_BACKING_NAME_BYTES < bytes.length) {
    extension(EXTENSION_FEATURE_NAMES, names)
  }
  at += 8 // the end of the extensions
  if (header.backingFile !== undefined) {
    const name = encoder.encode(header.backingFile)
    room(name.length)
    bytes.set(name, at)
    view.setBigUint64(8, BigInt(at))
    view.setUint32(16, name.length)
  }
  return bytes
}

function featureNames(): Uint8Array {
  const bytes = new Uint8Array(FEATURE_NAMES.length * 48)
  FEATURE_NAMES.forEach(([type, bit, name], index) => {
    bytes[index * 48] = type
    bytes[index * 48 + 1] = bit
    bytes.set(new TextEncoder().encode(name), index * 48 + 2)
  })
  return bytes
}

/** The eight bytes of the incompatible features as they stand in the file. */
export function incompatibleFeatures(header: Qcow2Header): Uint8Array {
  const bytes = new Uint8Array(8)
  bytes[7] =
    (header.dirty ? INCOMPATIBLE_DIRTY : 0) |
    (header.corrupt ? INCOMPATIBLE_CORRUPT : 0) |
    (header.compressionType !== 'zlib' ? INCOMPATIBLE_COMPRESSION : 0)
  return bytes
}
