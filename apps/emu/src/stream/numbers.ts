import { parseSize } from '../keyval.ts'
import { UsageError } from '../usage-error.ts'

/** Value of an option that counts something. @throws UsageError */
export function parseCount(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new UsageError(`'${text}' is not a number (0, 1, 2 and so on)`)
  return Number(text)
}

/** A guest's page. @throws UsageError */
export function parsePageSize(text: string): number {
  const bytes = parseSize(text)
  if (bytes < 1024 || bytes > 1 << 20 || (bytes & (bytes - 1)) !== 0)
    throw new UsageError(`--page-size ${text}: pages have 1K, 2K, 4K and so on up to 1M`)
  return bytes
}
