/** Spec: RISC-V Unprivileged ISA, chapter "B": Zba, Zbb, Zbc, Zbs. */
import { i32, i64, select } from '../wasm/expr.ts'
import type { I32, I64 } from '../wasm/function-body.ts'
import type { Emit } from './emit.ts'
import { extension, type RowDraft, row } from './row.ts'
import { OP, OP_32, OP_IMM, OP_IMM_32 } from './rv64i.ts'

const one = i64.const(1)
const register = (funct3: number, funct7: number, operation: (a: I64, b: I64) => I64): RowDraft =>
  row('r', { opcode: OP, funct3, funct7 }, (e) => e.rd(operation(e.rs1(), e.rs2())))
const unary = (funct3: number, imm12: number, operation: (a: I64) => I64): RowDraft =>
  row('r1', { opcode: OP_IMM, funct3, imm12 }, (e) => e.rd(operation(e.rs1())))
const unaryW = (imm12: number, operation: (a: I32) => I32): RowDraft =>
  row('r1', { opcode: OP_IMM_32, funct3: 1, imm12 }, (e) => e.rd(i64.extend_u(operation(e.rs1w()))))
const shift = (funct3: number, funct7: number, operation: (a: I64, b: I64) => I64): RowDraft =>
  row('shift64', { opcode: OP_IMM, funct3, funct7 }, (e) => e.rd(operation(e.rs1(), e.imm())))

const shiftAdd = (funct3: number, amount: number): RowDraft =>
  register(funct3, 0x10, (a, b) => i64.add(i64.shl(a, i64.const(amount)), b))
const shiftAddWord = (funct3: number, amount: number): RowDraft =>
  row('r', { opcode: OP_32, funct3, funct7: 0x10 }, (e) =>
    e.rd(i64.add(i64.shl(i64.extend_u(e.rs1w()), i64.const(amount)), e.rs2())),
  )

export const zba = extension('zba', {
  sh1add: shiftAdd(2, 1),
  sh2add: shiftAdd(4, 2),
  sh3add: shiftAdd(6, 3),
  'add.uw': row('r', { opcode: OP_32, funct3: 0, funct7: 0x04 }, (e) => e.rd(i64.add(i64.extend_u(e.rs1w()), e.rs2()))),
  'sh1add.uw': shiftAddWord(2, 1),
  'sh2add.uw': shiftAddWord(4, 2),
  'sh3add.uw': shiftAddWord(6, 3),
  'slli.uw': row('shift64', { opcode: OP_IMM_32, funct3: 1, funct7: 0x04 }, (e) =>
    e.rd(i64.shl(i64.extend_u(e.rs1w()), e.imm())),
  ),
})

const pick = (funct3: number, first: (a: I64, b: I64) => I32): RowDraft =>
  row('r', { opcode: OP, funct3, funct7: 0x05 }, (e) => {
    const a = e.hold('i64', e.rs1())
    const b = e.hold('i64', e.rs2())
    e.rd(select(a, b, first(a, b)))
  })
const not = (a: I64): I64 => i64.xor(a, i64.const(-1))

/** All ones in every byte that is not zero. */
const orcb = (e: Emit): void => {
  const low7 = i64.const(0x7f7f_7f7f_7f7f_7f7fn)
  const a = e.hold('i64', e.rs1())
  // Bit 7 of each byte: set by the addition if one of the low seven was, or set already.
  const tops = i64.and(i64.or(i64.add(i64.and(a, low7), low7), a), i64.const(0x8080_8080_8080_8080n))
  const ones = e.hold('i64', i64.shr_u(tops, i64.const(7)))
  e.rd(i64.mul(ones, i64.const(0xff)))
}
/** Reverses the bytes by swapping ever larger neighbours. */
const rev8 = (e: Emit): void => {
  const swap = (a: I64, mask: bigint, by: number): I64 => {
    const held = e.hold('i64', a)
    const keep = i64.const(mask)
    return i64.or(i64.and(i64.shr_u(held, i64.const(by)), keep), i64.shl(i64.and(held, keep), i64.const(by)))
  }
  const bytes = swap(e.rs1(), 0x00ff_00ff_00ff_00ffn, 8)
  const halves = swap(bytes, 0x0000_ffff_0000_ffffn, 16)
  e.rd(i64.rotl(halves, i64.const(32)))
}

export const zbb = extension('zbb', {
  andn: register(7, 0x20, (a, b) => i64.and(a, not(b))),
  orn: register(6, 0x20, (a, b) => i64.or(a, not(b))),
  xnor: register(4, 0x20, (a, b) => not(i64.xor(a, b))),
  clz: unary(1, 0x600, i64.clz),
  ctz: unary(1, 0x601, i64.ctz),
  cpop: unary(1, 0x602, i64.popcnt),
  clzw: unaryW(0x600, i32.clz),
  ctzw: unaryW(0x601, i32.ctz),
  cpopw: unaryW(0x602, i32.popcnt),
  min: pick(4, i64.lt_s),
  minu: pick(5, i64.lt_u),
  max: pick(6, i64.gt_s),
  maxu: pick(7, i64.gt_u),
  'sext.b': unary(1, 0x604, i64.extend8),
  'sext.h': unary(1, 0x605, i64.extend16),
  'zext.h': row('r1', { opcode: OP_32, funct3: 4, funct7: 0x04 }, (e) => e.rd(i64.and(e.rs1(), i64.const(0xffff)))),
  rol: register(1, 0x30, i64.rotl),
  ror: register(5, 0x30, i64.rotr),
  rori: shift(5, 0x30, i64.rotr),
  rolw: row('r', { opcode: OP_32, funct3: 1, funct7: 0x30 }, (e) => e.rd(i64.extend_s(i32.rotl(e.rs1w(), e.rs2w())))),
  rorw: row('r', { opcode: OP_32, funct3: 5, funct7: 0x30 }, (e) => e.rd(i64.extend_s(i32.rotr(e.rs1w(), e.rs2w())))),
  roriw: row('shift32', { opcode: OP_IMM_32, funct3: 5, funct7: 0x30 }, (e) =>
    e.rd(i64.extend_s(i32.rotr(e.rs1w(), e.imm32()))),
  ),
  'orc.b': row('r1', { opcode: OP_IMM, funct3: 5, imm12: 0x287 }, orcb),
  rev8: row('r1', { opcode: OP_IMM, funct3: 5, imm12: 0x6b8 }, rev8),
})

/** Adds to `result` the carry-less partial products `part` yields for each set bit of rs2. */
const carryless = (funct3: number, from: number, part: (a: I64, i: I64) => I64): RowDraft =>
  row('r', { opcode: OP, funct3, funct7: 0x05 }, (e) => {
    const { body } = e
    const a = e.hold('i64', e.rs1())
    const b = e.hold('i64', e.rs2())
    const result = body.local('i64')
    const i = body.local('i64')
    body.set(result, i64.const(0))
    body.set(i, i64.const(from))
    body.loop((again) => {
      const bit = i64.and(i64.shr_u(b, i.get), one)
      body.set(result, i64.xor(result.get, i64.and(part(a, i.get), i64.sub(i64.const(0), bit))))
      body.set(i, i64.add(i.get, one))
      body.brIf(again, i64.lt_u(i.get, i64.const(64)))
    })
    e.rd(result.get)
  })

export const zbc = extension('zbc', {
  clmul: carryless(1, 0, i64.shl),
  clmulr: carryless(2, 0, (a, i) => i64.shr_u(a, i64.sub(i64.const(63), i))),
  /** From bit 1: a shift by 64 would be one by 0. */
  clmulh: carryless(3, 1, (a, i) => i64.shr_u(a, i64.sub(i64.const(64), i))),
})

const single = (b: I64): I64 => i64.shl(one, b)
const bitClear = (a: I64, b: I64): I64 => i64.and(a, not(single(b)))
const bitExtract = (a: I64, b: I64): I64 => i64.and(i64.shr_u(a, b), one)
const bitInvert = (a: I64, b: I64): I64 => i64.xor(a, single(b))
const bitSet = (a: I64, b: I64): I64 => i64.or(a, single(b))

export const zbs = extension('zbs', {
  bclr: register(1, 0x24, bitClear),
  bclri: shift(1, 0x24, bitClear),
  bext: register(5, 0x24, bitExtract),
  bexti: shift(5, 0x24, bitExtract),
  binv: register(1, 0x34, bitInvert),
  binvi: shift(1, 0x34, bitInvert),
  bset: register(1, 0x14, bitSet),
  bseti: shift(1, 0x14, bitSet),
})
