/** Spec: RISC-V Unprivileged ISA, chapters "RV32I" and "RV64I"; Zihintpause and Zihintntl are encodings of these. */
import { atomicFence, i32, i64 } from '../wasm/expr.ts'
import type { I32, I64 } from '../wasm/function-body.ts'
import type { AccessBytes, AccessName } from './emit.ts'
import { extension, type RowDraft, row, systemRow } from './row.ts'

export const LOAD = 0x03
export const MISC_MEM = 0x0f
export const OP_IMM = 0x13
export const AUIPC = 0x17
export const OP_IMM_32 = 0x1b
export const STORE = 0x23
export const OP = 0x33
export const LUI = 0x37
export const OP_32 = 0x3b
export const BRANCH = 0x63
export const JALR = 0x67
export const JAL = 0x6f
export const SYSTEM = 0x73

const load = (funct3: number, kind: AccessName): RowDraft =>
  row('load', { opcode: LOAD, funct3 }, (e) => e.rd(e.load(kind, e.address())))
const store = (funct3: number, bytes: AccessBytes): RowDraft =>
  row('store', { opcode: STORE, funct3 }, (e) => e.store(bytes, e.address(), e.rs2()))
const branch = (funct3: number, compare: (a: I64, b: I64) => I32): RowDraft =>
  row('branch', { opcode: BRANCH, funct3 }, (e) => e.branch(compare(e.rs1(), e.rs2())))
const immediate = (funct3: number, operation: (a: I64, b: I64) => I64): RowDraft =>
  row('i', { opcode: OP_IMM, funct3 }, (e) => e.rd(operation(e.rs1(), e.imm())))
const register = (funct3: number, funct7: number, operation: (a: I64, b: I64) => I64): RowDraft =>
  row('r', { opcode: OP, funct3, funct7 }, (e) => e.rd(operation(e.rs1(), e.rs2())))
const registerW = (funct3: number, funct7: number, operation: (a: I32, b: I32) => I32): RowDraft =>
  row('r', { opcode: OP_32, funct3, funct7 }, (e) => e.rd(i64.extend_s(operation(e.rs1w(), e.rs2w()))))
const shift = (funct3: number, funct7: number, operation: (a: I64, b: I64) => I64): RowDraft =>
  row('shift64', { opcode: OP_IMM, funct3, funct7 }, (e) => e.rd(operation(e.rs1(), e.imm())))
const shiftW = (funct3: number, funct7: number, operation: (a: I32, b: I32) => I32): RowDraft =>
  row('shift32', { opcode: OP_IMM_32, funct3, funct7 }, (e) => e.rd(i64.extend_s(operation(e.rs1w(), e.imm32()))))
const lt_s = (a: I64, b: I64): I64 => i64.extend_u(i64.lt_s(a, b))
const lt_u = (a: I64, b: I64): I64 => i64.extend_u(i64.lt_u(a, b))

export const rv64i = extension('i', {
  lui: row('u', { opcode: LUI }, (e) => e.rd(e.imm())),
  auipc: row('u', { opcode: AUIPC }, (e) => e.rd(i64.add(e.pc(), e.imm()))),
  jal: row('jal', { opcode: JAL }, (e) => {
    e.rd(e.nextPc())
    e.jump()
  }),
  jalr: row('jalr', { opcode: JALR }, (e) => {
    const target = e.hold('i64', i64.add(e.rs1(), e.imm()))
    e.rd(e.nextPc())
    e.jumpRegister(target)
  }),
  beq: branch(0, i64.eq),
  bne: branch(1, i64.ne),
  blt: branch(4, i64.lt_s),
  bge: branch(5, i64.ge_s),
  bltu: branch(6, i64.lt_u),
  bgeu: branch(7, i64.ge_u),
  lb: load(0, 'i8'),
  lh: load(1, 'i16'),
  lw: load(2, 'i32'),
  ld: load(3, 'i64'),
  lbu: load(4, 'u8'),
  lhu: load(5, 'u16'),
  lwu: load(6, 'u32'),
  sb: store(0, 1),
  sh: store(1, 2),
  sw: store(2, 4),
  sd: store(3, 8),
  addi: immediate(0, i64.add),
  slti: immediate(2, lt_s),
  sltiu: immediate(3, lt_u),
  xori: immediate(4, i64.xor),
  ori: immediate(6, i64.or),
  andi: immediate(7, i64.and),
  slli: shift(1, 0, i64.shl),
  srli: shift(5, 0, i64.shr_u),
  srai: shift(5, 0x20, i64.shr_s),
  add: register(0, 0, i64.add),
  sub: register(0, 0x20, i64.sub),
  sll: register(1, 0, i64.shl),
  slt: register(2, 0, lt_s),
  sltu: register(3, 0, lt_u),
  xor: register(4, 0, i64.xor),
  srl: register(5, 0, i64.shr_u),
  sra: register(5, 0x20, i64.shr_s),
  or: register(6, 0, i64.or),
  and: register(7, 0, i64.and),
  addiw: row('i', { opcode: OP_IMM_32 }, (e) => e.rd(i64.extend_s(i32.add(e.rs1w(), e.imm32())))),
  slliw: shiftW(1, 0, i32.shl),
  srliw: shiftW(5, 0, i32.shr_u),
  sraiw: shiftW(5, 0x20, i32.shr_s),
  addw: registerW(0, 0, i32.add),
  subw: registerW(0, 0x20, i32.sub),
  sllw: registerW(1, 0, i32.shl),
  srlw: registerW(5, 0, i32.shr_u),
  sraw: registerW(5, 0x20, i32.shr_s),
  /** Harts are threads of one memory, so a fence of theirs is a fence of ours; rd, rs1 and fm are ignored. */
  fence: row('fence', { opcode: MISC_MEM }, (e) => e.body.put(atomicFence)),
  /** A fence with predecessor W and no successor: a hint. */
  pause: row('bare', { opcode: MISC_MEM, imm12: 0x010 }, () => {}),
  ecall: systemRow('bare', { opcode: SYSTEM }),
  ebreak: systemRow('bare', { opcode: SYSTEM, imm12: 1 }),
})
