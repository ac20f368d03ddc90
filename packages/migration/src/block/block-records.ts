/** Spec: protocol.md section 9. Each record begins with eight bytes: a sector, or a percentage, above nine bits of flags. */
export const BLOCK_SECTION_VERSION = 1
export const BLOCK_DEVICE = 0x01
export const BLOCK_EOS = 0x02
export const BLOCK_PROGRESS = 0x04
export const BLOCK_ZERO = 0x08
export const SECTOR_BITS = 9
export const SECTOR_BYTES = 512
/** What one record carries, also at the end of a disk that is no multiple of it. */
export const CHUNK_BYTES = 1 << 20
