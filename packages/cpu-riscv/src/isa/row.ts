import type { Semantics } from './emit.ts'
import { FORMATS, type Format, type FormatName, type Operands } from './formats.ts'

/** A 32-bit instruction. */
export interface Instruction {
  readonly name: string
  readonly extension: string
  readonly format: Format
  readonly match: number
  readonly mask: number
  readonly semantics: Semantics
}

/** A 16-bit instruction: another way to write a 32-bit one. */
export interface CompressedInstruction {
  readonly name: string
  readonly extension: string
  readonly match: number
  readonly mask: number
  readonly expandsTo: string
  /** The operands of the 32-bit instruction. */
  readonly operands: (insn: number) => Partial<Operands>
  /** As in formats.ts; the letters name operands of the 32-bit instruction. */
  readonly syntax: string
  /** False for the encodings that are reserved. */
  readonly valid?: (insn: number) => boolean
}

/** The constant fields of an encoding; those that are left out are operands or zero. */
interface Encoding {
  readonly opcode: number
  readonly funct3?: number
  readonly funct7?: number
  readonly rs2?: number
  readonly rs1?: number
  readonly rd?: number
  readonly imm12?: number
}

export interface RowDraft {
  readonly format: Format
  readonly encoding: Encoding
  readonly semantics: Semantics
}

export const row = (format: FormatName, encoding: Encoding, semantics: Semantics): RowDraft => ({
  format: FORMATS[format],
  encoding,
  semantics,
})

/** A row that leaves the interpreter at once. */
export const systemRow = (format: FormatName, encoding: Encoding): RowDraft => row(format, encoding, (e) => e.system())

/** Names the rows of one extension. Bits that are neither operands nor given by `encoding` are zero in the encoding. */
export const extension = (name: string, rows: Readonly<Record<string, RowDraft>>): readonly Instruction[] =>
  Object.entries(rows).map(([mnemonic, draft]) => {
    const { opcode, funct3 = 0, funct7 = 0, rs2 = 0, rs1 = 0, rd = 0, imm12 = 0 } = draft.encoding
    const match =
      (opcode | (funct3 << 12) | (funct7 << 25) | (rs2 << 20) | (rs1 << 15) | (rd << 7) | (imm12 << 20)) >>> 0
    const mask = ~draft.format.operandBits >>> 0
    if ((match & ~mask) !== 0) throw new Error(`${mnemonic}: a constant field overlaps an operand`)
    return {
      name: mnemonic,
      extension: name,
      format: draft.format,
      match,
      mask,
      semantics: draft.semantics,
    }
  })
