import { FileAddressError } from './errors.ts'

/** `file:path[,offset=SIZE]`. Spec: protocol.md section 7. */
export interface FileAddress {
  readonly path: string
  /** Where in the file the stream begins, bytes. */
  readonly offset: number
}

const OPTION = ',offset='
/** 1024 to the power of the position; no suffix: bytes. */
const SUFFIXES = 'bkmgtpe'

/**
 * The path may contain commas and colons. SIZE is decimal with an optional suffix (B K M G T P E, powers of 1024, either
 * case; `1.5G` is fine) or hexadecimal (`0x1000`).
 * @throws FileAddressError
 */
export function parseFileAddress(text: string): FileAddress {
  const at = text.indexOf(OPTION)
  const path = at < 0 ? text : text.slice(0, at)
  if (path === '') throw new FileAddressError(text, 'the path is empty')
  if (path.includes('\0')) throw new FileAddressError(text, 'the path contains a zero byte')
  return { path, offset: at < 0 ? 0 : parseSize(text, text.slice(at + OPTION.length)) }
}

/** The text that parses to `address`, without the scheme. */
export const formatFileAddress = ({ path, offset }: FileAddress): string =>
  offset === 0 && !path.includes(OPTION) ? path : `${path}${OPTION}${offset}`

function parseSize(text: string, size: string): number {
  const match = /^(?:(0[xX][0-9a-fA-F]+)|(\d+(?:\.\d+)?)([bkmgtpe])?)$/i.exec(size)
  if (!match) {
    throw new FileAddressError(text, `"${size}" is not a size (examples: 4096, 0x1000, 64K, 1.5G)`)
  }
  const [, hex, number, suffix = 'b'] = match
  const bytes = hex ? Number(hex) : Number(number) * 1024 ** SUFFIXES.indexOf(suffix.toLowerCase())
  if (!Number.isInteger(bytes)) throw new FileAddressError(text, `"${size}" is not a whole number of bytes`)
  if (!Number.isSafeInteger(bytes)) throw new FileAddressError(text, `"${size}" is beyond 2^53`)
  return bytes
}
