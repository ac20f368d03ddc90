import { describe, expect, it } from 'vitest'
import { PRIV, WORD } from '../hart/hart-state.ts'
import { LAYOUT } from '../hart/layout.ts'
import { encode } from '../isa/encode-testing.ts'
import { decode } from '../isa/table.ts'
import { checkedAt, groupAccesses } from './access-groups.ts'
import {
  agrees,
  CODE,
  COUNTER_REGISTER,
  changed,
  DATA,
  DATA_REGISTER,
  END,
  PTE,
  prepared,
  RAM_BASE,
  supervised,
} from './compiler-testing.ts'
import { LEAVE } from './leave.ts'
import type { Step } from './region.ts'

const stepsOf = (insns: readonly number[]): Step[] =>
  insns.map((insn, i) => ({ at: i * 4, bytes: 4, decoded: decode(insn)!, kind: 'plain' }))
const groupSizes = (insns: readonly number[]): number[] => {
  const steps = stepsOf(insns)
  const groups = groupAccesses(steps)
  return steps.map((step) => groups.get(step)?.members.length ?? 0)
}

describe('groups of accesses', () => {
  it('have one base register with one value in it', () => {
    expect(
      groupSizes([
        encode('ld', { rd: 5, rs1: 10, imm: 0 }),
        encode('ld', { rd: 6, rs1: 11, imm: 8 }),
        encode('sd', { rs1: 10, rs2: 5, imm: 16 }),
        encode('lw', { rd: 10, rs1: 10, imm: 24 }),
        encode('ld', { rd: 7, rs1: 10, imm: 8 }),
        encode('sd', { rs1: 10, rs2: 5, imm: 32 }),
      ]),
    ).toEqual([2, 0, 0, 2, 0, 0])
  })

  it('are aligned when their widest member is', () => {
    expect(
      groupSizes([
        encode('lw', { rd: 5, rs1: 10, imm: 4 }),
        encode('ld', { rd: 6, rs1: 10, imm: 8 }),
        encode('lb', { rd: 7, rs1: 10, imm: 3 }),
      ]),
    ).toEqual([3, 3, 3])
    // The ld is aligned only where the lw is not.
    expect(groupSizes([encode('lw', { rd: 5, rs1: 10, imm: 2 }), encode('ld', { rd: 6, rs1: 10, imm: 8 })])).toEqual([
      0, 0,
    ])
  })

  it('are tested beyond their highest member, where the widest would be aligned', () => {
    const steps = stepsOf([encode('ld', { rd: 5, rs1: 10, imm: -8 }), encode('lb', { rd: 6, rs1: 10, imm: 1 })])
    const group = groupAccesses(steps).get(steps[0])!
    expect(group).toMatchObject({ low: -8, high: 1, bytes: 8 })
    expect(checkedAt(group)).toBe(8)
  })

  it('do not reach over a change of sstatus', () => {
    expect(
      groupSizes([
        encode('ld', { rd: 5, rs1: 10, imm: 0 }),
        encode('csrrs', { rd: 0, rs1: 6, imm: 0x100 }),
        encode('ld', { rd: 5, rs1: 10, imm: 8 }),
      ]),
    ).toEqual([0, 0, 0])
  })

  it('agree with the interpreter at every place in a page and over its end', () => {
    const [hart] = agrees((h) => {
      for (let i = 0; i < 0x3000; i++) h.ram[DATA - RAM_BASE + i] = (i * 7) ^ (i >> 8)
      h.hart.setX(10, BigInt(DATA + 0xf80))
      h.hart.setX(COUNTER_REGISTER, 1200n)
      h.load(CODE, [
        encode('ld', { rd: 5, rs1: 10, imm: 0 }),
        encode('lw', { rd: 6, rs1: 10, imm: 12 }),
        encode('lbu', { rd: 7, rs1: 10, imm: 17 }),
        encode('add', { rd: 8, rs1: 8, rs2: 5 }),
        encode('sd', { rs1: 10, rs2: 8, imm: 32 }),
        encode('sb', { rs1: 10, rs2: 7, imm: 30 }),
        encode('xor', { rd: 8, rs1: 8, rs2: 6 }),
        // One byte further: aligned in one round of eight.
        encode('addi', { rd: 10, rs1: 10, imm: 1 }),
        encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
        encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -36 }),
        ...END,
      ])
      return CODE
    })
    expect(hart.counter('regions')).toBeGreaterThan(0)
  })

  it('are given up where they lie across a page boundary all the time', () => {
    const hart = prepared(2)
    hart.hart.setX(10, BigInt(DATA + 0xff8))
    hart.hart.setX(COUNTER_REGISTER, 1_000_000n)
    hart.load(CODE, [
      encode('ld', { rd: 5, rs1: 10, imm: 0 }),
      encode('ld', { rd: 6, rs1: 10, imm: 8 }),
      encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
      encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -12 }),
      ...END,
    ])
    hart.run(CODE)
    const left = Number(hart.hart.get(LAYOUT.leaves + LEAVE.group * 8))
    expect(left).toBeGreaterThan(0)
    // What one poll saw, not each of the rounds.
    expect(left).toBeLessThan(100_000)
  })
})

describe('jump tables', () => {
  /** Cases of 16 bytes each, which add their number and go back; the last one is the way out. */
  const cases = 12
  const table = CODE + 0x100

  it('agree with the interpreter on targets in the table, between them and outside', () => {
    const [hart] = agrees((h) => {
      h.hart.setX(COUNTER_REGISTER, 4000n)
      h.hart.setX(10, BigInt(table))
      h.hart.setX(12, 12n)
      h.hart.setX(13, BigInt(CODE + 0x800))
      h.load(CODE, [
        encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
        encode('beq', { rs1: COUNTER_REGISTER, rs2: 0, imm: 44 }),
        encode('addi', { rd: 5, rs1: 5, imm: 5 }),
        encode('remu', { rd: 6, rs1: 5, rs2: 12 }),
        encode('slli', { rd: 6, rs1: 6, imm: 4 }),
        // Now and then into the middle of a case, and to a place far away.
        encode('andi', { rd: 7, rs1: COUNTER_REGISTER, imm: 4 }),
        encode('add', { rd: 6, rs1: 6, rs2: 7 }),
        encode('add', { rd: 6, rs1: 6, rs2: 10 }),
        encode('andi', { rd: 7, rs1: COUNTER_REGISTER, imm: 0x3f }),
        encode('bne', { rs1: 7, rs2: 0, imm: 8 }),
        encode('add', { rd: 6, rs1: 13, rs2: 0 }),
        encode('jalr', { rd: 0, rs1: 6, imm: 0 }),
        ...END,
      ])
      for (let i = 0; i < cases; i++) {
        const at = table + i * 16
        h.load(at, [
          encode('addi', { rd: 11, rs1: 11, imm: i + 1 }),
          encode('slli', { rd: 8, rs1: 11, imm: i }),
          encode('xor', { rd: 9, rs1: 9, rs2: 8 }),
          encode('jal', { rd: 0, imm: CODE - at - 12 }),
        ])
      }
      h.load(CODE + 0x800, [encode('addi', { rd: 11, rs1: 11, imm: 100 }), encode('jal', { rd: 0, imm: -0x804 })])
      return CODE
    })
    expect(hart.counter('regions')).toBeGreaterThan(0)
  })
})

describe('code that two privilege modes share', () => {
  it('loads through the translations of the mode that runs it', () => {
    const [hart] = agrees((h) => {
      const flags = PTE.V | PTE.R | PTE.W | PTE.X | PTE.U | PTE.A | PTE.D
      supervised(h)
      h.map(CODE, CODE, flags)
      // U-mode finds another page there than M-mode, which does not translate.
      h.map(DATA, DATA + 0x1000, flags)
      const words = new DataView(h.ram.buffer, h.ram.byteOffset)
      for (let at = 0; at < 16; at += 8) {
        words.setBigInt64(DATA - RAM_BASE + at, 1n, true)
        words.setBigInt64(DATA - RAM_BASE + 0x1000 + at, 1_000_000n, true)
      }
      const f = CODE + 0x100
      const handler = CODE + 0x200
      h.load(CODE, [encode('jal', { rd: 1, imm: f - CODE }), encode('ecall')])
      h.load(f, [
        encode('addi', { rd: COUNTER_REGISTER, rs1: 0, imm: 900 }),
        encode('ld', { rd: 5, rs1: DATA_REGISTER, imm: 0 }),
        encode('ld', { rd: 6, rs1: DATA_REGISTER, imm: 8 }),
        encode('add', { rd: 7, rs1: 7, rs2: 5 }),
        encode('add', { rd: 7, rs1: 7, rs2: 6 }),
        encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
        encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -20 }),
        encode('jalr', { rd: 0, rs1: 1 }),
      ])
      h.load(handler, [encode('jal', { rd: 1, imm: f - handler }), ...END])
      h.hart.setCsr('mtvec', BigInt(handler))
      h.hart.i32[WORD.priv] = PRIV.U
      changed(h)
      return CODE
    })
    expect(hart.hart.x(7)).toBe(900n * 2n * 1_000_001n)
    expect(hart.counter('regions')).toBeGreaterThan(0)
  })
})
