/** All rows, and the way from an instruction's bits to its row. */
import { zba, zbb, zbc, zbs } from './bitmanip.ts'
import { compressed } from './compressed.ts'
import { rv64d, rv64f, zfa } from './floating-point.ts'
import { hasRoundingMode, type Operands, readOperands } from './formats.ts'
import type { CompressedInstruction, Instruction } from './row.ts'
import { rv64a } from './rv64a.ts'
import { rv64i } from './rv64i.ts'
import { rv64m } from './rv64m.ts'
import { privileged, svinval, zawrs, zicbom, zicbop, zicboz, zicsr, zifencei } from './system.ts'

export const INSTRUCTIONS: readonly Instruction[] = [
  ...rv64i,
  ...rv64m,
  ...rv64a,
  ...rv64f,
  ...rv64d,
  ...zfa,
  ...zba,
  ...zbb,
  ...zbc,
  ...zbs,
  ...zicsr,
  ...zifencei,
  ...zicbom,
  ...zicboz,
  ...zicbop,
  ...zawrs,
  ...privileged,
  ...svinval,
]
export const COMPRESSED: readonly CompressedInstruction[] = compressed

const byName = new Map(INSTRUCTIONS.map((row) => [row.name, row]))
if (byName.size !== INSTRUCTIONS.length) throw new Error('two instructions have the same name')

/** @throws Error if there is no such instruction: a mistake in the table */
export const instruction = (name: string): Instruction => {
  const row = byName.get(name)
  if (!row) throw new Error(`no instruction is called ${name}`)
  return row
}

const bitCount = (value: number): number => {
  let count = 0
  for (let rest = value >>> 0; rest !== 0; rest = (rest & (rest - 1)) >>> 0) count++
  return count
}
interface Encoded {
  readonly match: number
  readonly mask: number
}
/** Rows by a few bits that every row fixes; within a bucket the one with more fixed bits first (pause before fence). */
const bucketsOf = <R extends Encoded>(rows: readonly R[], key: (insn: number) => number, keyMask: number): R[][] => {
  const buckets: R[][] = []
  for (const row of [...rows].sort((a, b) => bitCount(b.mask) - bitCount(a.mask))) {
    if ((row.mask & keyMask) !== keyMask) throw new Error('a row leaves its opcode open')
    const at = key(row.match)
    buckets[at] ??= []
    buckets[at].push(row)
  }
  return buckets
}
const wideKey = (insn: number): number => (insn >>> 2) & 0x1f
const narrowKey = (insn: number): number => ((insn >>> 11) & 0x1c) | (insn & 3)
const wide = bucketsOf(INSTRUCTIONS, wideKey, 0x7f)
const narrow = bucketsOf(COMPRESSED, narrowKey, 0xe003)

export interface Decoded {
  readonly row: Instruction
  readonly operands: Operands
  readonly bytes: 2 | 4
  /** The 16-bit row, if the instruction was one. */
  readonly compressed?: CompressedInstruction
}

/** Is it 4 bytes long, going by its first halfword? (Longer ones are not defined, and read as 4.) */
export const isWide = (firstHalfword: number): boolean => (firstHalfword & 3) === 3

const find = <R extends Encoded>(
  rows: readonly R[] | undefined,
  insn: number,
  has: (row: R) => boolean,
): R | undefined => {
  if (rows) for (const row of rows) if ((insn & row.mask) >>> 0 === row.match && has(row)) return row
  return undefined
}
const everything = (): boolean => true

/**
 * @param insn 32 bits, or a 16-bit instruction in the low half (the rest is ignored)
 * @param has is the extension there? Without it its rows do not count
 * @returns undefined for what is not an instruction, reserved encodings included
 */
export const decode = (insn: number, has: (extension: string) => boolean = everything): Decoded | undefined => {
  if (isWide(insn)) {
    const row = find(wide[wideKey(insn)], insn, (row) => has(row.extension))
    if (!row) return undefined
    const operands = readOperands(row.format, insn)
    if (hasRoundingMode(row.format) && (operands.rm === 5 || operands.rm === 6)) return undefined
    return { row, operands, bytes: 4 }
  }
  const half = insn & 0xffff
  const row = find(narrow[narrowKey(half)], half, everything)
  if (!row || row.valid?.(half) === false) return undefined
  const operands = { rd: 0, rs1: 0, rs2: 0, rs3: 0, imm: 0, rm: 0, ...row.operands(half) }
  return { row: instruction(row.expandsTo), operands, bytes: 2, compressed: row }
}
