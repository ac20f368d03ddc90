/** Pages of guest memory that arrive while the guest runs. Spec: ram.md section 10, "Postcopy page records". */
import { type MissingPages, PAGE_BYTES, type RamBlock } from '@ferryvm/core'
import { trace } from '../migration-trace.ts'
import type { PageDecoder, RamLoadSession } from '../ram/page-decoding.ts'
import { RAM_PAGE, RAM_ZERO } from '../ram/ram-records.ts'

export const pageIndexOf = (block: RamBlock, offset: number): number => (block.offset + offset) / PAGE_BYTES

/**
 * ZERO and PAGE records in postcopy form: a page that is here already stays as it is, for the guest may have written to it.
 * Harts see a page's bytes only after `arrived`.
 */
export function arrivingPages(
  missing: MissingPages,
  pages: { zeroPages: number; normalPages: number },
): Pick<RamLoadSession, 'decoders' | 'pagesElsewhere'> {
  const zero: PageDecoder = {
    flag: RAM_ZERO,
    headerBytes: 0,
    payloadBytes: () => 1,
    decode(f, _, { block, offset, fail }) {
      const fill = f.getByte()
      if (fill !== 0) throw fail(`a zero page is filled with 0x${fill.toString(16)}`)
      const page = pageIndexOf(block, offset)
      if (!missing.has(page)) return
      block.bytes.fill(0, offset, offset + block.pageBytes)
      missing.arrived(page)
      if (trace.postcopy_place_page_zero.enabled) trace.postcopy_place_page_zero({ host_addr: block.offset + offset })
      pages.zeroPages++
    },
  }
  const raw: PageDecoder = {
    flag: RAM_PAGE,
    headerBytes: 0,
    payloadBytes: (_, { block }) => block.pageBytes,
    decode(f, bytes, { block, offset }) {
      const page = pageIndexOf(block, offset)
      if (!missing.has(page)) {
        f.skip(bytes)
        return
      }
      f.getBuffer(block.bytes.subarray(offset, offset + bytes))
      missing.arrived(page)
      if (trace.postcopy_place_page.enabled) trace.postcopy_place_page({ host_addr: block.offset + offset })
      pages.normalPages++
    },
  }
  return { pagesElsewhere: true, decoders: [zero, raw] }
}

/**
 * Which pages of a block are here, as RECV_BITMAP has it: bit i of the bytes is page i, little-endian, a multiple of 8 bytes.
 */
export function receivedBitmap(missing: MissingPages, block: RamBlock): Uint8Array {
  const pages = block.sizeBytes / PAGE_BYTES
  const bytes = new Uint8Array(Math.ceil(pages / 64) * 8)
  const first = block.offset / PAGE_BYTES
  for (let page = 0; page < pages; page++) {
    if (!missing.has(first + page)) bytes[page >>> 3]! |= 1 << (page & 7)
  }
  return bytes
}
