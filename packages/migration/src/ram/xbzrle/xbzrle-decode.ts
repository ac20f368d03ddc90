import { type GuestMemory, PAGE_BYTES } from '@ferryvm/core'
import {
  ADD,
  AND,
  block,
  br,
  brIf,
  type Code,
  EQZ,
  GE_U,
  GT_U,
  get,
  i32,
  instantiateKernels,
  type Kernel,
  LT_U,
  load8,
  loop,
  MEMORY_COPY,
  OR,
  RETURN,
  SHL,
  SUB,
  set,
  store8,
  tee,
  when,
} from '../../wasm/assembler.ts'

/** Why an encoded page cannot be applied; the kernel returns the index. */
const PROBLEMS = [
  '',
  'it ends within a run',
  'a number has more than 14 bits',
  'a run of equal bytes is empty',
  'a run of different bytes is empty',
  'a run goes beyond the end of the page',
]
const [, CUT, TOO_LONG, NO_SKIP, NO_COPY, BEYOND] = PROBLEMS.keys()

/**
 * Applies an encoding to a page of guest memory at `address`.
 * @returns undefined, or what is wrong with it; the page is then partly changed
 */
export type XbzrleDecode = (encoded: Uint8Array, address: number) => string | undefined

/** The kernel reads its input from guest memory, too, where `scratch` has room for a page. */
export function createXbzrleDecode(memory: GuestMemory): XbzrleDecode {
  try {
    const scratch = memory.allocate(PAGE_BYTES)
    const input = new Uint8Array(memory.buffer, scratch, PAGE_BYTES)
    const { decode } = instantiateKernels(memory.memory, { shared: true, maximumPages: 65536 }, { decode: kernel() })
    return (encoded, address) => {
      input.set(encoded)
      return PROBLEMS[decode(scratch, scratch + encoded.length, address)] || undefined
    }
  } catch {
    return (encoded, address) => xbzrleDecode(encoded, new Uint8Array(memory.buffer, address, PAGE_BYTES))
  }
}

/** As a {@link XbzrleDecode} does, in JavaScript. */
export function xbzrleDecode(encoded: Uint8Array, page: Uint8Array): string | undefined {
  let read = 0
  let at = 0
  let problem = 0
  const number = (): number => {
    if (read + 2 > encoded.length) {
      problem = CUT!
      return 0
    }
    const low = encoded[read++]!
    if (low < 0x80) return low
    const high = encoded[read++]!
    if (high >= 0x80) problem = TOO_LONG!
    return (low & 0x7f) | (high << 7)
  }
  while (read < encoded.length) {
    const first = read === 0
    const skip = number()
    if (!problem && skip === 0 && !first) problem = NO_SKIP!
    at += skip
    if (!problem && at > PAGE_BYTES) problem = BEYOND!
    if (problem) break
    const count = number()
    if (problem) break
    if (count === 0) problem = NO_COPY!
    else if (at + count > PAGE_BYTES) problem = BEYOND!
    else if (read + count > encoded.length) problem = CUT!
    if (problem) break
    page.set(encoded.subarray(read, read + count), at)
    read += count
    at += count
  }
  return PROBLEMS[problem] || undefined
}

/** (read, end, page) -> index of a problem. */
function kernel(): Kernel {
  const [read, end, page, at, n, first, pageEnd] = [0, 1, 2, 3, 4, 5, 6]
  const fail = (problem: number): Code => when([i32(problem), RETURN])
  const step = (local: number, by: Code): Code => [get(local), by, ADD, set(local)]
  const number: Code = [
    ...[get(read!), i32(2), ADD, get(end!), GT_U, fail(CUT!)],
    ...[get(read!), load8(), tee(n!), i32(128), GE_U],
    when(
      [
        ...[get(read!), load8(1), i32(128), GE_U, fail(TOO_LONG!)],
        ...[get(n!), i32(127), AND, get(read!), load8(1), i32(7), SHL, OR, set(n!)],
        step(read!, i32(2)),
      ],
      [step(read!, i32(1))],
    ),
  ]
  return {
    parameters: 3,
    locals: 4,
    body: [
      ...[get(read!), set(first!), get(page!), set(at!), get(page!), i32(PAGE_BYTES), ADD, set(pageEnd!)],
      block(
        loop(
          ...[get(read!), get(end!), GE_U, brIf(1)],
          ...[get(read!), get(first!), SUB, EQZ, set(first!)], // now: whether this is the first pair
          number,
          ...[get(n!), get(first!), OR, EQZ, fail(NO_SKIP!)],
          ...[i32(0), set(first!)],
          step(at!, get(n!)),
          ...[get(at!), get(pageEnd!), GT_U, fail(BEYOND!)],
          number,
          ...[get(n!), EQZ, fail(NO_COPY!)],
          ...[get(at!), get(n!), ADD, get(pageEnd!), GT_U, fail(BEYOND!)],
          ...[get(read!), get(n!), ADD, get(end!), GT_U, fail(CUT!)],
          // A call of memory.copy costs more than a handful of bytes.
          ...[get(n!), i32(8), LT_U],
          when(
            [
              loop(
                ...[get(at!), get(read!), load8(), store8()],
                ...[step(at!, i32(1)), step(read!, i32(1))],
                ...[get(n!), i32(1), SUB, tee(n!), brIf(0)],
              ),
            ],
            [get(at!), get(read!), get(n!), MEMORY_COPY, step(at!, get(n!)), step(read!, get(n!))],
          ),
          br(0),
        ),
      ),
      i32(0),
    ],
  }
}
