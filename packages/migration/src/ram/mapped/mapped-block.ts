import { PAGE_BYTES, type QEMUFileReader, type RamBlock, type SeekableChannel } from '@ferryvm/core'
import type { BlockField, PageRecord } from '../page-decoding.ts'
import { bitmapBytes, MAPPED_HEADER_BYTES, MAPPED_VERSION } from './mapped-layout.ts'

/** Where a block's pages lie in a file, and which of them are there. */
export interface MappedBlock {
  readonly block: RamBlock
  readonly bitmapAt: number
  readonly pagesAt: number
  /** Bit i % 8 of byte i / 8: page i is in the file; others were zeros. */
  readonly bitmap: Uint8Array
}

/**
 * A block's header in the block list: reads it and the bitmap, hands them on, and lets the stream go on behind the pages.
 * Spec: ram.md section 7.
 */
export function mappedBlockField(
  file: SeekableChannel,
  take: (block: MappedBlock, record: PageRecord) => void | Promise<void>,
): BlockField {
  return {
    bytes: MAPPED_HEADER_BYTES,
    load(f, record) {
      const { block, fail } = record
      const version = f.getBe32()
      if (version > MAPPED_VERSION) throw fail(`mapped-ram version ${version}; only ${MAPPED_VERSION} is known`)
      const [pageBytes, bitmapAt, pagesAt] = [f.getBe64(), f.getBe64(), f.getBe64()].map(Number) as [
        number,
        number,
        number,
      ]
      if (pageBytes !== PAGE_BYTES) throw fail(`mapped pages of ${pageBytes} bytes; ours have ${PAGE_BYTES}`)
      const limit = Number.MAX_SAFE_INTEGER - block.sizeBytes
      if (bitmapAt > limit || pagesAt > limit) throw fail('its place in the file is beyond 2^53')
      if (pagesAt % PAGE_BYTES !== 0) throw fail(`its pages begin at 0x${pagesAt.toString(16)}, within a page`)
      return loadBlock(f, record, bitmapAt, pagesAt)
    },
  }

  async function loadBlock(f: QEMUFileReader, record: PageRecord, bitmapAt: number, pagesAt: number): Promise<void> {
    const { block, fail } = record
    const bitmap = new Uint8Array(bitmapBytes(block.sizeBytes))
    if ((await file.readAt(bitmap, bitmapAt)) < bitmap.length) throw fail('the file ends within its bitmap')
    await take({ block, bitmapAt, pagesAt, bitmap }, record)
    // What was read ahead is no part of the stream.
    f.skip(f.available)
    file.seek(pagesAt + block.sizeBytes)
  }
}
