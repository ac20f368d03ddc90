/**
 * Making, going back to and removing internal snapshots. Spec: the format's document, "Snapshots".
 *
 * While the counts of many clusters change, the image is marked as unfinished: whoever opens it after an interruption, stock
 * QEMU too, counts anew, and finds either the list of snapshots before or the one after.
 */
import type { NewDiskSnapshot } from '@ferryvm/core'
import { ImageIoError, ImageSnapshotError } from '../errors.ts'
import { clustersOf, isCopied, mappingAt, offsetAt, setCopied, tableView } from './entries.ts'
import { l1EntriesFor, MAX_SNAPSHOTS } from './header.ts'
import type { Qcow2Image } from './qcow2-image.ts'
import { repairRefcounts } from './repair.ts'
import { formatSnapshotTable, type SnapshotEntry, tablePlace } from './snapshot-table.ts'

/** With the image's lock held alone, as all here. */
export async function addSnapshot(image: Qcow2Image, what: NewDiskSnapshot): Promise<SnapshotEntry> {
  const { refcounts, map, file, header } = image
  const nameBytes = new TextEncoder().encode(what.name).length
  if (nameBytes === 0 || nameBytes > 0xffff)
    throw new ImageSnapshotError(file.name, 'a snapshot needs a name of 1 to 65535 bytes')
  if (image.snapshotTable.length >= MAX_SNAPSHOTS)
    throw new ImageSnapshotError(file.name, `it has ${MAX_SNAPSHOTS} snapshots already`)
  await map.flush()
  const replaced = image.snapshotTable.find((s) => s.id === what.replaces)
  const l1 = map.l1.slice()
  const entry: SnapshotEntry = {
    id: String(image.snapshotTable.reduce((most, { id }) => Math.max(most, Number(id) || 0), 0) + 1),
    name: what.name,
    dateSeconds: what.dateSeconds,
    dateNanoseconds: what.dateNanoseconds,
    vmClockNs: what.vmClockNs,
    vmStateBytes: what.vmStateBytes,
    diskBytes: header.size,
    icount: undefined,
    l1TableOffset: 0,
    l1Size: l1.length / 8,
    unknownExtra: new Uint8Array(0),
  }
  return unfinished(image, async () => {
    const clusters = Math.max(1, Math.ceil(l1.length / image.clusterBytes))
    const l1TableOffset = await refcounts.allocate(clusters)
    await file.write(l1TableOffset, l1)
    await countTree(image, l1, 1)
    await markShared(image)
    const made = { ...entry, l1TableOffset }
    await replaceTable(image, [...image.snapshotTable.filter((s) => s !== replaced), made])
    if (replaced) await dropTree(image, replaced)
    return made
  })
}

export async function applySnapshot(image: Qcow2Image, snapshot: SnapshotEntry): Promise<void> {
  const { map, file, header } = image
  if (snapshot.diskBytes !== header.size) {
    const problem = `the disk had ${snapshot.diskBytes} bytes in snapshot "${snapshot.name}" and has ${header.size} now`
    throw new ImageSnapshotError(file.name, problem)
  }
  await map.flush()
  // What lies behind the disk is the snapshot's VM state, which the disk has no use for.
  const entries = Math.min(l1EntriesFor(header.size, header.clusterBits), snapshot.l1Size)
  const wanted = new Uint8Array(map.l1.length)
  await file.read(snapshot.l1TableOffset, wanted.subarray(0, entries * 8))
  const before = map.l1.slice()
  await unfinished(image, async () => {
    await countTree(image, wanted, 1)
    for (let i = 0; i < entries; i++) setCopied(tableView(wanted), i, false)
    await file.write(header.l1TableOffset, wanted)
    map.adoptL1(wanted)
    await file.flush()
    await countTree(image, before, -1)
    await refreshCopied(image)
  })
}

export async function removeSnapshot(image: Qcow2Image, snapshot: SnapshotEntry): Promise<void> {
  await image.map.flush()
  await unfinished(image, async () => {
    await replaceTable(
      image,
      image.snapshotTable.filter((s) => s !== snapshot),
    )
    await dropTree(image, snapshot)
  })
}

/** Its clusters are no longer in the list, and lose one of their uses. */
async function dropTree(image: Qcow2Image, snapshot: SnapshotEntry): Promise<void> {
  const l1 = new Uint8Array(snapshot.l1Size * 8)
  await image.file.read(snapshot.l1TableOffset, l1)
  await countTree(image, l1, -1)
  const clusters = Math.max(1, Math.ceil(l1.length / image.clusterBytes))
  await image.refcounts.add(snapshot.l1TableOffset / image.clusterBytes, clusters, -1)
  await refreshCopied(image)
}

/** When it fails, what the list of snapshots says holds, and everything is counted anew. */
async function unfinished<T>(image: Qcow2Image, change: () => Promise<T>): Promise<T> {
  await image.setDirty(true)
  try {
    const result = await change()
    await image.setDirty(false)
    return result
  } catch (error) {
    await repairRefcounts(image).catch((cause: unknown) => {
      // It stays marked: the next one who opens it counts.
      throw new ImageIoError(
        image.file.name,
        'go back to what was',
        0,
        new AggregateError([error, cause], String(error)),
      )
    })
    throw error
  }
}

/** The whole list, in new clusters; the old one's are free afterwards. */
async function replaceTable(image: Qcow2Image, entries: readonly SnapshotEntry[]): Promise<void> {
  const { file, header, refcounts, clusterBytes } = image
  const old = { offset: header.snapshotsOffset, bytes: formatSnapshotTable(image.snapshotTable).length }
  let offset = 0
  if (entries.length > 0) {
    const bytes = formatSnapshotTable(entries)
    offset = await refcounts.allocate(Math.ceil(bytes.length / clusterBytes))
    await file.write(offset, bytes)
  }
  await file.flush()
  const place = tablePlace(entries.length, offset)
  await file.write(place.at, place.bytes)
  await file.flush()
  header.nbSnapshots = entries.length
  header.snapshotsOffset = offset
  image.snapshotTable = entries
  if (old.bytes > 0) await refcounts.add(old.offset / clusterBytes, Math.ceil(old.bytes / clusterBytes), -1)
}

/** Adds `delta` to the counts of everything that an L1 table reaches, not of the table itself. */
async function countTree(image: Qcow2Image, l1: Uint8Array, delta: 1 | -1): Promise<void> {
  const { file, refcounts, clusterBytes, header } = image
  const view = tableView(l1)
  let run = { first: 0, count: 0 }
  const count = async (first: number, clusters: number) => {
    if (first === run.first + run.count) run.count += clusters
    else {
      if (run.count > 0) await refcounts.add(run.first, run.count, delta)
      run = { first, count: clusters }
    }
  }
  const bytes = new Uint8Array(clusterBytes)
  for (let i = 0; i < l1.length / 8; i++) {
    const offset = offsetAt(view, i)
    if (offset === 0) continue
    await file.read(offset, bytes)
    for (let j = 0; j < clusterBytes / 8; j++) {
      const mapping = mappingAt(file.name, tableView(bytes), j, header.clusterBits, header.version, offset)
      const clusters = clustersOf(mapping, clusterBytes)
      if (clusters) await count(clusters.first, clusters.count)
    }
    await count(offset / clusterBytes, 1)
  }
  if (run.count > 0) await refcounts.add(run.first, run.count, delta)
}

/** Nothing that the disk uses is its own any more. */
async function markShared(image: Qcow2Image): Promise<void> {
  await rewriteCopied(image, () => false)
}

/** The disk's own is what is counted once. */
async function refreshCopied(image: Qcow2Image): Promise<void> {
  await rewriteCopied(image, async (cluster) => (await image.refcounts.get(cluster)) === 1)
}

async function rewriteCopied(image: Qcow2Image, own: (cluster: number) => boolean | Promise<boolean>): Promise<void> {
  const { file, map, clusterBytes, header } = image
  const l1 = map.l1.slice()
  const view = tableView(l1)
  const bytes = new Uint8Array(clusterBytes)
  const table = tableView(bytes)
  for (let i = 0; i < l1.length / 8; i++) {
    const offset = offsetAt(view, i)
    if (offset === 0) continue
    setCopied(view, i, await own(offset / clusterBytes))
    await file.read(offset, bytes)
    let changed = false
    for (let j = 0; j < clusterBytes / 8; j++) {
      const mapping = mappingAt(file.name, table, j, header.clusterBits, header.version, offset)
      if ((mapping.type !== 'data' && mapping.type !== 'zero') || mapping.host === 0) continue
      const copied = await own(mapping.host / clusterBytes)
      if (copied === isCopied(table, j)) continue
      setCopied(table, j, copied)
      changed = true
    }
    if (changed) await file.write(offset, bytes)
  }
  await file.write(header.l1TableOffset, l1)
  map.adoptL1(l1)
}
