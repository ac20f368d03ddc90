import { MSTATUS } from '../hart/hart-state.ts'
import { csrOffset, LAYOUT } from '../hart/layout.ts'
import { state } from '../interpreter/state-code.ts'
import { writeSstatus } from '../trap/trap-code.ts'
import { i32, i64, select } from '../wasm/expr.ts'
import type { FunctionBody, I32, I64 } from '../wasm/function-body.ts'
import { CSRS, SSTATUS_READ, SSTATUS_WRITE } from './csr-table.ts'

export const SSTATUS = 0x100
const SD = 1n << 63n
const VS = 3 << 9
/** Operations: 1 writes the source, 2 sets its bits, 3 clears them. */
const SET = 2
const CLEAR = 3

/** Can compiled code access the CSR itself? */
export const hasCsrCode = (number: number): boolean => number === SSTATUS || CSRS.get(number)?.word !== undefined

/**
 * One CSR instruction in compiled code, for the registers of {@link hasCsrCode}.
 * @param written undefined: it only reads @param giveUp leaves if the condition holds: nothing was changed
 * @returns the old value
 */
export function csrCode(
  body: FunctionBody,
  hartBase: number,
  number: number,
  written: { readonly operation: number; readonly source: I64 } | undefined,
  giveUp: (condition: I32) => void,
): I64 {
  const { get, get32, set } = state(hartBase)
  giveUp(i32.lt_u(get32(LAYOUT.priv32), i32.const((number >> 8) & 3)))
  const word = CSRS.get(number)!.word
  if (word) {
    const old = body.hold('i64', get(word.at))
    if (!written) return old
    const { operation, source } = written
    const value =
      operation === SET
        ? i64.or(old, source)
        : operation === CLEAR
          ? i64.and(old, i64.xor(source, i64.const(-1)))
          : source
    const kept = i64.and(old, i64.const(~word.mask))
    body.put(set(word.at, i64.or(kept, i64.and(value, i64.const(word.mask)))))
    return old
  }
  const wide = body.hold('i64', get(csrOffset('mstatus')))
  const before = body.hold('i32', i32.wrap(wide))
  const all = (bits: number): I32 => i32.eq(i32.and(before, i32.const(bits)), i32.const(bits))
  const dirty = i32.or(all(MSTATUS.FS), all(VS))
  const old = body.hold(
    'i64',
    i64.or(i64.and(wide, i64.const(SSTATUS_READ)), select(i64.const(SD), i64.const(0), dirty)),
  )
  if (!written) return old
  const { operation, source } = written
  const bits = i32.wrap(source)
  const asked =
    operation === SET
      ? i32.and(bits, i32.xor(before, i32.const(-1)))
      : operation === CLEAR
        ? i32.and(bits, before)
        : i32.xor(bits, before)
  const changed = body.hold('i32', i32.and(asked, i32.const(Number(SSTATUS_WRITE))))
  writeSstatus(body, hartBase, before, changed, giveUp)
  return old
}
