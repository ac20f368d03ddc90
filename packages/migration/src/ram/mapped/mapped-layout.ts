import { PAGE_BYTES, type QEMUFileWriter, type SeekableChannel } from '@ferryvm/core'

/** Where a block's pages lie in a file. Spec: ram.md section 7. */
export const MAPPED_VERSION = 1
export const MAPPED_HEADER_BYTES = 28
/** Pages begin at a multiple of this. */
const PAGES_ALIGNMENT = 1 << 20
/** Written or read at once. */
export const MAPPED_RUN_BYTES = 1 << 20

/** One bit per page in 64-bit words, little-endian: bit i is bit i % 8 of byte i / 8. */
export const bitmapBytes = (sizeBytes: number): number => Math.ceil(sizeBytes / PAGE_BYTES / 64) * 8

/** @param headerAt of the block's header, in the file */
export function mappedLayout(headerAt: number, sizeBytes: number): { bitmapAt: number; pagesAt: number } {
  const bitmapAt = headerAt + MAPPED_HEADER_BYTES
  return { bitmapAt, pagesAt: Math.ceil((bitmapAt + bitmapBytes(sizeBytes)) / PAGES_ALIGNMENT) * PAGES_ALIGNMENT }
}

/** Writes a block's header where the file stands, and goes on behind the place of its pages. */
export async function writeMappedHeader(
  file: SeekableChannel,
  f: QEMUFileWriter,
  sizeBytes: number,
): Promise<{ bitmapAt: number; pagesAt: number }> {
  await f.flush()
  const layout = mappedLayout(file.position, sizeBytes)
  f.putBe32(MAPPED_VERSION)
  f.putBe64(BigInt(PAGE_BYTES))
  f.putBe64(BigInt(layout.bitmapAt))
  f.putBe64(BigInt(layout.pagesAt))
  await f.flush()
  if (file.position !== layout.bitmapAt) throw new RangeError(`a header of ${MAPPED_HEADER_BYTES} bytes was expected`)
  file.seek(layout.pagesAt + sizeBytes)
  return layout
}
