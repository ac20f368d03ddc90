import type { Operands } from './formats.ts'
import { instruction } from './table.ts'

/** The bits of an instruction, for tests: the inverse of decode for the formats that tests use. */
export function encode(name: string, operands: Partial<Operands> = {}): number {
  const row = instruction(name)
  const { rd = 0, rs1 = 0, rs2 = 0, rs3 = 0, imm = 0, rm = 0 } = operands
  const fields = (rd << 7) | (rm << 12) | (rs1 << 15) | (rs2 << 20) | (rs3 << 27)
  const bits = (fields | immediateBits(row.format.syntax, imm)) & row.format.operandBits
  return (row.match | bits) >>> 0
}

function immediateBits(syntax: string, imm: number): number {
  if (/^[tT],o\(s\)$/.test(syntax)) return ((imm >> 5) << 25) | ((imm & 31) << 7)
  if (syntax.includes('p')) {
    return ((imm >> 12) << 31) | (((imm >> 5) & 63) << 25) | (((imm >> 1) & 15) << 8) | (((imm >> 11) & 1) << 7)
  }
  if (syntax.includes('a')) {
    return ((imm >> 20) << 31) | (((imm >> 1) & 0x3ff) << 21) | (((imm >> 11) & 1) << 20) | (imm & 0xff000)
  }
  if (syntax.includes('u')) return imm & 0xffff_f000
  return imm << 20
}
