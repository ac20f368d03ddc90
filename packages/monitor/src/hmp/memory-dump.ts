import { type Machine, whenPagesArrive } from '@ferryvm/core'
import { MonitorCommandError } from '../errors.ts'
import { parseNumber } from './hmp-command.ts'

const SIZES: Readonly<Record<string, 1 | 2 | 4 | 8>> = { b: 1, h: 2, w: 4, g: 8 }
const MAX_BYTES = 1 << 20

/** {@link formatMemory}, once everything it shows is here. */
export const dumpMemory = (machine: Machine, words: readonly string[]): Promise<string> =>
  whenPagesArrive(() => formatMemory(machine, words))

/**
 * `xp /fmt addr`: /4xw is four words in hexadecimal. Formats x d u o c; sizes b h w g. 16 bytes in a line.
 * @throws MonitorCommandError
 */
function formatMemory(machine: Machine, words: readonly string[]): string {
  const format = words[0]?.startsWith('/') ? words[0] : '/'
  const match = /^\/(\d*)([xduoc]?)([bhwg]?)([xduoc]?)$/.exec(format)
  if (!match) throw new MonitorCommandError(`"${format}" is no format like /4xw (instructions are not disassembled)`)
  const count = match[1] ? Number(match[1]) : 1
  const kind = match[2] || match[4] || 'x'
  const size = SIZES[match[3]!] ?? (kind === 'c' ? 1 : 4)
  const address = parseNumber(words[words[0]?.startsWith('/') ? 1 : 0] ?? '', 'address')
  if (count * size > MAX_BYTES) throw new MonitorCommandError(`at most ${MAX_BYTES} bytes at once`)
  const lines: string[] = []
  const perLine = 16 / size
  for (let at = 0; at < count; at += perLine) {
    const values: string[] = []
    for (let i = at; i < Math.min(at + perLine, count); i++) {
      const value = readPhysical(machine, address + i * size, size)
      if (value === undefined) {
        lines.push(
          `${hexAddress(address + at * size)}: ${values.join(' ')} (nothing can be read at 0x${(address + i * size).toString(16)})`,
        )
        return `${lines.join('\n')}\n`
      }
      values.push(formatValue(value, kind, size))
    }
    lines.push(`${hexAddress(address + at * size)}: ${values.join(' ')}`)
  }
  return `${lines.join('\n')}\n`
}

/** As a hart sees it: outside of memory it is a device that answers, and that may take the read for one of the guest's. */
function readPhysical(machine: Machine, address: number, size: 1 | 2 | 4 | 8): bigint | undefined {
  const ram = machine.physical.ramMappings().find((m) => address >= m.base && address + size <= m.base + m.sizeBytes)
  if (!ram) return machine.physical.mmioRead(address, size)
  machine.physical.demand(address, size)
  let value = 0n
  for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(ram.block.bytes[address - ram.base + i]!)
  return value
}

const hexAddress = (address: number) => address.toString(16).padStart(16, '0')

function formatValue(value: bigint, kind: string, size: number): string {
  switch (kind) {
    case 'x':
      return `0x${value.toString(16).padStart(size * 2, '0')}`
    case 'o':
      return `0${value.toString(8)}`
    case 'd':
      return BigInt.asIntN(size * 8, value).toString()
    case 'c': {
      const code = Number(value & 0xffn)
      return code >= 0x20 && code < 0x7f
        ? `'${String.fromCharCode(code)}'`
        : `'\\x${code.toString(16).padStart(2, '0')}'`
    }
    default:
      return value.toString()
  }
}
