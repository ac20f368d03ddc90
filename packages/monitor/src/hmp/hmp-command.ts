import type { MonitorContext } from '../context.ts'
import { MonitorCommandError } from '../errors.ts'

/** One command of the human monitor. */
export interface HmpCommand {
  readonly name: string
  readonly aliases?: readonly string[]
  /** Synopsis of the arguments. */
  readonly args: string
  readonly help: string
  /** @returns what it prints; nothing for undefined */
  run(context: MonitorContext, words: readonly string[], rest: string): string | undefined | Promise<string | undefined>
}

/** Splits at blanks; double quotes keep them. @throws MonitorCommandError a quote is not closed */
export function splitWords(line: string): string[] {
  const words: string[] = []
  for (let at = 0; at < line.length; ) {
    if (/\s/.test(line[at]!)) {
      at++
      continue
    }
    if (line[at] === '"') {
      const end = line.indexOf('"', at + 1)
      if (end < 0) throw new MonitorCommandError('a quote is not closed')
      words.push(line.slice(at + 1, end))
      at = end + 1
    } else {
      const end = line.slice(at).search(/\s/)
      words.push(end < 0 ? line.slice(at) : line.slice(at, at + end))
      at = end < 0 ? line.length : at + end
    }
  }
  return words
}

export function onOff(name: string, text: string | undefined): boolean {
  if (text === 'on') return true
  if (text === 'off') return false
  throw new MonitorCommandError(`${name} is on or off`)
}

export function wanted(words: readonly string[], index: number, what: string): string {
  const word = words[index]
  if (word === undefined) throw new MonitorCommandError(`${what} is missing`)
  return word
}

/** Decimal or 0x. */
export function parseNumber(text: string, what: string): number {
  const value = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN
  if (!Number.isSafeInteger(value)) throw new MonitorCommandError(`${what}: "${text}" is no address or count`)
  return value
}
