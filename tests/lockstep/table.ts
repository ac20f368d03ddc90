/** The instruction table of cpu-riscv, as the generator sees it. */
import type { HartProfile } from '@ferryvm/cpu-riscv'
import { COMPRESSED, INSTRUCTIONS, instruction } from '../../packages/cpu-riscv/src/isa/table.ts'
import { FLAGS_WRONG_IN_RELEASE, type Row, type RowTable, WRONG_IN_RELEASE } from './rows.ts'

const asRow = (row: (typeof INSTRUCTIONS)[number]): Row => ({ ...row, syntax: row.format.syntax })

export function instructionTable(profile: HartProfile): RowTable {
  const wrong = WRONG_IN_RELEASE[profile.name] ?? {}
  const flags = FLAGS_WRONG_IN_RELEASE[profile.name] ?? []
  return {
    rows: INSTRUCTIONS.filter((row) => !wrong[row.name]).map(asRow),
    compressed: COMPRESSED.map((row) => ({
      ...row,
      expandsTo: asRow(instruction(row.expandsTo)),
      valid: row.valid ?? (() => true),
    })),
    has: (extension) => profile[extension as keyof HartProfile] !== false,
    ignoredFlags: (name) => flags.reduce((mask, wrong) => (wrong.row.test(name) ? mask | wrong.flags : mask), 0),
    atomicsAnywhere: profile.name !== 'qemu-7.2',
    illegalTval: profile.name === 'qemu-7.2',
  }
}

export { disassemble } from '../../packages/cpu-riscv/src/isa/disassembler.ts'
