import { UsageError } from './usage-error.ts'

export type Keyvals = Record<string, string>

/**
 * QEMU's `a=b,c=d`: a doubled comma is a comma, the first item may be a bare value for `implied`, other bare items mean
 * `on` (and `nofoo` is not special).
 * @throws UsageError a key twice, an empty key
 */
export function parseKeyvals(text: string, implied?: string): Keyvals {
  const result: Keyvals = {}
  splitItems(text).forEach((item, index) => {
    const equals = item.indexOf('=')
    const [key, value] =
      equals >= 0
        ? [item.slice(0, equals), item.slice(equals + 1)]
        : index === 0 && implied
          ? [implied, item]
          : [item, 'on']
    if (!key) throw new UsageError(`'${text}': item ${index + 1} has no name`)
    if (key in result) throw new UsageError(`'${text}': '${key}' is given twice`)
    result[key] = value
  })
  return result
}

function splitItems(text: string): string[] {
  const items: string[] = []
  let item = ''
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== ',') item += text[i]
    else if (text[i + 1] === ',') {
      item += ','
      i++
    } else {
      items.push(item)
      item = ''
    }
  }
  if (item || text.endsWith(',')) items.push(item)
  return items.filter((i) => i !== '')
}

const SUFFIX: Record<string, number> = { '': 1, b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 }

/**
 * `256M`, `1G`, `4096b`; a bare number counts in `unit`.
 * @throws UsageError not a size
 */
export function parseSize(text: string, unit: 'B' | 'M' = 'B'): number {
  const match = /^(0x[0-9a-f]+|\d+(?:\.\d+)?)([bkmgt]?)$/i.exec(text)
  if (!match) throw new UsageError(`'${text}' is not a size (examples: 256M, 1G, 65536)`)
  const scale = match[2] ? SUFFIX[match[2].toLowerCase()]! : unit === 'M' ? 2 ** 20 : 1
  return Math.floor(Number(match[1]) * scale)
}

export const isOn = (value: string | undefined): boolean =>
  value === 'on' || value === 'yes' || value === 'true' || value === '1'
