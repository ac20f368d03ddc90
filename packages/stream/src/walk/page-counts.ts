/** What a visitor keeps of the pages of one block if it only counts them; the walker then does the counting. */
export interface PageCounts {
  zeroPages: number
  normalPages: number
  streamBytes: number
  readonly usedLength: number
  /** Pages `from` to `to` - 1 came. */
  cameRange(from: number, to: number): void
}

const ZERO_CONTINUE = 0x22
const PAGE_CONTINUE = 0x28
const ZERO_BYTES = 9

/**
 * Counts the records that nearly all of RAM is made of: zero and whole pages of the block that the record before was of. Stops
 * before the first that is something else, is not whole, or lies outside of the block.
 *
 * Per page this looks at eight bytes. Pages come in ascending order, so that a record mostly has the offset after the one
 * before; one comparison then checks offset and flags.
 * @param view of the window; `start` to `end` are in it
 * @returns where it stopped
 */
export function countPages(view: DataView, start: number, end: number, pageBytes: number, counts: PageCounts): number {
  const pageRecord = 8 + pageBytes
  let at = start
  while (at + ZERO_BYTES <= end) {
    const high = view.getUint32(at)
    const low = view.getUint32(at + 4)
    const flags = low & (pageBytes - 1)
    const offset = high * 0x1_0000_0000 + (low - flags)
    if ((flags !== ZERO_CONTINUE && flags !== PAGE_CONTINUE) || offset >= counts.usedLength) break
    // As far as this run can go: in the block, and without a carry into the high word.
    const room = Math.min(
      Math.ceil((counts.usedLength - offset) / pageBytes),
      (0x1_0000_0000 - (low - flags)) / pageBytes,
    )
    const highBits = high | 0
    let expected = (low - flags) | 0
    let zeros = 0
    let pages = 0
    while (zeros + pages < room && at + ZERO_BYTES <= end && view.getInt32(at) === highBits) {
      const difference = view.getInt32(at + 4) - expected
      if (difference === PAGE_CONTINUE) {
        if (at + pageRecord > end) break
        at += pageRecord
        pages++
      } else if (difference === ZERO_CONTINUE) {
        at += ZERO_BYTES
        zeros++
      } else break
      expected = (expected + pageBytes) | 0
    }
    if (zeros + pages === 0) break
    counts.zeroPages += zeros
    counts.normalPages += pages
    counts.streamBytes += zeros * ZERO_BYTES + pages * pageRecord
    const first = offset / pageBytes
    counts.cameRange(first, first + zeros + pages)
  }
  return at
}
