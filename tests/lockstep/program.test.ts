import { PROFILES } from '@ferryvm/cpu-riscv'
import { describe, expect, it } from 'vitest'
import { CSR_RULES } from './csrs.ts'
import { generateProgram } from './program.ts'
import { instructionTable } from './table.ts'

const generate = (seed: number, blocks: number) =>
  generateProgram({ seed, blocks, passes: 8, table: instructionTable(PROFILES['qemu-10.0']), csrs: CSR_RULES })

describe('generated lockstep programs', () => {
  it('are the same for the same seed, and others for another', () => {
    expect(generate(5, 50).image).toEqual(generate(5, 50).image)
    expect(generate(5, 50).image).not.toEqual(generate(6, 50).image)
  })
  it('end every block in an ecall and never write x3', () => {
    for (const { insns, end } of generate(8, 200).blocks) {
      expect(insns.at(-1)).toMatchObject({ address: end, bits: 0x73 })
      const adds = insns.filter(({ bits }) => (bits & 0x7f) === 0x13 || (bits & 0x7f) === 0x33)
      expect(adds.filter(({ bits, name }) => name !== 'illegal' && ((bits >>> 7) & 31) === 3)).toEqual([])
    }
  })
  it('refuse more than fits', () => {
    expect(() => generate(1, 20_000)).toThrow(RangeError)
  })
})
