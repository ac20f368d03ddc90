/**
 * Which cluster of the image holds which one of the disk: the L1 table and its L2 tables.
 *
 * Changes are made in memory and brought to the file by {@link ClusterMap.flush}, in an order that is safe at every moment:
 * counts, data and new tables first; then, when these are stable, what points at them; then the counts of what nothing points at.
 */
import { ImageCorruptError, ImageFormatError } from '../errors.ts'
import type { ImageFile } from '../image-file.ts'
import { isCopied, type Mapping, mappingAt, offsetAt, setEntry, tableView, UNALLOCATED } from './entries.ts'
import { clusterBytesOf, Field, MAX_L1_BYTES, type Qcow2Header } from './header.ts'
import type { Refcounts } from './refcounts.ts'

/** L2 tables kept in memory, bytes. */
const CACHE_BYTES = 16 << 20
/** So many clusters wait for a flush at most. */
const MAX_DEFERRED = 4096

export interface L2Table {
  readonly bytes: Uint8Array
  readonly view: DataView
  /** In the file. */
  readonly offset: number
  dirty: boolean
  /** Nothing in the file points at it yet. */
  fresh: boolean
}

export class ClusterMap {
  readonly clusterBytes: number
  /** Entries of an L2 table. */
  readonly perTable: number
  readonly #file: ImageFile
  readonly #header: Qcow2Header
  readonly #refcounts: Refcounts
  #l1: Uint8Array
  #l1View: DataView
  #l1Dirty: { from: number; to: number } | undefined
  /** By offset in the file; the least recently used first. */
  readonly #tables = new Map<number, L2Table>()
  readonly #loading = new Map<number, Promise<L2Table>>()
  /** Clusters that lose one of their uses once the file no longer says otherwise. */
  #deferred: { readonly first: number; readonly count: number }[] = []

  private constructor(file: ImageFile, header: Qcow2Header, refcounts: Refcounts, l1: Uint8Array) {
    this.#file = file
    this.#header = header
    this.#refcounts = refcounts
    this.clusterBytes = clusterBytesOf(header)
    this.perTable = this.clusterBytes / 8
    this.#l1 = l1
    this.#l1View = tableView(l1)
  }

  static async open(file: ImageFile, header: Qcow2Header, refcounts: Refcounts): Promise<ClusterMap> {
    const size = await file.size()
    if (header.l1Size > 0 && header.l1TableOffset + header.l1Size * 8 > Math.ceil(size / 512) * 512) {
      throw new ImageFormatError(file.name, 'l1_table_offset', 40, 'the table is behind the end of the file')
    }
    const l1 = new Uint8Array(header.l1Size * 8)
    await file.read(header.l1TableOffset, l1)
    return new ClusterMap(file, header, refcounts, l1)
  }

  /** The L1 table as it stands in the file; after {@link flush}. */
  get l1(): Uint8Array {
    return this.#l1
  }

  get l1Entries(): number {
    return this.#l1.length / 8
  }

  /** Whether a flush would change the file. */
  get dirty(): boolean {
    return (
      this.#l1Dirty !== undefined ||
      this.#deferred.length > 0 ||
      [...this.#tables.values()].some((t) => t.dirty || t.fresh)
    )
  }

  /** @returns the mapping of one cluster of the disk, and how many behind it continue it in the file (data) or are alike */
  async run(cluster: number, most: number): Promise<{ mapping: Mapping; count: number }> {
    const index = cluster % this.perTable
    const table = await this.table(Math.floor(cluster / this.perTable))
    most = Math.min(most, this.perTable - index)
    if (!table) return { mapping: UNALLOCATED, count: most }
    const mapping = this.#at(table, index)
    if (mapping.type === 'compressed') return { mapping, count: 1 }
    let count = 1
    while (count < most) {
      const next = this.#at(table, index + count)
      if (next.type !== mapping.type) break
      if (next.type === 'data' && mapping.type === 'data') {
        if (next.host !== mapping.host + count * this.clusterBytes || next.copied !== mapping.copied) break
      }
      count++
    }
    return { mapping, count }
  }

  async mapping(cluster: number): Promise<Mapping> {
    const table = await this.table(Math.floor(cluster / this.perTable))
    return table ? this.#at(table, cluster % this.perTable) : UNALLOCATED
  }

  #at(table: L2Table, index: number): Mapping {
    const { clusterBits, version } = this.#header
    return mappingAt(this.#file.name, table.view, index, clusterBits, version, table.offset)
  }

  /** undefined: there is none, nothing of its part of the disk is in this image. */
  async table(l1Index: number): Promise<L2Table | undefined> {
    if (l1Index >= this.l1Entries) return undefined
    const offset = offsetAt(this.#l1View, l1Index)
    if (offset === 0) return undefined
    const known = this.#tables.get(offset)
    if (known) {
      this.#tables.delete(offset)
      this.#tables.set(offset, known)
      return known
    }
    return this.#load(offset, l1Index)
  }

  #load(offset: number, l1Index: number): Promise<L2Table> {
    let loading = this.#loading.get(offset)
    if (!loading) {
      loading = this.#read(offset, l1Index).finally(() => this.#loading.delete(offset))
      this.#loading.set(offset, loading)
    }
    return loading
  }

  async #read(offset: number, l1Index: number): Promise<L2Table> {
    const at = this.#header.l1TableOffset + l1Index * 8
    if (offset % this.clusterBytes !== 0) {
      throw new ImageCorruptError(this.#file.name, 'L1 table', at, `a table at ${offset}, inside a cluster`)
    }
    const bytes = new Uint8Array(this.clusterBytes)
    await this.#file.read(offset, bytes)
    const table = { bytes, view: tableView(bytes), offset, dirty: false, fresh: false }
    this.#keep(table)
    return table
  }

  #keep(table: L2Table): void {
    const most = Math.max(2, CACHE_BYTES / this.clusterBytes)
    if (this.#tables.size >= most) {
      for (const [offset, { dirty, fresh }] of this.#tables) {
        if (dirty || fresh) continue
        this.#tables.delete(offset)
        break
      }
    }
    this.#tables.set(table.offset, table)
  }

  /**
   * A table that is this disk's alone, to be changed at once or later; made, or copied, where needed. Not while
   * anybody else uses the map, like all that follows.
   */
  async writableTable(l1Index: number): Promise<L2Table> {
    if (l1Index >= this.l1Entries) await this.#growL1(l1Index + 1)
    const old = await this.table(l1Index)
    if (old && isCopied(this.#l1View, l1Index)) {
      old.dirty = true // from here on it must stay in memory
      return old
    }
    const offset = await this.#refcounts.allocate(1)
    const bytes = new Uint8Array(this.clusterBytes)
    if (old) {
      bytes.set(old.bytes)
      this.release({ first: old.offset / this.clusterBytes, count: 1 })
    }
    const table = { bytes, view: tableView(bytes), offset, dirty: false, fresh: true }
    this.#keep(table)
    setEntry(this.#l1View, l1Index, offset, true)
    const { from, to } = this.#l1Dirty ?? { from: l1Index, to: l1Index + 1 }
    this.#l1Dirty = { from: Math.min(from, l1Index), to: Math.max(to, l1Index + 1) }
    return table
  }

  /** A use of these clusters ends with the next flush. */
  release(clusters: { readonly first: number; readonly count: number }): void {
    const last = this.#deferred.at(-1)
    if (last && last.first + last.count === clusters.first) {
      this.#deferred[this.#deferred.length - 1] = { first: last.first, count: last.count + clusters.count }
    } else this.#deferred.push(clusters)
  }

  /** Whether it is time for a flush to keep memory bounded. */
  get full(): boolean {
    if (this.#deferred.length >= MAX_DEFERRED) return true
    let dirty = 0
    for (const table of this.#tables.values()) if (table.dirty || table.fresh) dirty++
    return dirty * this.clusterBytes >= CACHE_BYTES / 2 && dirty > 1
  }

  /** @throws ImageIoError what could not be written is written by the next flush */
  async flush(): Promise<void> {
    if (!this.dirty) {
      await this.#file.flush()
      return
    }
    const fresh = [...this.#tables.values()].filter((t) => t.fresh)
    for (const table of fresh) await this.#file.write(table.offset, table.bytes)
    await this.#file.flush()
    const dirty = [...this.#tables.values()].filter((t) => t.dirty && !t.fresh)
    for (const table of dirty) await this.#file.write(table.offset, table.bytes)
    if (this.#l1Dirty) {
      const { from, to } = this.#l1Dirty
      await this.#file.write(this.#header.l1TableOffset + from * 8, this.#l1.slice(from * 8, to * 8))
      this.#l1Dirty = undefined
    }
    await this.#file.flush()
    for (const table of fresh) Object.assign(table, { fresh: false, dirty: false })
    for (const table of dirty) table.dirty = false
    while (this.#deferred.length > 0) {
      const { first, count } = this.#deferred[0]!
      this.#deferred.shift()
      await this.#refcounts.add(first, count, -1)
    }
  }

  /** Replaces the table, in memory only: the file has it already. */
  adoptL1(l1: Uint8Array): void {
    this.#l1 = l1
    this.#l1View = tableView(l1)
    this.#l1Dirty = undefined
    this.forget()
  }

  /** Drops the tables in memory, which the file has as they are. */
  forget(): void {
    this.#tables.clear()
  }

  async #growL1(entries: number): Promise<void> {
    if (entries * 8 > MAX_L1_BYTES) {
      throw new ImageFormatError(this.#file.name, 'l1_size', Field.l1Size, `${entries} entries are more than supported`)
    }
    await this.flush()
    const clusters = Math.ceil((entries * 8) / this.clusterBytes)
    // All that fits into the clusters, so that it grows seldom.
    const l1 = new Uint8Array(Math.min(clusters * this.clusterBytes, MAX_L1_BYTES))
    l1.set(this.#l1)
    const offset = await this.#refcounts.allocate(clusters)
    await this.#file.write(offset, l1)
    await this.#file.flush()
    const place = new Uint8Array(12)
    tableView(place).setUint32(0, l1.length / 8)
    tableView(place).setBigUint64(4, BigInt(offset))
    await this.#file.write(Field.l1Size, place)
    await this.#file.flush()
    const old = { first: this.#header.l1TableOffset / this.clusterBytes, bytes: this.#header.l1Size * 8 }
    this.#header.l1Size = l1.length / 8
    this.#header.l1TableOffset = offset
    this.#l1 = l1
    this.#l1View = tableView(l1)
    if (old.bytes > 0) await this.#refcounts.add(old.first, Math.ceil(old.bytes / this.clusterBytes), -1)
  }
}
