import { LOADABLE, type Operands } from './formats.ts'
import type { Instruction } from './row.ts'
import { decode, isWide } from './table.ts'

export interface DisassemblerOptions {
  /** Names CSRs; without it, and for those it does not know, they are numbers. */
  readonly csrName?: (number: number) => string | undefined
}

const ROUNDING_MODES = ['rne', 'rtz', 'rdn', 'rup', 'rmm', 'rm5', 'rm6', 'dyn']
const DYNAMIC = 7
const RNE = 0
const RTZ = 1
const hex = (value: number): string => `0x${(value >>> 0).toString(16)}`
const fenceSet = (bits: number): string =>
  bits === 0 ? 'unknown' : [...'iorw'].filter((_, index) => bits & (8 >> index)).join('')

const loadableText = (value: number | 'min'): string => {
  if (typeof value === 'number' && Number.isInteger(value)) return value.toFixed(1)
  return { Infinity: 'inf', NaN: 'nan' }[String(value)] ?? String(value)
}

/** The text of each operand letter (see formats.ts); undefined leaves the operand out. */
const OPERANDS: Readonly<
  Record<string, (o: Operands, pc: bigint, options: DisassemblerOptions) => string | undefined>
> = {
  d: (o) => `x${o.rd}`,
  s: (o) => `x${o.rs1}`,
  t: (o) => `x${o.rs2}`,
  D: (o) => `f${o.rd}`,
  S: (o) => `f${o.rs1}`,
  T: (o) => `f${o.rs2}`,
  R: (o) => `f${o.rs3}`,
  j: (o) => String(o.imm),
  o: (o) => String(o.imm),
  '>': (o) => hex(o.imm),
  u: (o) => hex(o.imm >>> 12),
  p: (o, pc) => BigInt.asUintN(64, pc + BigInt(o.imm)).toString(16),
  a: (o, pc) => BigInt.asUintN(64, pc + BigInt(o.imm)).toString(16),
  Z: (o) => String(o.rs1),
  E: (o, _, options) => options.csrName?.(o.imm) ?? hex(o.imm),
  m: (o) => (o.rm === DYNAMIC ? undefined : ROUNDING_MODES[o.rm]),
  M: (o) => (o.rm === RNE ? undefined : ROUNDING_MODES[o.rm]),
  P: (o) => fenceSet((o.imm >> 4) & 15),
  Q: (o) => fenceSet(o.imm & 15),
  F: (o) => loadableText(LOADABLE[o.rs1]),
  N: () => ROUNDING_MODES[RTZ],
}

const ordering = (row: Instruction, insn: number): string => {
  if (!row.format.ordered) return ''
  return ['', '.rl', '.aq', '.aqrl'][(insn >>> 25) & 3]
}

/** One part between commas: letters become operands, the rest stays. */
const part = (text: string, operands: Operands, pc: bigint, options: DisassemblerOptions): string | undefined => {
  let out = ''
  for (const letter of text) {
    const operand = OPERANDS[letter]
    if (!operand) out += letter
    else {
      const shown = operand(operands, pc, options)
      if (shown === undefined) return undefined
      out += shown
    }
  }
  return out
}

/**
 * Text of an instruction: mnemonic, a tab and operands in the order of GNU objdump, with numeric register names and without
 * pseudo-instructions. Branch targets are absolute, in hexadecimal.
 *
 * @param insn 32 bits, or a 16-bit instruction in the low half (the rest is ignored)
 * @param pc its address
 */
export function disassemble(insn: number, pc: bigint, options: DisassemblerOptions = {}): string {
  const decoded = decode(insn)
  if (!decoded) return isWide(insn) ? `.4byte\t${hex(insn)}` : `.2byte\t${hex(insn & 0xffff)}`
  const { row, operands, compressed } = decoded
  const name = compressed ? compressed.name : row.name + ordering(row, insn)
  const syntax = compressed ? compressed.syntax : row.format.syntax
  const parts = syntax.split(',').map((text) => part(text, operands, pc, options))
  const shown = parts.filter((text) => text !== undefined && text !== '').join(',')
  return shown === '' ? name : `${name}\t${shown}`
}
