/** Pages of one chunk: 32768 pages are 4 KiB of bitmap. */
const CHUNK_PAGES = 1 << 15

/** Which pages of a block were met. Grows with the pages that come, not with what a block claims to hold. */
export class PageSet {
  readonly #chunks = new Map<number, Uint8Array>()
  #lastNumber = -1
  #last: Uint8Array | undefined
  count = 0

  /** @returns whether it is new */
  add(page: number): boolean {
    const number = Math.floor(page / CHUNK_PAGES)
    if (number !== this.#lastNumber) {
      this.#lastNumber = number
      this.#last = this.#chunks.get(number)
      if (!this.#last) this.#chunks.set(number, (this.#last = new Uint8Array(CHUNK_PAGES / 8)))
    }
    const within = page % CHUNK_PAGES
    const bit = 1 << (within & 7)
    if (this.#last![within >> 3]! & bit) return false
    this.#last![within >> 3]! |= bit
    this.count++
    return true
  }
}
