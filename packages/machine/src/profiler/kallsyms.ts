import type { SymbolTable } from './symbol-table.ts'

/** Bound on what is believed of a guest's memory. */
const MAX_SYMBOLS = 1_000_000
const MAX_TRIES = 16
/** Over all places where names may begin. */
const MAX_NAMES_READ = 20_000_000
const TOKENS = 256
const SYMBOLS_PER_MARKER = 256
const DIGIT_0 = 48
/** Bytes of the names after the last marker. */
const MAX_TAIL = 1 << 17

/**
 * Adds the functions that a Linux guest (6.4 and later) knows of itself: its kernel keeps them in memory for its own traces, as
 * names in which frequent parts are tokens. Nothing points there, so the table of tokens is looked for: in it the digits, which
 * are always tokens of their own, stand in a row. What the guest holds is not trusted.
 * Spec: Linux, scripts/kallsyms.c and kernel/kallsyms.c.
 * @param memory the guest's RAM; 8-byte aligned
 * @param stvec the supervisor's trap vector: newer kernels keep distances only, and that address is `handle_exception`'s
 * @returns how many were added; 0: no such kernel is there
 */
export function addKallsyms(table: SymbolTable, memory: Uint8Array, stvec: bigint, file = 'kallsyms'): number {
  const budget = { names: MAX_NAMES_READ }
  let tries = 0
  for (const digits of findDigits(memory)) {
    if (++tries > MAX_TRIES) break
    const found = locate(memory, digits, budget)
    if (!found) continue
    const symbols = read(memory, found)
    const view = viewOf(memory)
    // Before there were distances there was a base, which is an address and so has its top bit set.
    const { offsets, count } = found
    const afterOffsets = view.getBigInt64(align(offsets + 4 * count, 8), true)
    const distances = view.getInt32(offsets, true) < 0
    const anchor = symbols.find((s) => s.name === 'handle_exception')
    if (distances ? !anchor : afterOffsets >= 0n) continue
    const base = distances ? stvec - BigInt(anchor!.offset + anchor!.at) : afterOffsets
    for (const { name, offset, at } of symbols)
      table.add(BigInt.asUintN(64, base + BigInt(distances ? offset + at : offset)), name, file)
    return symbols.length
  }
  return 0
}

/** The functions: names, values from the table of offsets, and where in it. */
function read(memory: Uint8Array, { names, offsets, count, tokens }: Kallsyms) {
  const view = viewOf(memory)
  const decoder = new TextDecoder('latin1')
  const spelled = tokens.map(([from, to]) => decoder.decode(memory.slice(from, to)))
  const symbols: { readonly name: string; readonly offset: number; readonly at: number }[] = []
  let at = names
  for (let i = 0; i < count; i++) {
    const [start, end] = nameAt(memory, at)
    let name = ''
    for (let k = start; k < end; k++) name += spelled[memory[k]]
    at = end
    // The first letter is the type, as in System.map.
    if (/^[tw]/i.test(name))
      symbols.push({ name: name.slice(1), offset: view.getInt32(offsets + 4 * i, true), at: 4 * i })
  }
  return symbols
}

/** What may still be read. */
interface Budget {
  names: number
}

interface Kallsyms {
  /** Byte offsets in memory. */
  readonly names: number
  readonly offsets: number
  readonly count: number
  readonly tokens: readonly (readonly [from: number, to: number])[]
}

const viewOf = (memory: Uint8Array) => new DataView(memory.buffer, memory.byteOffset, memory.byteLength)
const align = (at: number, to: number) => Math.ceil(at / to) * to

/** Places of "0\0" "1\0" … "9\0". */
function* findDigits(memory: Uint8Array): IterableIterator<number> {
  const words = new Uint32Array(memory.buffer, memory.byteOffset, memory.byteLength >>> 2)
  for (let i = 0; i < words.length; i++) {
    const word = words[i]
    // An aligned word within the row is "d\0d\0" or "\0d\0d".
    if ((word & 0xfff0fff0) !== 0x00300030 && (word & 0xf0fff0ff) !== 0x30003000) continue
    for (let start = i * 4 - 3; start <= i * 4; start++) if (isDigits(memory, start)) yield start
  }
}

function isDigits(memory: Uint8Array, start: number): boolean {
  if (start < 0 || start + 20 > memory.length) return false
  for (let d = 0; d < 10; d++)
    if (memory[start + 2 * d] !== DIGIT_0 + d || memory[start + 2 * d + 1] !== 0) return false
  return true
}

/**
 * In memory: count (u32), names, markers (u32: where every 256th name begins), tokens, index of the tokens (u16), offsets of
 * the symbols (i32), up to some release a base of the offsets (u64); each aligned to 8 or 4 bytes.
 */
function locate(memory: Uint8Array, digits: number, budget: Budget): Kallsyms | undefined {
  const later = ends(memory, digits, TOKENS - DIGIT_0)
  if (!later) return undefined
  for (const alignment of [8, 4]) {
    const index = align(later.at(-1)!, alignment)
    const offsets = align(index + 2 * TOKENS, alignment)
    const tokens = tokensAt(memory, digits, index)
    const found = tokens && namesBefore(memory, tokens[0][0], budget)
    if (found && align(offsets + 4 * found.count, 8) + 8 <= memory.length) return { ...found, offsets, tokens }
  }
  return undefined
}

/** @returns undefined: the index does not fit the texts */
function tokensAt(memory: Uint8Array, digits: number, index: number): Kallsyms['tokens'] | undefined {
  const view = viewOf(memory)
  if (index + 2 * TOKENS > memory.length) return undefined
  const start = digits - view.getUint16(index + 2 * DIGIT_0, true)
  const all = start >= 0 ? ends(memory, start, TOKENS) : undefined
  if (!all) return undefined
  const tokens = all.map((end, i) => [start + view.getUint16(index + 2 * i, true), end - 1] as const)
  return tokens.every(([from], i) => from === (i === 0 ? start : all[i - 1])) ? tokens : undefined
}

function namesBefore(memory: Uint8Array, tokens: number, budget: Budget): { names: number; count: number } | undefined {
  const view = viewOf(memory)
  const markers = markersBefore(view, tokens)
  if (!markers) return undefined
  const { first, last, lastValue } = markers
  const markerCount = (last - first) / 4 + 1
  // The count stands before the names, whose end is known to within the names after the last marker.
  for (let names = (first - lastValue) & ~3; names >= 8 && names > first - lastValue - MAX_TAIL; names -= 4) {
    for (const at of [names - 4, names - 8]) {
      const count = view.getUint32(at, true)
      if (Math.ceil(count / SYMBOLS_PER_MARKER) !== markerCount || count > MAX_SYMBOLS) continue
      if (namesFit(memory, view, names, count, first, budget)) return { names, count }
    }
  }
  return undefined
}

/** Where each of `count` texts that follow each other ends, behind its zero. */
function ends(memory: Uint8Array, from: number, count: number): number[] | undefined {
  const found: number[] = []
  for (let at = from; found.length < count; at++) {
    if (at >= memory.length || at > (found.at(-1) ?? from) + 64) return undefined
    if (memory[at] === 0) found.push(at + 1)
  }
  return found
}

/** Markers rise from 0; what lies between them and the tokens is alignment. */
function markersBefore(view: DataView, tokens: number): { first: number; last: number; lastValue: number } | undefined {
  let last = (tokens & ~3) - 4
  if (last > 4 && view.getUint32(last, true) === 0) last -= 4
  let first = last
  if (first < 4) return undefined
  while (first >= 4 && view.getUint32(first, true) !== 0) {
    if (view.getUint32(first - 4, true) >= view.getUint32(first, true)) return undefined
    first -= 4
  }
  if (view.getUint32(first, true) !== 0) return undefined
  return { first, last, lastValue: view.getUint32(last, true) }
}

/** A name: its length in one byte, or in two where the first one's top bit is set, then its tokens. */
function nameAt(memory: Uint8Array, at: number): readonly [start: number, end: number] {
  const short = memory[at]
  if (short < 128) return [at + 1, at + 1 + short]
  return [at + 2, at + 2 + (short & 127) + (memory[at + 1] << 7)]
}

function namesFit(
  memory: Uint8Array,
  view: DataView,
  names: number,
  count: number,
  markers: number,
  budget: Budget,
): boolean {
  let at = names
  for (let i = 0; i < count; i++) {
    if (at >= markers || budget.names-- <= 0) return false
    if (i % SYMBOLS_PER_MARKER === 0 && view.getUint32(markers + (i / SYMBOLS_PER_MARKER) * 4, true) !== at - names)
      return false
    at = nameAt(memory, at)[1]
  }
  return at <= markers && markers - at < 8
}
