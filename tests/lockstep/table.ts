/** The instruction table of cpu-riscv, as the generator sees it. */
import type { HartProfile } from '@ferryvm/cpu-riscv'
import { COMPRESSED, INSTRUCTIONS, instruction } from '../../packages/cpu-riscv/src/isa/table.ts'
import type { Row, RowTable } from './rows.ts'

const asRow = (row: (typeof INSTRUCTIONS)[number]): Row => ({ ...row, syntax: row.format.syntax })

export function instructionTable(profile: HartProfile): RowTable {
  return {
    rows: INSTRUCTIONS.map(asRow),
    compressed: COMPRESSED.map((row) => ({
      ...row,
      expandsTo: asRow(instruction(row.expandsTo)),
      valid: row.valid ?? (() => true),
    })),
    has: (extension) => profile[extension as keyof HartProfile] !== false,
  }
}
