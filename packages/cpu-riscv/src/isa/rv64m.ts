/** Spec: RISC-V Unprivileged ISA, chapter "M": division by zero and overflow give results, they do not trap. */
import { i32, i64 } from '../wasm/expr.ts'
import type { I32, I64 } from '../wasm/function-body.ts'
import type { Emit } from './emit.ts'
import { extension, type RowDraft, row } from './row.ts'
import { OP, OP_32 } from './rv64i.ts'

const LOW = i64.const(0xffff_ffff)
const low = (a: I64): I64 => i64.and(a, LOW)
const high = (a: I64): I64 => i64.shr_u(a, i64.const(32))

/** High half of the unsigned product, from four 32x32 products. */
const mulhu = (e: Emit, a: I64, b: I64): I64 => {
  const a0 = e.hold('i64', low(a))
  const a1 = e.hold('i64', high(a))
  const b0 = e.hold('i64', low(b))
  const b1 = e.hold('i64', high(b))
  const middle = e.hold('i64', i64.add(i64.mul(a1, b0), high(i64.mul(a0, b0))))
  const middle2 = e.hold('i64', i64.add(i64.mul(a0, b1), low(middle)))
  return i64.add(i64.mul(a1, b1), i64.add(high(middle), high(middle2)))
}
/** b if a is negative, else 0: what the unsigned product has too much per signed operand. */
const ifNegative = (a: I64, b: I64): I64 => i64.and(i64.shr_s(a, i64.const(63)), b)

const multiplyHigh = (funct3: number, signed1: boolean, signed2: boolean): RowDraft =>
  row('r', { opcode: OP, funct3, funct7: 1 }, (e) => {
    const a = e.hold('i64', e.rs1())
    const b = e.hold('i64', e.rs2())
    let product = mulhu(e, a, b)
    if (signed1) product = i64.sub(product, ifNegative(a, b))
    if (signed2) product = i64.sub(product, ifNegative(b, a))
    e.rd(product)
  })

const divide64 = (
  funct3: number,
  byZero: (a: I64) => I64,
  overflow: I64 | 'dividend' | undefined,
  op: (a: I64, b: I64) => I64,
): RowDraft =>
  row('r', { opcode: OP, funct3, funct7: 1 }, (e) => {
    const a = e.hold('i64', e.rs1())
    const b = e.hold('i64', e.rs2())
    const result = e.body.local('i64')
    e.body.if(
      i64.eqz(b),
      () => e.body.set(result, byZero(a)),
      () => {
        if (!overflow) e.body.set(result, op(a, b))
        else
          e.body.if(
            i64.eq(b, i64.const(-1)),
            () => e.body.set(result, overflow === 'dividend' ? i64.sub(i64.const(0), a) : overflow),
            () => e.body.set(result, op(a, b)),
          )
      },
    )
    e.rd(result.get)
  })

const divide32 = (
  funct3: number,
  byZero: (a: I32) => I32,
  overflow: I32 | 'dividend' | undefined,
  op: (a: I32, b: I32) => I32,
): RowDraft =>
  row('r', { opcode: OP_32, funct3, funct7: 1 }, (e) => {
    const a = e.hold('i32', e.rs1w())
    const b = e.hold('i32', e.rs2w())
    const result = e.body.local('i32')
    e.body.if(
      i32.eqz(b),
      () => e.body.set(result, byZero(a)),
      () => {
        if (!overflow) e.body.set(result, op(a, b))
        else
          e.body.if(
            i32.eq(b, i32.const(-1)),
            () => e.body.set(result, overflow === 'dividend' ? i32.sub(i32.const(0), a) : overflow),
            () => e.body.set(result, op(a, b)),
          )
      },
    )
    e.rd(i64.extend_s(result.get))
  })

export const rv64m = extension('m', {
  mul: row('r', { opcode: OP, funct3: 0, funct7: 1 }, (e) => e.rd(i64.mul(e.rs1(), e.rs2()))),
  mulh: multiplyHigh(1, true, true),
  mulhsu: multiplyHigh(2, true, false),
  mulhu: multiplyHigh(3, false, false),
  div: divide64(4, () => i64.const(-1), 'dividend', i64.div_s),
  divu: divide64(5, () => i64.const(-1), undefined, i64.div_u),
  rem: divide64(6, (a) => a, i64.const(0), i64.rem_s),
  remu: divide64(7, (a) => a, undefined, i64.rem_u),
  mulw: row('r', { opcode: OP_32, funct3: 0, funct7: 1 }, (e) => e.rd(i64.extend_s(i32.mul(e.rs1w(), e.rs2w())))),
  divw: divide32(4, () => i32.const(-1), 'dividend', i32.div_s),
  divuw: divide32(5, () => i32.const(-1), undefined, i32.div_u),
  remw: divide32(6, (a) => a, i32.const(0), i32.rem_s),
  remuw: divide32(7, (a) => a, undefined, i32.rem_u),
})
