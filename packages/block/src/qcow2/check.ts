/** Looks whether a qcow2 image fits together: what every cluster is counted as, and how often it is used. */
import { ImageCorruptError, ImageFormatError } from '../errors.ts'
import { clustersOf, isCopied, mappingAt, offsetAt, tableView } from './entries.ts'
import type { Qcow2Header } from './header.ts'
import type { Qcow2Image } from './qcow2-image.ts'
import { formatSnapshotTable } from './snapshot-table.ts'

/** Beyond this an image's clusters are not counted: 2^28 counts are 1 GiB. */
const MAX_CLUSTERS = 2 ** 28
/** Problems that are described one by one. */
const MAX_MESSAGES = 100

export interface Qcow2CheckResult {
  /** Counts that are too low, or tables that are wrong: writing would destroy something. */
  corruptions: number
  /** Clusters that are counted more often than used: only space is lost. */
  leaks: number
  /** The first hundred, for people. */
  readonly messages: string[]
  /** Behind the last cluster in use, bytes. */
  imageEndOffset: number
  /** Of the disk. */
  totalClusters: number
  allocatedClusters: number
  compressedClusters: number
  /** Of the allocated ones, those that do not follow the one before them in the file. */
  fragmentedClusters: number
}

/** How often each cluster of the file is used, and what is wrong with the tables that say so. */
export interface ClusterUses {
  readonly counts: Uint32Array
  readonly result: Qcow2CheckResult
  /** Only the disk's mark of its own clusters is wrong there. */
  wrongMarks: number
}

export async function checkQcow2(image: Qcow2Image): Promise<Qcow2CheckResult> {
  return image.lock.exclusive(async () => {
    if (!image.readOnly) await image.map.flush()
    const uses = await countUses(image)
    await compareCounts(image, uses, async () => {})
    await checkMarks(image, uses)
    return uses.result
  })
}

/** @param wrong is told of every count that is not what it should be */
export async function compareCounts(
  image: Qcow2Image,
  { counts, result }: ClusterUses,
  wrong: (cluster: number, count: number, uses: number) => Promise<void>,
): Promise<void> {
  let last = -1
  for (let cluster = 0; cluster < counts.length; cluster++) {
    const uses = counts[cluster]!
    let count: number
    try {
      count = await image.refcounts.get(cluster)
    } catch (error) {
      if (!(error instanceof ImageCorruptError)) throw error
      report(result, 'corruptions', error.message)
      // The whole block cannot be read: one message says it.
      cluster = (Math.floor(cluster / image.refcounts.perBlock) + 1) * image.refcounts.perBlock - 1
      continue
    }
    if (uses > 0 || count > 0) last = cluster
    if (count === uses) continue
    const where = `cluster ${cluster} (offset ${cluster * image.clusterBytes})`
    if (count < uses) report(result, 'corruptions', `${where}: counted ${count} times, used ${uses} times`)
    else report(result, 'leaks', `${where}: counted ${count} times, used ${uses} times: it leaks`)
    await wrong(cluster, count, uses)
  }
  result.imageEndOffset = (last + 1) * image.clusterBytes
}

function report(result: Qcow2CheckResult, kind: 'corruptions' | 'leaks', message: string): void {
  result[kind]++
  if (result.messages.length < MAX_MESSAGES) result.messages.push(message)
}

/** @throws ImageFormatError there are more clusters than can be counted */
export async function countUses(image: Qcow2Image): Promise<ClusterUses> {
  const { file, header, refcounts, clusterBytes } = image
  const inFile = Math.ceil((await file.size()) / clusterBytes)
  // What is counted may lie behind the end, where the file was cut or not yet written.
  const counted = (refcounts.blockOffsets.findLastIndex((offset) => offset !== 0) + 1) * refcounts.perBlock
  const clusters = Math.max(inFile, Math.min(counted, inFile + refcounts.perBlock))
  if (clusters > MAX_CLUSTERS) {
    throw new ImageFormatError(file.name, 'file size', 0, `${clusters} clusters are more than can be counted`)
  }
  const result: Qcow2CheckResult = {
    corruptions: 0,
    leaks: 0,
    messages: [],
    imageEndOffset: 0,
    totalClusters: Math.ceil(header.size / clusterBytes),
    allocatedClusters: 0,
    compressedClusters: 0,
    fragmentedClusters: 0,
  }
  const uses: ClusterUses = { counts: new Uint32Array(clusters), result, wrongMarks: 0 }
  const use = (first: number, count: number, what: string) => {
    for (let cluster = first; cluster < first + count; cluster++) {
      if (cluster >= clusters) {
        report(result, 'corruptions', `${what}: at offset ${cluster * clusterBytes}, behind the end of the file`)
        return
      }
      uses.counts[cluster]!++
    }
  }
  const useBytes = (offset: number, bytes: number, what: string) => {
    if (bytes > 0)
      use(Math.floor(offset / clusterBytes), Math.ceil(((offset % clusterBytes) + bytes) / clusterBytes), what)
  }
  use(0, 1, 'header')
  useBytes(header.l1TableOffset, header.l1Size * 8, 'L1 table')
  useBytes(header.refcountTableOffset, header.refcountTableClusters * clusterBytes, 'refcount table')
  for (const [index, offset] of refcounts.blockOffsets.entries()) {
    if (offset === 0) continue
    if (offset % clusterBytes !== 0)
      report(result, 'corruptions', `refcount block ${index}: at ${offset}, inside a cluster`)
    else use(offset / clusterBytes, 1, `refcount block ${index}`)
  }
  useBytes(header.snapshotsOffset, formatSnapshotTable(image.snapshotTable).length, 'snapshot table')
  const walk = { image, use, result }
  await useTree(walk, image.map.l1, true)
  for (const { name, l1TableOffset, l1Size } of image.snapshotTable) {
    useBytes(l1TableOffset, Math.max(1, l1Size * 8), `L1 table of snapshot "${name}"`)
    const l1 = new Uint8Array(l1Size * 8)
    await file.read(l1TableOffset, l1)
    await useTree(walk, l1, false)
  }
  if (header.bitmaps) await useBitmaps(image, header.bitmaps, useBytes, use)
  return uses
}

interface Walk {
  readonly image: Qcow2Image
  readonly use: (first: number, count: number, what: string) => void
  readonly result: Qcow2CheckResult
}

async function useTree({ image, use, result }: Walk, l1: Uint8Array, active: boolean): Promise<void> {
  const { file, header, clusterBytes } = image
  const end = await file.size()
  const diskClusters = Math.ceil(header.size / clusterBytes)
  const bytes = new Uint8Array(clusterBytes)
  const table = tableView(bytes)
  let expected = 0
  for (let i = 0; i < l1.length / 8; i++) {
    const offset = offsetAt(tableView(l1), i)
    if (offset === 0) continue
    if (offset % clusterBytes !== 0 || offset >= end) {
      report(result, 'corruptions', `L1 entry ${i}: an L2 table at ${offset}`)
      continue
    }
    use(offset / clusterBytes, 1, `L2 table ${i}`)
    await file.read(offset, bytes)
    for (let j = 0; j < clusterBytes / 8; j++) {
      let mapping: ReturnType<typeof mappingAt>
      try {
        mapping = mappingAt(file.name, table, j, header.clusterBits, header.version, offset)
      } catch (error) {
        if (!(error instanceof ImageCorruptError)) throw error
        report(result, 'corruptions', error.message)
        continue
      }
      const clusters = clustersOf(mapping, clusterBytes)
      if (!clusters) continue
      use(clusters.first, clusters.count, `L2 table ${i}, entry ${j}`)
      if (!active || i * (clusterBytes / 8) + j >= diskClusters) continue
      result.allocatedClusters++
      if (mapping.type === 'compressed') {
        result.compressedClusters++
        // Compressed ones always count as fragments: they are read one by one.
        result.fragmentedClusters++
      } else if (mapping.type !== 'unallocated') {
        if (expected !== 0 && mapping.host !== expected) result.fragmentedClusters++
        expected = mapping.host + clusterBytes
      }
    }
  }
}

/** Spec: the format's document, "Bitmaps". We do not use them, but their clusters are not lost. */
async function useBitmaps(
  { file, header }: Qcow2Image,
  { count, directoryBytes, directoryOffset }: NonNullable<Qcow2Header['bitmaps']>,
  useBytes: (offset: number, bytes: number, what: string) => void,
  use: (first: number, count: number, what: string) => void,
): Promise<void> {
  const end = await file.size()
  if (directoryOffset + directoryBytes > end) return
  useBytes(directoryOffset, directoryBytes, 'bitmap directory')
  const clusterBytes = 2 ** header.clusterBits
  for (let at = directoryOffset, i = 0; i < count && at + 24 <= directoryOffset + directoryBytes; i++) {
    const entry = new Uint8Array(24)
    await file.read(at, entry)
    const view = tableView(entry)
    const tableOffset = Number(view.getBigUint64(0))
    const tableBytes = view.getUint32(8) * 8
    if (tableOffset + tableBytes <= end) {
      useBytes(tableOffset, tableBytes, `table of bitmap ${i}`)
      const table = new Uint8Array(tableBytes)
      await file.read(tableOffset, table)
      for (let j = 0; j < tableBytes / 8; j++) {
        const offset = offsetAt(tableView(table), j)
        if (offset !== 0) use(Math.floor(offset / clusterBytes), 1, `bitmap ${i}`)
      }
    }
    at += Math.ceil((24 + view.getUint16(18) + view.getUint32(20)) / 8) * 8
  }
}

/** The disk's tables say of each cluster whether it is the disk's own: whether it is used once. */
async function checkMarks(image: Qcow2Image, uses: ClusterUses): Promise<void> {
  const { file, map, header, clusterBytes } = image
  const l1 = tableView(map.l1)
  const bytes = new Uint8Array(clusterBytes)
  const wrong = (host: number, copied: boolean, what: string) => {
    const once = uses.counts[host / clusterBytes] === 1
    if (once === copied) return
    uses.wrongMarks++
    report(
      uses.result,
      'corruptions',
      `${what}: marked as ${copied ? 'its own' : 'shared'}, and is ${once ? '' : 'not '}used once`,
    )
  }
  for (let i = 0; i < map.l1Entries; i++) {
    const offset = offsetAt(l1, i)
    if (offset === 0 || offset % clusterBytes !== 0 || offset / clusterBytes >= uses.counts.length) continue
    wrong(offset, isCopied(l1, i), `L1 entry ${i}`)
    await file.read(offset, bytes)
    for (let j = 0; j < clusterBytes / 8; j++) {
      const host = offsetAt(tableView(bytes), j)
      // Those that are wrong in themselves were reported where they were found.
      if (host % clusterBytes !== 0 || host / clusterBytes >= uses.counts.length) continue
      const mapping = mappingAt(file.name, tableView(bytes), j, header.clusterBits, header.version, offset)
      if ((mapping.type !== 'data' && mapping.type !== 'zero') || mapping.host === 0) continue
      wrong(mapping.host, mapping.copied, `L2 table ${i}, entry ${j}`)
    }
  }
}
