/**
 * How often each cluster of a qcow2 image is used. Spec: the format's document, "Host cluster management".
 *
 * Increments are in the file at once, decrements are handed over when nothing points at the cluster any more: whatever happens in
 * between, a count is never too low, and at worst clusters leak.
 */
import { ImageCorruptError, ImageFormatError, ImageIoError } from '../errors.ts'
import type { ImageFile } from '../image-file.ts'
import { clusterBytesOf, Field, type Qcow2Header } from './header.ts'

const ENTRY_OFFSET_MASK_LOW = 0xffff_fe00
/** Blocks kept in memory, bytes. */
const CACHE_BYTES = 4 << 20

export class Refcounts {
  readonly clusterBytes: number
  readonly bits: number
  /** Clusters that one block counts. */
  readonly perBlock: number
  readonly maximum: number
  readonly #file: ImageFile
  readonly #header: Qcow2Header
  /** Offset of each block, 0: none yet. */
  #table: Float64Array
  readonly #blocks = new Map<number, Uint8Array>()
  /** Nothing before this cluster is free. */
  #searchFrom = 0

  private constructor(file: ImageFile, header: Qcow2Header, table: Float64Array) {
    this.#file = file
    this.#header = header
    this.#table = table
    this.clusterBytes = clusterBytesOf(header)
    this.bits = 2 ** header.refcountOrder
    this.perBlock = (this.clusterBytes * 8) / this.bits
    this.maximum = this.bits >= 53 ? Number.MAX_SAFE_INTEGER : 2 ** this.bits - 1
  }

  /** @throws ImageFormatError there is no table @throws ImageCorruptError two parts of it are one */
  static async open(file: ImageFile, header: Qcow2Header): Promise<Refcounts> {
    if (header.refcountTableOffset >= (await file.size())) {
      throw new ImageFormatError(file.name, 'refcount_table_offset', 48, 'the table is behind the end of the file')
    }
    const bytes = new Uint8Array(header.refcountTableClusters * clusterBytesOf(header))
    await file.read(header.refcountTableOffset, bytes)
    const view = new DataView(bytes.buffer)
    const table = new Float64Array(bytes.length / 8)
    for (let i = 0; i < table.length; i++) {
      const low = (view.getUint32(i * 8 + 4) & ENTRY_OFFSET_MASK_LOW) >>> 0
      table[i] = view.getUint32(i * 8) * 2 ** 32 + low
    }
    // As many distinct blocks as the file has clusters are the most that are ever read.
    const seen = new Set<number>()
    for (const [index, offset] of table.entries()) {
      if (offset !== 0 && seen.has(offset)) {
        const at = header.refcountTableOffset + index * 8
        throw new ImageCorruptError(file.name, 'refcount table', at, `the block at ${offset} is there twice`)
      }
      seen.add(offset)
    }
    return new Refcounts(file, header, table)
  }

  /** Offsets of the blocks, by index; 0: none. */
  get blockOffsets(): Float64Array {
    return this.#table
  }

  /** @throws ImageCorruptError @throws ImageIoError */
  async get(cluster: number): Promise<number> {
    const index = Math.floor(cluster / this.perBlock)
    if (index >= this.#table.length || this.#table[index] === 0) return 0
    return this.#read(await this.#block(index), cluster % this.perBlock)
  }

  /**
   * Adds to the counts of consecutive clusters.
   * @throws ImageCorruptError a count would fall below 0 @throws ImageIoError a count would become too large for its bits
   */
  async add(cluster: number, count: number, delta: number): Promise<void> {
    for (let at = cluster; at < cluster + count; ) {
      const index = Math.floor(at / this.perBlock)
      await this.#ensureBlock(index)
      const block = await this.#block(index)
      const first = at % this.perBlock
      const run = Math.min(cluster + count - at, this.perBlock - first)
      for (let i = first; i < first + run; i++) {
        const before = this.#read(block, i)
        const after = before + delta
        if (after < 0) {
          throw new ImageCorruptError(
            this.#file.name,
            'refcount block',
            this.#table[index]!,
            `cluster ${at - first + i} is used more often than its count of ${before} says`,
          )
        }
        if (after > this.maximum) {
          throw new ImageIoError(
            this.#file.name,
            'count',
            (at - first + i) * this.clusterBytes,
            new Error(`a cluster can be used ${this.maximum} times, with counts of ${this.bits} bits`),
          )
        }
        this.#write(block, i, after)
        if (after === 0) this.#searchFrom = Math.min(this.#searchFrom, at - first + i)
      }
      await this.#store(index, block, first, run)
      at += run
    }
  }

  /** Sets one count, whatever it was: for repairs. */
  async set(cluster: number, value: number): Promise<void> {
    await this.add(cluster, 1, value - (await this.get(cluster)))
  }

  /**
   * Finds consecutive free clusters and counts each once.
   * @returns the first one's offset, bytes
   */
  async allocate(count: number): Promise<number> {
    for (;;) {
      const first = await this.#findFree(count)
      // A new block may take the place that was found.
      let added = false
      const last = Math.floor((first + count - 1) / this.perBlock)
      for (let index = Math.floor(first / this.perBlock); index <= last; index++) {
        if (await this.#ensureBlock(index)) added = true
      }
      if (added) continue
      await this.add(first, count, 1)
      if (first === this.#searchFrom) this.#searchFrom = first + count
      return first * this.clusterBytes
    }
  }

  /** Behind the last cluster that is in use. */
  async end(): Promise<number> {
    for (let index = this.#table.length - 1; index >= 0; index--) {
      if (this.#table[index] === 0) continue
      const block = await this.#block(index)
      for (let i = this.perBlock - 1; i >= 0; i--) {
        if (this.#read(block, i) > 0) return index * this.perBlock + i + 1
      }
    }
    return 0
  }

  async #findFree(count: number): Promise<number> {
    let start = this.#searchFrom
    let found = 0
    let seenFree = false
    for (let at = start; ; ) {
      const index = Math.floor(at / this.perBlock)
      if (index >= this.#table.length || this.#table[index] === 0) {
        // Without a block all of them are free.
        const room = (index + 1) * this.perBlock - at
        if (!seenFree) this.#searchFrom = at
        found += room
        if (found >= count) return start
        seenFree = true
        at += room
        continue
      }
      const block = await this.#block(index)
      for (let i = at % this.perBlock; i < this.perBlock; i++, at++) {
        if (this.#read(block, i) === 0) {
          if (!seenFree) this.#searchFrom = at
          seenFree = true
          if (++found === count) return start
        } else {
          found = 0
          start = at + 1
        }
      }
    }
  }

  /** @returns whether there was none before */
  async #ensureBlock(index: number): Promise<boolean> {
    if (index >= this.#table.length) await this.#growTable(index + 1)
    if (this.#table[index] !== 0) return false
    if (index === 0) {
      const at = this.#header.refcountTableOffset
      throw new ImageCorruptError(this.#file.name, 'refcount table', at, 'nothing counts the header')
    }
    // Its clusters are all free, so it can be the first of those that it counts.
    const offset = index * this.perBlock * this.clusterBytes
    const block = new Uint8Array(this.clusterBytes)
    this.#write(block, 0, 1)
    await this.#file.write(offset, block)
    await this.#file.flush()
    await this.#file.write(this.#header.refcountTableOffset + index * 8, entryBytes(offset))
    this.#table[index] = offset
    this.#cache(index, block)
    return true
  }

  /** The new table stands where the old one has no words for, together with the blocks that count it. */
  async #growTable(entries: number): Promise<void> {
    const base = this.#table.length
    const perCluster = this.clusterBytes / 8
    // The blocks that are missing in front of `entries` come when they are needed.
    let blocks = 1
    let clusters: number
    do {
      clusters = Math.ceil(Math.max(entries, base + blocks, base * 1.5) / perCluster)
      blocks = Math.ceil((blocks + clusters) / this.perBlock)
    } while (blocks * this.perBlock < blocks + clusters || clusters * perCluster < base + blocks)
    const firstCluster = base * this.perBlock
    const table = new Float64Array(clusters * perCluster)
    table.set(this.#table)
    for (let i = 0; i < blocks; i++) {
      const block = new Uint8Array(this.clusterBytes)
      const used = Math.min(this.perBlock, blocks + clusters - i * this.perBlock)
      for (let c = 0; c < used; c++) this.#write(block, c, 1)
      const offset = (firstCluster + i) * this.clusterBytes
      table[base + i] = offset
      await this.#file.write(offset, block)
    }
    const tableOffset = (firstCluster + blocks) * this.clusterBytes
    const bytes = new Uint8Array(clusters * this.clusterBytes)
    for (let i = 0; i < table.length; i++) bytes.set(entryBytes(table[i]!), i * 8)
    await this.#file.write(tableOffset, bytes)
    await this.#file.flush()
    const place = new Uint8Array(12)
    place.set(entryBytes(tableOffset))
    new DataView(place.buffer).setUint32(8, clusters)
    await this.#file.write(Field.refcountTableOffset, place)
    await this.#file.flush()
    const old = this.#header.refcountTableOffset / this.clusterBytes
    const oldClusters = this.#header.refcountTableClusters
    this.#header.refcountTableOffset = tableOffset
    this.#header.refcountTableClusters = clusters
    this.#table = table
    await this.add(old, oldClusters, -1)
  }

  async #block(index: number): Promise<Uint8Array> {
    const known = this.#blocks.get(index)
    if (known) return known
    const offset = this.#table[index]!
    const refuse = (problem: string): never => {
      const at = this.#header.refcountTableOffset + index * 8
      throw new ImageCorruptError(this.#file.name, 'refcount table', at, `block at ${offset}, ${problem}`)
    }
    if (offset % this.clusterBytes !== 0) refuse('inside a cluster')
    const block = new Uint8Array(this.clusterBytes)
    if ((await this.#file.read(offset, block)) === 0) refuse('behind the end of the file')
    // Whoever was faster has the copy that others may have changed by now.
    return this.#blocks.get(index) ?? this.#cache(index, block)
  }

  #cache(index: number, block: Uint8Array): Uint8Array {
    if ((this.#blocks.size + 1) * this.clusterBytes > CACHE_BYTES && this.#blocks.size > 1) {
      this.#blocks.delete(this.#blocks.keys().next().value!)
    }
    this.#blocks.set(index, block)
    return block
  }

  async #store(index: number, block: Uint8Array, first: number, count: number): Promise<void> {
    const from = Math.floor((first * this.bits) / 8)
    const to = Math.ceil(((first + count) * this.bits) / 8)
    await this.#file.write(this.#table[index]! + from, block.slice(from, to))
  }

  #read(block: Uint8Array, index: number): number {
    switch (this.bits) {
      case 8:
        return block[index]!
      case 16:
        return (block[index * 2]! << 8) | block[index * 2 + 1]!
      case 32:
        return view(block).getUint32(index * 4)
      case 64:
        return Number(view(block).getBigUint64(index * 8))
      default: {
        const bit = index * this.bits
        return (block[bit >> 3]! >> (bit & 7)) & ((1 << this.bits) - 1)
      }
    }
  }

  #write(block: Uint8Array, index: number, value: number): void {
    switch (this.bits) {
      case 8:
        block[index] = value
        return
      case 16:
        block[index * 2] = value >> 8
        block[index * 2 + 1] = value
        return
      case 32:
        view(block).setUint32(index * 4, value)
        return
      case 64:
        view(block).setBigUint64(index * 8, BigInt(value))
        return
      default: {
        const bit = index * this.bits
        const mask = ((1 << this.bits) - 1) << (bit & 7)
        block[bit >> 3] = (block[bit >> 3]! & ~mask) | (value << (bit & 7))
      }
    }
  }
}

const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)

function entryBytes(offset: number): Uint8Array {
  const bytes = new Uint8Array(8)
  view(bytes).setBigUint64(0, BigInt(offset))
  return bytes
}
