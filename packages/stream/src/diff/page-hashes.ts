import { PageSet } from '../inspect/page-set.ts'

/** Pages of one chunk: 4096 pages are 32 KiB of hashes. */
const CHUNK_PAGES = 1 << 12

/**
 * What the pages of a block hold, as 64-bit hashes: eight bytes instead of four thousand. A page of zeros is 0, and so
 * is one that never came: a destination starts with zeros.
 */
export class PageHashes {
  readonly #chunks = new Map<number, Uint32Array>()
  /** Deltas and packed pages: their content is not known here. */
  readonly undecided = new PageSet()

  set(page: number, payload: Uint8Array): void {
    let a = 0
    let b = 0
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length)
    const end = payload.length & ~3
    for (let at = 0; at < end; at += 4) {
      const word = view.getInt32(at, true)
      a = Math.imul(a ^ word, 0x01000193)
      a ^= a >>> 13
      b = Math.imul((b + word) | 0, 0x5bd1e995)
      b ^= b >>> 15
    }
    this.#put(page, a, a === 0 && b === 0 && payload.some((byte) => byte !== 0) ? 1 : b)
  }
  /** Every byte of the page is this. */
  fill(page: number, byte: number, pageBytes: number): void {
    if (byte === 0) this.#put(page, 0, 0)
    else this.set(page, new Uint8Array(pageBytes).fill(byte))
  }
  #put(page: number, a: number, b: number): void {
    const number = Math.floor(page / CHUNK_PAGES)
    let chunk = this.#chunks.get(number)
    if (!chunk) {
      if (a === 0 && b === 0) return
      this.#chunks.set(number, (chunk = new Uint32Array(2 * CHUNK_PAGES)))
    }
    const at = 2 * (page % CHUNK_PAGES)
    chunk[at] = a
    chunk[at + 1] = b
  }

  /** Pages that differ, in order. */
  *differences(other: PageHashes): Generator<number> {
    const numbers = [...new Set([...this.#chunks.keys(), ...other.#chunks.keys()])].sort((x, y) => x - y)
    for (const number of numbers) {
      const mine = this.#chunks.get(number) ?? ZEROS
      const theirs = other.#chunks.get(number) ?? ZEROS
      for (let i = 0; i < CHUNK_PAGES; i++)
        if (mine[2 * i] !== theirs[2 * i] || mine[2 * i + 1] !== theirs[2 * i + 1]) yield number * CHUNK_PAGES + i
    }
  }
}
const ZEROS = new Uint32Array(2 * CHUNK_PAGES)
