/**
 * A qcow2 image as a disk: versions 2 and 3, backing files, compressed clusters, internal snapshots with VM state.
 * Spec: the format's interoperability document. Requests on clusters that are the disk's own run side by side; those that
 * allocate run one after the other.
 */
import type { BlockBackend, DiskRun, DiskSnapshots } from '@ferryvm/core'
import type { ClusterCompression } from '../cluster-compression.ts'
import { ImageCorruptError, ImageFeatureError, ImageSnapshotError } from '../errors.ts'
import type { ImageFile } from '../image-file.ts'
import { SharedLock } from '../shared-lock.ts'
import { ClusterMap } from './cluster-map.ts'
import { clustersOf, type Mapping, setCompressed, setEntry, UNALLOCATED } from './entries.ts'
import {
  AUTOCLEAR_BITMAPS,
  clusterBytesOf,
  Field,
  HEADER_BYTES,
  incompatibleFeatures,
  l1EntriesFor,
  parseHeader,
  type Qcow2Header,
} from './header.ts'
import { Refcounts } from './refcounts.ts'
import { repairRefcounts } from './repair.ts'
import { loadSnapshotTable, type SnapshotEntry } from './snapshot-table.ts'
import { addSnapshot, applySnapshot, removeSnapshot } from './snapshots.ts'

/** The first cluster is never longer. */
const MAX_HEADER_BYTES = 2 << 20
/** Clusters that one request allocates at a time, bytes. */
const MAX_RUN_BYTES = 8 << 20

export interface Qcow2Options {
  /** What is below it, if its header names a backing file; without it what is not in the image reads as zeros. */
  readonly backing?: BlockBackend
  /** Without it compressed clusters cannot be read, nor written. */
  readonly compression?: ClusterCompression
  /** Opened although it is marked as damaged, and left so if its counts are unfinished: for a check or repair. */
  readonly asItIs?: boolean
}

export class Qcow2Image implements BlockBackend {
  readonly file: ImageFile
  readonly header: Qcow2Header
  readonly clusterBytes: number
  readonly capacityBytes: number
  readonly readOnly: boolean
  readonly refcounts: Refcounts
  readonly map: ClusterMap
  readonly lock = new SharedLock()
  snapshotTable: readonly SnapshotEntry[]
  readonly #backing: BlockBackend | undefined
  readonly #compression: ClusterCompression | undefined
  #decompressed: { readonly host: number; readonly bytes: Uint8Array } | undefined
  /** Behind the last compressed cluster that was written. */
  #compressedEnd: number | undefined
  #featuresCleared = false

  private constructor(
    file: ImageFile,
    header: Qcow2Header,
    tables: { readonly refcounts: Refcounts; readonly map: ClusterMap; readonly snapshots: readonly SnapshotEntry[] },
    { backing, compression }: Qcow2Options,
  ) {
    this.file = file
    this.header = header
    this.clusterBytes = clusterBytesOf(header)
    this.capacityBytes = header.size - (header.size % 512)
    this.readOnly = file.readOnly
    this.refcounts = tables.refcounts
    this.map = tables.map
    this.snapshotTable = tables.snapshots
    this.#backing = backing
    this.#compression = compression
  }

  /**
   * An image that was not closed in order has its counts put right first, if it may be written to.
   * @throws ImageFormatError, ImageFeatureError, ImageCorruptError, ImageIoError
   */
  static async open(file: ImageFile, options: Qcow2Options = {}): Promise<Qcow2Image> {
    const header = await readHeader(file)
    if (header.corrupt && !file.readOnly && !options.asItIs) {
      throw new ImageCorruptError(
        file.name,
        'header',
        Field.incompatibleFeatures,
        'it is marked as damaged; repair it first (emu img check -r all)',
      )
    }
    const refcounts = await Refcounts.open(file, header)
    const map = await ClusterMap.open(file, header, refcounts)
    const snapshots = await loadSnapshotTable(file, header)
    const image = new Qcow2Image(file, header, { refcounts, map, snapshots }, options)
    if (header.dirty && !image.readOnly && !options.asItIs) await repairRefcounts(image)
    return image
  }

  /** Where VM state begins, in bytes of the disk: behind what the guest can reach. */
  get vmStateOffset(): number {
    const { size, clusterBits } = this.header
    return l1EntriesFor(size, clusterBits) * this.map.perTable * this.clusterBytes
  }

  read(offset: number, into: Uint8Array): Promise<void> {
    return this.lock.shared(() => this.readNow(offset, into))
  }

  runAt(offset: number, bytes: number): Promise<DiskRun> {
    return this.lock.shared(async () => {
      const inside = offset % this.clusterBytes
      const wanted = Math.ceil((inside + bytes) / this.clusterBytes)
      const { mapping, count } = await this.map.run((offset - inside) / this.clusterBytes, wanted)
      const below = this.#backing ? 'backing' : 'zero'
      const kind = mapping.type === 'unallocated' ? below : mapping.type === 'zero' ? 'zero' : 'data'
      return { bytes: Math.min(bytes, count * this.clusterBytes - inside), kind }
    })
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#mustBeWritable()
    if (await this.lock.shared(() => this.#writeInPlace(offset, from))) return
    await this.lock.exclusive(() => this.writeNow(offset, from))
  }

  flush(): Promise<void> {
    return this.lock.exclusive(() => this.map.flush())
  }

  writeZeroes(offset: number, bytes: number): Promise<void> {
    return this.#erase(offset, bytes, true)
  }

  /** Whole clusters only. */
  discard(offset: number, bytes: number): Promise<void> {
    return this.#erase(offset, bytes, false)
  }

  async close(): Promise<void> {
    try {
      if (!this.readOnly) await this.flush()
    } finally {
      try {
        await this.#backing?.close?.()
      } finally {
        await this.file.close()
      }
    }
  }

  /**
   * One whole cluster of the disk, compressed if that makes it shorter. The cluster must not have been written before.
   * @param from a cluster's bytes, at the end of the disk what there is
   */
  async writeCompressed(offset: number, from: Uint8Array): Promise<void> {
    this.#mustBeWritable()
    const cluster = new Uint8Array(this.clusterBytes)
    cluster.set(from)
    if (cluster.every((byte) => byte === 0)) return this.writeZeroes(offset, from.length)
    const packed = await this.#codec().compress(this.header.compressionType, cluster)
    if (packed.length >= this.clusterBytes - 512) return this.write(offset, from)
    await this.lock.exclusive(() => this.#putCompressed(offset / this.clusterBytes, packed))
  }

  /**
   * Snapshots of the disk as it is, with what was written as VM state, which lies behind the disk.
   * @throws ImageSnapshotError there is no such one, or its disk had another size @throws ImageIoError nothing has changed then
   */
  readonly snapshots: DiskSnapshots = {
    list: () => this.snapshotTable,
    writeVmState: (position, from) => this.#changing(() => this.writeNow(this.vmStateOffset + position, from)),
    discardVmState: () => this.#changing(() => this.#discardVmState()),
    openVmState: (id) => this.#openVmState(id),
    create: (what) => this.#changing(() => addSnapshot(this, what)),
    apply: (id) => this.#changing(() => applySnapshot(this, this.#snapshot(id))),
    delete: (id) => this.#changing(() => removeSnapshot(this, this.#snapshot(id))),
  }

  async #changing<T>(run: () => Promise<T>): Promise<T> {
    this.#mustBeWritable()
    return this.lock.exclusive(run)
  }

  #snapshot(id: string): SnapshotEntry {
    const found = this.snapshotTable.find((s) => s.id === id)
    if (!found) throw new ImageSnapshotError(this.file.name, `there is no snapshot with the id ${id}`)
    return found
  }

  async #discardVmState(): Promise<void> {
    const first = l1EntriesFor(this.header.size, this.header.clusterBits)
    for (let l1Index = first; l1Index < this.map.l1Entries; l1Index++) {
      if (!(await this.map.table(l1Index))) continue
      await this.#eraseClusters(l1Index * this.map.perTable, this.map.perTable, false)
    }
    await this.map.flush()
  }

  async #openVmState(id: string): Promise<(position: number, into: Uint8Array) => Promise<void>> {
    const { l1Size, l1TableOffset, diskBytes } = this.#snapshot(id)
    const offset = l1EntriesFor(diskBytes, this.header.clusterBits) * this.map.perTable * this.clusterBytes
    const past = await ClusterMap.open(this.file, { ...this.header, l1Size, l1TableOffset }, this.refcounts)
    return (position, into) => this.lock.shared(() => this.#readFrom(past, offset + position, into))
  }

  #mustBeWritable(): void {
    if (this.readOnly) throw new ImageFeatureError(this.file.name, 'the image is open only for reading')
  }

  #codec(): ClusterCompression {
    if (this.#compression) return this.#compression
    throw new ImageFeatureError(this.file.name, 'there is no decompressor for its compressed clusters')
  }

  /** With the lock held, as the other …Now. */
  readNow(offset: number, into: Uint8Array): Promise<void> {
    return this.#readFrom(this.map, offset, into)
  }

  async #readFrom(map: ClusterMap, offset: number, into: Uint8Array): Promise<void> {
    for (let done = 0; done < into.length; ) {
      const at = offset + done
      const inside = at % this.clusterBytes
      const cluster = (at - inside) / this.clusterBytes
      const wanted = Math.ceil((inside + into.length - done) / this.clusterBytes)
      const { mapping, count } = await map.run(cluster, wanted)
      const part = into.subarray(done, done + Math.min(into.length - done, count * this.clusterBytes - inside))
      await this.#readMapping(mapping, at, inside, part)
      done += part.length
    }
  }

  async #readMapping(mapping: Mapping, at: number, inside: number, into: Uint8Array): Promise<void> {
    switch (mapping.type) {
      case 'data':
        await this.file.read(mapping.host + inside, into)
        return
      case 'zero':
        into.fill(0)
        return
      case 'compressed':
        into.set((await this.#decompress(mapping)).subarray(inside, inside + into.length))
        return
      case 'unallocated': {
        // What is behind the end of a shorter backing file, VM state too, is zero.
        const below = Math.max(0, Math.min(into.length, (this.#backing?.capacityBytes ?? 0) - at))
        if (below > 0) await this.#backing!.read(at, into.subarray(0, below))
        into.fill(0, below)
      }
    }
  }

  async #decompress({ host, bytes }: Mapping & { type: 'compressed' }): Promise<Uint8Array> {
    const last = this.#decompressed
    if (last?.host === host) return last.bytes
    const packed = new Uint8Array(bytes)
    await this.file.read(host, packed)
    const cluster = await this.#codec()
      .decompress(this.header.compressionType, packed, this.clusterBytes)
      .catch((cause: Error) => {
        if (cause instanceof ImageFeatureError) throw cause
        throw new ImageCorruptError(this.file.name, 'compressed cluster', host, cause.message)
      })
    this.#decompressed = { host, bytes: cluster }
    return cluster
  }

  /** @returns whether all of it could be written where the disk's own clusters are */
  async #writeInPlace(offset: number, from: Uint8Array): Promise<boolean> {
    if (!this.#featuresCleared) return false
    const parts: { host: number; bytes: Uint8Array }[] = []
    for (let done = 0; done < from.length; ) {
      const inside = (offset + done) % this.clusterBytes
      const cluster = (offset + done - inside) / this.clusterBytes
      const { mapping, count } = await this.map.run(
        cluster,
        Math.ceil((inside + from.length - done) / this.clusterBytes),
      )
      if (mapping.type !== 'data' || !mapping.copied) return false
      const bytes = from.subarray(done, done + Math.min(from.length - done, count * this.clusterBytes - inside))
      parts.push({ host: mapping.host + inside, bytes })
      done += bytes.length
    }
    for (const { host, bytes } of parts) await this.file.write(host, bytes)
    return true
  }

  async writeNow(offset: number, from: Uint8Array): Promise<void> {
    await this.#clearFeatures()
    for (let done = 0; done < from.length; ) {
      const inside = (offset + done) % this.clusterBytes
      const cluster = (offset + done - inside) / this.clusterBytes
      const wanted = Math.ceil((inside + Math.min(from.length - done, MAX_RUN_BYTES)) / this.clusterBytes)
      const { mapping, count } = await this.map.run(cluster, wanted)
      const own = mapping.type === 'data' && mapping.copied
      const part = from.subarray(done, done + Math.min(from.length - done, count * this.clusterBytes - inside))
      if (own) await this.file.write(mapping.host + inside, part)
      else await this.#writeToNew(cluster, count, inside, part)
      done += part.length
    }
    if (this.map.full) await this.map.flush()
  }

  /** Into clusters of its own, together with what was around it. `count` clusters of one L2 table are touched. */
  async #writeToNew(cluster: number, count: number, inside: number, from: Uint8Array): Promise<void> {
    const end = inside + from.length
    const bytes = count * this.clusterBytes
    let data = from
    if (inside > 0 || end < bytes) {
      data = new Uint8Array(bytes)
      if (inside > 0) await this.readNow(cluster * this.clusterBytes, data.subarray(0, inside))
      if (end < bytes) await this.readNow(cluster * this.clusterBytes + end, data.subarray(end))
      data.set(from, inside)
    }
    const table = await this.map.writableTable(Math.floor(cluster / this.map.perTable))
    const host = await this.refcounts.allocate(count)
    try {
      await this.file.write(host, data)
    } catch (error) {
      await this.refcounts.add(host / this.clusterBytes, count, -1)
      throw error
    }
    for (let i = 0; i < count; i++) {
      const clusters = clustersOf(await this.map.mapping(cluster + i), this.clusterBytes)
      if (clusters) this.map.release(clusters)
      setEntry(table.view, (cluster + i) % this.map.perTable, host + i * this.clusterBytes, true)
    }
  }

  async #putCompressed(cluster: number, packed: Uint8Array): Promise<void> {
    await this.#clearFeatures()
    const table = await this.map.writableTable(Math.floor(cluster / this.map.perTable))
    let host = this.#compressedEnd
    // Several share a cluster, which each of them counts once.
    if (
      host !== undefined &&
      (host % this.clusterBytes) + packed.length <= this.clusterBytes &&
      host % this.clusterBytes > 0
    ) {
      await this.refcounts.add(Math.floor(host / this.clusterBytes), 1, 1)
    } else host = await this.refcounts.allocate(1)
    this.#compressedEnd = host + packed.length
    // Readers take whole sectors.
    const padded = new Uint8Array(Math.ceil((host + packed.length) / 512) * 512 - host)
    padded.set(packed)
    await this.file.write(host, padded)
    const clusters = clustersOf(await this.map.mapping(cluster), this.clusterBytes)
    if (clusters) this.map.release(clusters)
    setCompressed(table.view, cluster % this.map.perTable, host, packed.length, this.header.clusterBits)
    if (this.map.full) await this.map.flush()
  }

  async #erase(offset: number, bytes: number, everything: boolean): Promise<void> {
    this.#mustBeWritable()
    const first = Math.ceil(offset / this.clusterBytes)
    // The disk may end inside its last cluster.
    const end = offset + bytes
    const last = end >= this.header.size ? Math.ceil(end / this.clusterBytes) : Math.floor(end / this.clusterBytes)
    await this.lock.exclusive(async () => {
      if (first >= last) {
        if (everything) await this.writeNow(offset, new Uint8Array(bytes))
        return
      }
      await this.#clearFeatures()
      const start = first * this.clusterBytes
      if (everything && start > offset) await this.writeNow(offset, new Uint8Array(start - offset))
      const { perTable } = this.map
      for (let at = first; at < last; ) {
        const count = Math.min(last - at, perTable - (at % perTable))
        await this.#eraseClusters(at, count, true)
        at += count
        if (this.map.full) await this.map.flush()
      }
      if (everything && end > last * this.clusterBytes) {
        await this.writeNow(last * this.clusterBytes, new Uint8Array(end - last * this.clusterBytes))
      }
    })
  }

  /** Of one L2 table. `asZero`: they read as zeros afterwards, and not as what the backing file has. */
  async #eraseClusters(cluster: number, count: number, asZero: boolean): Promise<void> {
    const hidden = asZero && this.#backing !== undefined
    const l1Index = Math.floor(cluster / this.map.perTable)
    if (!hidden && !(await this.map.table(l1Index))) return
    if (hidden && this.header.version === 2) {
      await this.writeNow(cluster * this.clusterBytes, new Uint8Array(count * this.clusterBytes))
      return
    }
    const table = await this.map.writableTable(l1Index)
    for (let i = 0; i < count; i++) {
      const mapping = await this.map.mapping(cluster + i)
      const clusters = clustersOf(mapping, this.clusterBytes)
      if (clusters) this.map.release(clusters)
      if (mapping === UNALLOCATED && !hidden) continue
      setEntry(table.view, (cluster + i) % this.map.perTable, 0, false, hidden)
    }
  }

  /** What others keep up to date about the image, dirty bitmaps say, is no longer true once we have changed it. */
  async #clearFeatures(): Promise<void> {
    if (this.#featuresCleared) return
    this.#featuresCleared = true
    if (this.header.version === 2 || this.header.autoclearFeatures === 0n) return
    this.header.autoclearFeatures = 0n
    await this.file.write(Field.autoclearFeatures, new Uint8Array(8))
    await this.file.flush()
  }

  /** Says in the file whether its counts can be relied on; version 2 has no word for it. */
  async setDirty(dirty: boolean): Promise<void> {
    await this.file.flush()
    this.header.dirty = dirty
    if (this.header.version === 2) return
    await this.file.write(Field.incompatibleFeatures, incompatibleFeatures(this.header))
    await this.file.flush()
  }

  /** Whether dirty bitmaps in the image are as they should be. */
  get bitmapsValid(): boolean {
    return (this.header.autoclearFeatures & BigInt(AUTOCLEAR_BITMAPS)) !== 0n
  }
}

export async function readHeader(file: ImageFile): Promise<Qcow2Header> {
  const size = await file.size()
  const start = new Uint8Array(Math.min(size, HEADER_BYTES))
  await file.read(0, start)
  const clusterBits = start.length < 24 ? 0 : new DataView(start.buffer).getUint32(20)
  const bytes = new Uint8Array(Math.min(size, MAX_HEADER_BYTES, clusterBits < 22 ? 2 ** clusterBits : HEADER_BYTES))
  if (bytes.length > start.length) await file.read(0, bytes)
  return parseHeader(file.name, bytes.length > start.length ? bytes : start)
}
