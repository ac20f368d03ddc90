import { LAYOUT } from '../hart/layout.ts'
import { i32, i64 } from '../wasm/expr.ts'
import type { I32, I64 } from '../wasm/function-body.ts'

/** A word of the hart's state, at its constant address. */
export const state = (hartBase: number) => ({
  get32: (offset: number): I32 => i32.load(i32.const(0), hartBase + offset),
  get: (offset: number): I64 => i64.load(i32.const(0), hartBase + offset),
  set32: (offset: number, value: I32) => i32.store(i32.const(0), value, hartBase + offset),
  set: (offset: number, value: I64) => i64.store(i32.const(0), value, hartBase + offset),
})

/** Is the budget used up, or has someone asked the loop to end? Requests are larger than budgets: see worker/requests.ts. */
export const wantsOut = (hartBase: number, budget: I32): I32 =>
  i32.le_s(budget, state(hartBase).get32(LAYOUT.request32))

/** pc of a slot of the page in force. */
export const slotPc = (hartBase: number, slot: I32): I64 => {
  const { get, get32 } = state(hartBase)
  const offset = i32.shr_u(i32.sub(slot, get32(LAYOUT.pageSlots32)), i32.const(3))
  return i64.add(get(LAYOUT.pageVaddr), i64.extend_u(offset))
}
