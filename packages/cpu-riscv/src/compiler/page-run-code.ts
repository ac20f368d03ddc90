import { PAGE_MASK } from '../interpreter/memory-access.ts'
import { i32, i64, select } from '../wasm/expr.ts'
import type { FunctionBody, I32, I64, Label, Local } from '../wasm/function-body.ts'
import { isConstant, type Linear, MAX_STRIDE, type PageRun } from './page-runs.ts'
import type { Step } from './region.ts'

/** Rounds of one run at most, and what fewer are not worth. */
const MAX_ROUNDS = 4096
const MIN_ROUNDS = 4
/** What has to be a number of 31 bits grows by no more in a round, so it may begin with up to so much. */
const MAX_GROWTH = 4096
const MAX_SMALL = 2 ** 31 - MAX_ROUNDS * MAX_GROWTH
const LAST_IN_PAGE = 0xfff

/** What looking ahead needs of the code around it. */
export interface LookAhead {
  readonly body: FunctionBody
  x(register: number): I64
  /** Where the TLB's entry of an address is: a place in memory, and a distance from there. */
  tlbEntry(write: boolean, address: I64): { readonly entry: I32; readonly offset: number }
}

/**
 * Finds out for how many rounds a loop stays in its pages, and jumps to `no` if they are too few or a page has no TLB entry.
 * @param rounds gets their number
 * @returns by step: what added to the address of its access is the place in memory
 */
export function lookAhead(
  { body, x, tlbEntry }: LookAhead,
  { windows, small }: PageRun,
  rounds: Local<'i32'>,
  no: Label,
): ReadonlyMap<Step, Local<'i32'>> {
  const sum = ({ terms, constant }: Linear): I64 => {
    let result: I64 | undefined
    for (const [register, times] of terms) {
      const term = times === 1n ? x(register) : i64.mul(x(register), i64.const(times))
      result = result ? i64.add(result, term) : term
    }
    if (!result) return i64.const(constant)
    return constant === 0n ? result : i64.add(result, i64.const(constant))
  }
  const addends = new Map<Step, Local<'i32'>>()
  body.set(rounds, i32.const(MAX_ROUNDS))
  for (const { value, stride } of small) {
    body.brIf(no, i64.ge_u(sum(value), i64.const(MAX_SMALL)))
    body.brIf(no, i64.gt_u(sum(stride), i64.const(MAX_GROWTH)))
  }
  for (const { write, first, span, stride, members } of windows) {
    const addend = body.local('i32')
    for (const step of members) addends.set(step, addend)
    body.scope(() => {
      const low = body.hold('i64', sum(first))
      const { entry, offset } = tlbEntry(write, low)
      body.brIf(no, i64.ne(i64.and(low, i64.const(PAGE_MASK)), i64.load(entry, offset)))
      body.set(addend, i32.load(entry, offset + 8))
      const at = body.hold('i32', i32.and(i32.wrap(low), i32.const(LAST_IN_PAGE)))
      const room = body.hold('i32', i32.sub(i32.const(LAST_IN_PAGE - span), at))
      body.brIf(no, i32.lt_s(room, i32.const(0)))
      if (isConstant(stride) && stride.constant === 0n) return
      let ahead: I32
      if (isConstant(stride)) {
        const bytes = Number(stride.constant)
        ahead = i32.div_u(bytes > 0 ? room : at, i32.const(Math.abs(bytes)))
      } else {
        const bytes = body.hold('i64', sum(stride))
        body.brIf(no, i64.ge_u(i64.sub(bytes, i64.const(1)), i64.const(MAX_STRIDE)))
        ahead = i32.div_u(room, i32.wrap(bytes))
      }
      const possible = body.hold('i32', i32.add(ahead, i32.const(1)))
      body.set(rounds, select(possible, rounds.get, i32.lt_u(possible, rounds.get)))
    })
  }
  body.brIf(no, i32.lt_u(rounds.get, i32.const(MIN_ROUNDS)))
  return addends
}
