import { LAYOUT } from '../hart/layout.ts'
import { encode } from '../isa/encode-testing.ts'
import { Exit } from './contract.ts'
import { FLAT_BASE, flatHart } from './interpreter-testing.ts'

const BUDGET = 20_000
const REPETITIONS = 5
const RESET = 9
const COUNT = 11

/** x11 rounds of four instructions that only use registers. */
const tight = [
  encode('add', { rd: 10, rs1: 10, rs2: COUNT }),
  encode('xor', { rd: 12, rs1: 10, rs2: COUNT }),
  encode('addi', { rd: COUNT, rs1: COUNT, imm: -1 }),
  encode('bne', { rs1: COUNT, rs2: 0, imm: -12 }),
  encode('ecall'),
]
/** Loads, stores, a multiplication, a branch that goes either way, a call and a return. */
const mixed = [
  encode('andi', { rd: 14, rs1: COUNT, imm: 0x7f8 }),
  encode('add', { rd: 14, rs1: 14, rs2: RESET }),
  encode('ld', { rd: 15, rs1: 14 }),
  encode('mul', { rd: 16, rs1: 15, rs2: COUNT }),
  encode('add', { rd: 15, rs1: 15, rs2: 16 }),
  encode('sd', { rs1: 14, rs2: 15 }),
  encode('srli', { rd: 16, rs1: 15, imm: 7 }),
  encode('andi', { rd: 16, rs1: 16, imm: 1 }),
  encode('beq', { rs1: 16, rs2: 0, imm: 8 }),
  encode('jal', { rd: 1, imm: 16 }),
  encode('addi', { rd: COUNT, rs1: COUNT, imm: -1 }),
  encode('bne', { rs1: COUNT, rs2: 0, imm: -44 }),
  encode('ecall'),
  encode('lw', { rd: 17, rs1: 14, imm: 4 }),
  encode('addw', { rd: 10, rs1: 10, rs2: 17 }),
  encode('jalr', { rd: 0, rs1: 1 }),
]

/** Instructions per second of the generated loop alone: all of memory in the TLB, no interrupts. */
export default async function interpreterBench(report: (line: string) => void): Promise<void> {
  const hart = flatHart()
  hart.fillTlb()
  const programs = [
    ['tight loop', tight, 50_000_000],
    ['mixed', mixed, 10_000_000],
  ] as const
  for (const [index, [name, insns, rounds]] of programs.entries()) {
    const at = FLAT_BASE + index * 4096
    hart.load(at, insns)
    let best = 0
    for (let i = 0; i < REPETITIONS; i++) {
      hart.setX(COUNT, BigInt(rounds))
      hart.setX(RESET, BigInt(FLAT_BASE + 0x1_0000))
      hart.set(LAYOUT.instret, 0n)
      const began = performance.now()
      let pc = at
      while (hart.run(pc, BUDGET) === Exit.poll) pc = hart.pc()
      best = Math.max(best, Number(hart.get(LAYOUT.instret)) / (performance.now() - began) / 1000)
    }
    report(`${name}: ${best.toFixed(0)} MIPS`)
  }
  const began = performance.now()
  flatHart()
  report(`building an interpreter: ${(performance.now() - began).toFixed(0)} ms`)
}
