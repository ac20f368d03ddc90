/** Flags in the low bits of a RAM record's 64-bit word; the rest is the offset in its block. Spec: ram.md section 1. */
export const RAM_ZERO = 0x002
export const RAM_MEM_SIZE = 0x004
export const RAM_PAGE = 0x008
export const RAM_EOS = 0x010
export const RAM_CONTINUE = 0x020
export const RAM_XBZRLE = 0x040
export const RAM_HOOK = 0x080
export const RAM_COMPRESS_PAGE = 0x100
export const RAM_MULTIFD_FLUSH = 0x200
export const RAM_FLAGS_MASK = 0xfff

export const RAM_SECTION_VERSION = 4

const NAMES: readonly [flag: number, name: string][] = [
  [0x001, 'FULL'],
  [RAM_ZERO, 'ZERO'],
  [RAM_MEM_SIZE, 'MEM_SIZE'],
  [RAM_PAGE, 'PAGE'],
  [RAM_EOS, 'EOS'],
  [RAM_CONTINUE, 'CONTINUE'],
  [RAM_XBZRLE, 'XBZRLE'],
  [RAM_HOOK, 'HOOK'],
  [RAM_COMPRESS_PAGE, 'COMPRESS_PAGE'],
  [RAM_MULTIFD_FLUSH, 'MULTIFD_FLUSH'],
  [0x400, 'bit 10'],
  [0x800, 'bit 11'],
]
/** "PAGE|CONTINUE", for messages. */
export function flagNames(flags: number): string {
  return NAMES.flatMap(([flag, name]) => (flags & flag ? [name] : [])).join('|') || 'no flag'
}
