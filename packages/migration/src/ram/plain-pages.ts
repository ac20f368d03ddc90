import { PAGE_BYTES } from '@ferryvm/core'
import { trace } from '../migration-trace.ts'
import type { PageDecoder } from './page-decoding.ts'
import type { PageEncoder, RamSaveSession } from './page-encoding.ts'
import { RAM_PAGE, RAM_ZERO } from './ram-records.ts'
import type { IsZeroPage } from './zero-page.ts'

/** A page of zeros as one record without contents. */
export function zeroPages(isZero: IsZeroPage): PageEncoder {
  let stats: RamSaveSession['stats']
  return {
    begin(session) {
      stats = session.stats
    },
    encode(block, offset, out) {
      if (!isZero(block.offset + offset)) return false
      out.page(RAM_ZERO, block, offset)
      out.f.putByte(0)
      stats.zeroPages++
      return true
    },
  }
}

/** Every page as it is; stands last. */
export function rawPages(): PageEncoder {
  let stats: RamSaveSession['stats']
  return {
    begin(session) {
      stats = session.stats
    },
    encode(block, offset, out) {
      if (trace.ram_save_page.enabled) trace.ram_save_page({ rbname: block.idstr, offset, host: block.offset + offset })
      out.page(RAM_PAGE, block, offset)
      // Copied: two pieces per page (its word, its bytes) cost Node three times as much as the copy.
      out.f.putBuffer(block.bytes.subarray(offset, offset + PAGE_BYTES))
      stats.normalPages++
      return true
    },
  }
}

/** ZERO and PAGE records. `pages` counts them. */
export function plainPageDecoders(
  isZero: IsZeroPage,
  pages: { zeroPages: number; normalPages: number },
): readonly PageDecoder[] {
  return [
    {
      flag: RAM_ZERO,
      headerBytes: 0,
      payloadBytes: () => 1,
      decode(f, _, { block, offset, fail }) {
        const fill = f.getByte()
        // Known senders write 0 only; the older one would fill the page with anything, the newer one refuses.
        if (fill !== 0) throw fail(`a zero page is filled with 0x${fill.toString(16)}`)
        if (!isZero(block.offset + offset)) block.bytes.fill(0, offset, offset + block.pageBytes)
        pages.zeroPages++
      },
    },
    {
      flag: RAM_PAGE,
      headerBytes: 0,
      payloadBytes: (_, { block }) => block.pageBytes,
      decode(f, bytes, { block, offset }) {
        f.getBuffer(block.bytes.subarray(offset, offset + bytes))
        pages.normalPages++
      },
    },
  ]
}
