/** Spec: protocol.md section 9. Each chunk begins with a byte of flags, and says which bitmap it is about where that changes. */
export const BITMAPS_SECTION_VERSION = 1
export const BITMAPS_EOS = 0x01
export const BITMAPS_ZEROES = 0x02
export const BITMAPS_BITMAP_NAME = 0x04
export const BITMAPS_DEVICE_NAME = 0x08
export const BITMAPS_START = 0x10
export const BITMAPS_COMPLETE = 0x20
export const BITMAPS_BITS = 0x40
export const BITMAPS_EXTRA = 0x80
/** Of a bitmap, in the chunk that begins it. */
export const BITMAP_ENABLED = 0x01
export const BITMAP_PERSISTENT = 0x02
/** Of old releases, without a meaning. */
export const BITMAP_AUTOLOAD = 0x04
export const SECTOR_BYTES = 512
/** Bits in one chunk come in multiples of that. */
export const BITS_ALIGN_BYTES = 32
const CHUNK_BITS = 8192
/** What a chunk covers is 32 bits wide. */
const MAX_CHUNK_SECTORS = 2 ** 31

/** What one chunk covers. */
export const chunkSectors = (granularityBytes: number): number =>
  Math.min((CHUNK_BITS * granularityBytes) / SECTOR_BYTES, MAX_CHUNK_SECTORS)

/** Bytes of so many bits: whole words of eight. */
export const bytesOfBits = (bits: number): number => Math.ceil(bits / 64) * 8
