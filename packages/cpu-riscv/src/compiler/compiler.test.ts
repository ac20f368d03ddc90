import { describe, expect, it } from 'vitest'
import { encode } from '../isa/encode-testing.ts'
import {
  agrees,
  CODE,
  COUNTER_REGISTER,
  type CompilingHart,
  DATA,
  DATA_REGISTER,
  END,
  prepared,
  RAM_BASE,
  RAM_BYTES,
  random,
} from './compiler-testing.ts'

const ALU = ['add', 'sub', 'xor', 'or', 'and', 'sll', 'srl', 'sra', 'slt', 'sltu', 'addw', 'subw', 'mul', 'mulhu']
const MORE = ['div', 'remu', 'divw', 'remuw', 'sh1add', 'andn', 'max', 'rol']
const FLOATS = ['fadd.d', 'fsub.d', 'fmul.d', 'fdiv.d', 'fmadd.d', 'fadd.s', 'fmul.s', 'fsgnj.d', 'fmin.d']
const LOADS = ['lb', 'lbu', 'lh', 'lhu', 'lw', 'lwu', 'ld']
const STORES = ['sb', 'sh', 'sw', 'sd']
const BRANCHES = ['beq', 'bne', 'blt', 'bge', 'bltu', 'bgeu']
const ATOMICS = ['amoadd.d', 'amoswap.w', 'amomaxu.d', 'lr.d', 'sc.d']

/**
 * A program of `length` instructions that jumps about in itself, forwards and backwards, until a counter that every jump
 * back takes from is used up. Loops overlap in every way, so most have several entrances.
 */
function wild(seed: number, length: number): number[] {
  const pick = random(seed)
  const any = (names: readonly string[]): string => names[pick(names.length)]
  const register = (): number => 5 + pick(20)
  const insns: number[] = []
  // Units of 12 bytes, so that jumps between them meet beginnings.
  for (let unit = 0; unit < length; unit++) {
    const here = insns.length
    const to = pick(length)
    const kind = pick(20)
    const memory = { rs1: DATA_REGISTER, imm: pick(2048 - 8) & (pick(5) === 0 ? ~0 : ~7) }
    if (kind < 7) insns.push(encode(any(pick(4) ? ALU : MORE), { rd: register(), rs1: register(), rs2: register() }))
    else if (kind < 9) insns.push(encode('addi', { rd: register(), rs1: register(), imm: pick(4096) - 2048 }))
    else if (kind < 11) insns.push(encode(any(LOADS), { rd: register(), ...memory }))
    else if (kind < 13) insns.push(encode(any(STORES), { rs2: register(), ...memory }))
    else if (kind < 14) insns.push(encode(any(ATOMICS), { rd: register(), rs1: DATA_REGISTER, rs2: register() }))
    else if (kind < 16) {
      const [rd, rs1, rs2, rs3] = [pick(8), pick(8), pick(8), pick(8)]
      insns.push(encode(any(FLOATS), { rd, rs1, rs2, rs3, rm: pick(8) === 0 ? 1 : 0 }))
      if (pick(6) === 0) insns.push(encode('fcvt.d.l', { rd: pick(8), rs1: register() }))
    } else if (kind < 17) insns.push(encode('csrrs', { rd: register(), rs1: 0, imm: pick(2) ? 0x001 : 0x340 }))
    else if (to > unit) {
      const imm = (to - unit) * 12
      if (pick(3)) insns.push(encode(any(BRANCHES), { rs1: register(), rs2: register(), imm }))
      else insns.push(encode('jal', { rd: pick(2), imm }))
    } else {
      insns.push(encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }))
      const imm = (to - unit) * 12 - 4
      insns.push(encode('blt', { rs1: 0, rs2: COUNTER_REGISTER, imm }))
    }
    while (insns.length < here + 3) insns.push(encode('addi', { rd: register(), rs1: register(), imm: pick(64) }))
  }
  return [...insns, ...END]
}

describe('compiled code and the interpreter', () => {
  it.each([...Array(24).keys()])('agree on wild control flow, seed %i', (seed) => {
    const harts = agrees((hart) => {
      const pick = random(seed + 1000)
      for (let x = 5; x < 25; x++) hart.hart.setX(x, (BigInt(pick(2 ** 32)) << 32n) | BigInt(pick(2 ** 32)))
      for (let f = 0; f < 8; f++) hart.hart.set(8 * (33 + f), 0x3ff0_0000_0000_0000n + BigInt(f * 12345))
      hart.hart.setX(COUNTER_REGISTER, 400n)
      hart.hart.setCsr('mtvec', BigInt(CODE))
      hart.load(CODE, END)
      // Begins near the end of a page: instructions and loops lie across it.
      hart.load(CODE + 0xfa2, wild(seed, 60 + seed * 4))
      return CODE + 0xfa2
    })
    expect(harts[0].counter('regions')).toBeGreaterThan(0)
    expect(harts[0].hart.csr('mtval')).toBe(0n)
  })

  it('agree on calls, returns and recursion deeper than the host follows', () => {
    const [hart] = agrees((h) => {
      // f(a0): if (a0 == 0) return; a1 += a0; f(a0 - 1); a1 ^= a0
      const f = CODE + 0x100
      h.load(CODE, [
        encode('addi', { rd: 10, rs1: 0, imm: 1000 }),
        encode('add', { rd: 2, rs1: DATA_REGISTER, rs2: 0 }),
        encode('jal', { rd: 1, imm: f - CODE - 8 }),
        encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
        encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -16 }),
        ...END,
      ])
      h.load(f, [
        encode('beq', { rs1: 10, rs2: 0, imm: 44 }),
        encode('addi', { rd: 2, rs1: 2, imm: -16 }),
        encode('sd', { rs1: 2, rs2: 1, imm: 0 }),
        encode('sd', { rs1: 2, rs2: 10, imm: 8 }),
        encode('add', { rd: 11, rs1: 11, rs2: 10 }),
        encode('addi', { rd: 10, rs1: 10, imm: -1 }),
        encode('jal', { rd: 1, imm: -24 }),
        encode('ld', { rd: 10, rs1: 2, imm: 8 }),
        encode('xor', { rd: 11, rs1: 11, rs2: 10 }),
        encode('ld', { rd: 1, rs1: 2, imm: 0 }),
        encode('addi', { rd: 2, rs1: 2, imm: 16 }),
        encode('jalr', { rd: 0, rs1: 1, imm: 0 }),
      ])
      h.hart.setX(COUNTER_REGISTER, 50n)
      return CODE
    })
    expect(hart.counter('regions')).toBeGreaterThan(1)
  })

  it('agree on a fault in the middle of a loop, with every register in place', () => {
    agrees((h) => {
      // Loads walk off the end of RAM; the handler looks at what they left and stops.
      const handler = CODE + 0x200
      h.hart.setCsr('mtvec', BigInt(handler))
      h.load(handler, END)
      h.hart.setX(10, BigInt(RAM_BASE + RAM_BYTES - 4096))
      h.load(CODE, [
        encode('addi', { rd: 11, rs1: 11, imm: 3 }),
        encode('ld', { rd: 12, rs1: 10, imm: 0 }),
        encode('add', { rd: 13, rs1: 13, rs2: 11 }),
        encode('addi', { rd: 10, rs1: 10, imm: 8 }),
        encode('jal', { rd: 0, imm: -16 }),
      ])
      return CODE
    })
  })
})

describe('hostile code', () => {
  it('rewrites itself in every iteration', () => {
    const [hart] = agrees((h) => {
      // The immediate of the addi at CODE + 12 counts up, in code that is running.
      h.hart.setX(10, BigInt(CODE + 12))
      h.hart.setX(11, BigInt(encode('addi', { rd: 13, rs1: 13, imm: 0 })))
      h.hart.setX(14, 1n << 20n)
      h.hart.setX(COUNTER_REGISTER, 1500n)
      h.load(CODE, [
        encode('sw', { rs1: 10, rs2: 11, imm: 0 }),
        encode('fence.i'),
        encode('add', { rd: 11, rs1: 11, rs2: 14 }),
        encode('addi', { rd: 13, rs1: 13, imm: 0 }),
        encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
        encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -20 }),
        ...END,
      ])
      return CODE
    })
    // It is not compiled anew each time.
    expect(hart.counter('regions')).toBeLessThan(100)
  })

  it('zeroes the code that it is about to run, without a fence', () => {
    const [hart] = agrees((h) => {
      const target = CODE + 0x40
      h.hart.setCsr('mtvec', BigInt(CODE + 0x200))
      h.load(CODE + 0x200, END)
      h.hart.setX(COUNTER_REGISTER, 300n)
      h.hart.setX(6, BigInt(target - DATA))
      h.load(CODE, [
        encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
        // A block of data, and in the last round the code that follows.
        encode('sltiu', { rd: 7, rs1: COUNTER_REGISTER, imm: 1 }),
        encode('mul', { rd: 7, rs1: 7, rs2: 6 }),
        encode('add', { rd: 7, rs1: 7, rs2: DATA_REGISTER }),
        encode('cbo.zero', { rs1: 7 }),
        encode('jal', { imm: target - CODE - 20 }),
      ])
      h.load(target, [
        encode('addi', { rd: 11, rs1: 11, imm: 1 }),
        encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: CODE - target - 4 }),
        ...END,
      ])
      return CODE
    })
    expect(hart.hart.csr('mcause')).toBe(2n)
    expect(hart.hart.csr('mepc')).toBe(BigInt(CODE + 0x40))
    expect(hart.hart.x(11)).toBe(299n)
  })

  it('jumps into the middle of instructions', () => {
    agrees((h) => {
      // lui x5 whose upper half is c.addi x6, 1: entered at the beginning and in the middle, in turn.
      h.hart.setX(COUNTER_REGISTER, 600n)
      h.hart.setX(10, BigInt(CODE + 12))
      h.load(CODE, [
        encode('xori', { rd: 7, rs1: 7, imm: 2 }),
        encode('add', { rd: 11, rs1: 10, rs2: 7 }),
        encode('jalr', { rd: 0, rs1: 11, imm: 0 }),
        ((0x0305 << 16) | 0x02b7) >>> 0,
        encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
        encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -20 }),
        ...END,
      ])
      return CODE
    })
  })

  it('runs to the end of RAM and over it', () => {
    agrees((h) => {
      const handler = CODE + 0x200
      h.hart.setCsr('mtvec', BigInt(handler))
      h.load(handler, END)
      const last = RAM_BASE + RAM_BYTES - 20
      h.hart.setX(COUNTER_REGISTER, 300n)
      h.load(last, [
        encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
        encode('add', { rd: 11, rs1: 11, rs2: COUNTER_REGISTER }),
        encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -8 }),
        encode('addi', { rd: 12, rs1: 12, imm: 1 }),
        // Only half of the last instruction is there.
        encode('addi', { rd: 12, rs1: 12, imm: 1 }),
      ])
      return last
    })
  })

  it('jumps off RAM out of a hot loop', () => {
    agrees((h) => {
      const handler = CODE + 0x200
      h.hart.setCsr('mtvec', BigInt(handler))
      h.load(handler, END)
      h.hart.setX(COUNTER_REGISTER, 300n)
      h.hart.setX(10, 0x7000_0000n)
      h.load(CODE, [
        encode('addi', { rd: COUNTER_REGISTER, rs1: COUNTER_REGISTER, imm: -1 }),
        encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -4 }),
        encode('jalr', { rd: 0, rs1: 10, imm: 0 }),
      ])
      return CODE
    })
  })

  it('chains for ever through registers, and still lets others look in', () => {
    const hart = prepared(2)
    hart.hart.setX(10, BigInt(CODE))
    hart.hart.setX(11, BigInt(CODE + 0x100))
    hart.load(CODE, [encode('jalr', { rd: 0, rs1: 11, imm: 0 })])
    hart.load(CODE + 0x100, [encode('jalr', { rd: 0, rs1: 10, imm: 0 })])
    // A poll ends although the chain does not.
    expect(() => hart.run(CODE, 200)).toThrow('not finished after 200 polls')
    expect(hart.counter('regions')).toBe(2)
  })

  /** Loops of twelve rounds, one behind the other, each of which adds 66 to x6. @returns the first, and where they end */
  function loops(hart: CompilingHart, count: number): { first: number; at: number } {
    const first = RAM_BASE + 0x20_0000
    let at = first
    for (let i = 0; i < count; i++) {
      at = hart.load(at, [
        encode('addi', { rd: 5, rs1: 0, imm: 12 }),
        encode('addi', { rd: 5, rs1: 5, imm: -1 }),
        encode('add', { rd: 6, rs1: 6, rs2: 5 }),
        encode('bne', { rs1: 5, rs2: 0, imm: -8 }),
      ])
    }
    return { first, at }
  }

  it('is one of eight harts, which share what compiled code may cost', () => {
    const evictions = [1, 8].map((harts) => {
      const hart = prepared(9, undefined, harts)
      const { first, at } = loops(hart, 3000)
      hart.load(at, END)
      hart.run(first)
      expect(hart.hart.x(6)).toBe(3000n * 66n)
      return hart.counter('evictions')
    })
    expect(evictions[0]).toBe(0)
    expect(evictions[1]).toBeGreaterThan(0)
  })

  it('is hot in 20,000 places, of which a bounded number stays compiled', { timeout: 120_000 }, () => {
    // More than the table has places for.
    const blocks = 20_000
    const hart = prepared(9)
    const { first, at } = loops(hart, blocks)
    hart.load(at, END)
    hart.run(first)
    expect(hart.hart.x(6)).toBe(BigInt(blocks * 66))
    expect(hart.counter('regions')).toBeGreaterThan(blocks / 2)
    expect(hart.counter('regionsLive')).toBeLessThan(16_384)
    expect(hart.counter('evictions')).toBeGreaterThan(0)
    expect(hart.counter('regionsFailed')).toBe(0)
    // The next time it knows what follows what: a region holds a hundred of the loops, and theirs are not made anew.
    const before = hart.counter('regions')
    hart.hart.halted = false
    hart.hart.setX(6, 0n)
    hart.run(first)
    expect(hart.hart.x(6)).toBe(BigInt(blocks * 66))
    expect(hart.counter('regions') - before).toBeLessThan(blocks / 20)
  })
})
