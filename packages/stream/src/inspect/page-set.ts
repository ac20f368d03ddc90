/** Pages of one chunk: 32768 pages are 4 KiB of bitmap. */
const CHUNK_PAGES = 1 << 15
const BITS = Uint8Array.from({ length: 256 }, (_, n) => n.toString(2).replaceAll('0', '').length)

/** Which pages of a block were met. Grows with the pages that come, not with what a block claims to hold. */
export class PageSet {
  readonly #chunks = new Map<number, Uint8Array>()
  #lastNumber = -1
  #last: Uint8Array | undefined
  count = 0

  /** @returns whether it is new */
  add(page: number): boolean {
    const chunk = this.#chunk(Math.floor(page / CHUNK_PAGES))
    const within = page % CHUNK_PAGES
    const bit = 1 << (within & 7)
    if (chunk[within >> 3]! & bit) return false
    chunk[within >> 3]! |= bit
    this.count++
    return true
  }

  /** Pages `from` to `to` - 1. */
  addRange(from: number, to: number): void {
    while (from < to) {
      const number = Math.floor(from / CHUNK_PAGES)
      const first = number * CHUNK_PAGES
      const end = Math.min(to - first, CHUNK_PAGES)
      const chunk = this.#chunk(number)
      for (let at = from - first; at < end; ) {
        const low = at & 7
        const bits = Math.min(8 - low, end - at)
        const mask = (0xff >> (8 - bits)) << low
        const before = chunk[at >> 3]!
        this.count += BITS[mask & ~before]!
        chunk[at >> 3] = before | mask
        at += bits
      }
      from = first + end
    }
  }

  #chunk(number: number): Uint8Array {
    if (number === this.#lastNumber) return this.#last!
    let chunk = this.#chunks.get(number)
    if (!chunk) this.#chunks.set(number, (chunk = new Uint8Array(CHUNK_PAGES / 8)))
    this.#lastNumber = number
    this.#last = chunk
    return chunk
  }
}
