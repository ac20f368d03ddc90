/**
 * Instructions about the hart itself. The interpreter only knows how to leave for most of them; TypeScript decodes their
 * bits. The hypervisor's instructions have no rows: they are illegal while VS mode is not modelled.
 * Spec: RISC-V Unprivileged ISA, chapters "Zifencei", "Zicsr", "CMO", "Zawrs"; Privileged ISA, sections "Privileged
 * Instructions" and "Svinval".
 */
import type { Emit } from './emit.ts'
import { extension, type RowDraft, row, systemRow } from './row.ts'
import { MISC_MEM, OP_IMM, SYSTEM } from './rv64i.ts'

export const privileged = extension('system', {
  sret: systemRow('bare', { opcode: SYSTEM, imm12: 0x102 }),
  mret: systemRow('bare', { opcode: SYSTEM, imm12: 0x302 }),
  wfi: systemRow('bare', { opcode: SYSTEM, imm12: 0x105 }),
  'sfence.vma': systemRow('fenceVma', { opcode: SYSTEM, funct7: 0x09 }),
})

export const svinval = extension('svinval', {
  'sinval.vma': systemRow('fenceVma', { opcode: SYSTEM, funct7: 0x0b }),
  'sfence.w.inval': systemRow('bare', { opcode: SYSTEM, imm12: 0x180 }),
  'sfence.inval.ir': systemRow('bare', { opcode: SYSTEM, imm12: 0x181 }),
})

export const zawrs = extension('zawrs', {
  'wrs.nto': systemRow('bare', { opcode: SYSTEM, imm12: 0x00d }),
  'wrs.sto': systemRow('bare', { opcode: SYSTEM, imm12: 0x01d }),
})

/** rd, rs1 and the immediate are ignored. */
export const zifencei = extension('zifencei', {
  'fence.i': systemRow('fence', { opcode: MISC_MEM, funct3: 1 }),
})

const csr = (funct3: number): RowDraft =>
  row(funct3 < 4 ? 'csr' : 'csri', { opcode: SYSTEM, funct3 }, (e) => e.rd(e.csr(funct3, funct3 >= 4)))

export const zicsr = extension('zicsr', {
  csrrw: csr(1),
  csrrs: csr(2),
  csrrc: csr(3),
  csrrwi: csr(5),
  csrrsi: csr(6),
  csrrci: csr(7),
})

const cbo = (imm12: number): RowDraft =>
  row('cbo', { opcode: MISC_MEM, funct3: 2, imm12 }, (e: Emit) => e.cacheBlock(imm12, e.hold('i64', e.rs1())))

export const zicbom = extension('zicbom', { 'cbo.inval': cbo(0), 'cbo.clean': cbo(1), 'cbo.flush': cbo(2) })
export const zicboz = extension('zicboz', { 'cbo.zero': cbo(4) })

/** Encodings of ori with rd x0: they do nothing here, and never fault. */
const prefetch = (rs2: number): RowDraft => row('prefetch', { opcode: OP_IMM, funct3: 6, rs2 }, () => {})

export const zicbop = extension('zicbop', {
  'prefetch.i': prefetch(0),
  'prefetch.r': prefetch(1),
  'prefetch.w': prefetch(3),
})
