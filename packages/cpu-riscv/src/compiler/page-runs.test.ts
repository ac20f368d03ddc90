import { describe, expect, it } from 'vitest'
import { encode } from '../isa/encode-testing.ts'
import {
  agrees,
  CODE,
  COUNTER_REGISTER,
  type CompilingHart,
  DATA,
  END,
  PTE,
  RAM_BASE,
  random,
  supervised,
} from './compiler-testing.ts'
import { controlFlow } from './control-flow.ts'
import { findPageRun, type PageRun } from './page-runs.ts'
import { formRegion } from './region.ts'

const addi = (rd: number, rs1: number, imm: number): number => encode('addi', { rd, rs1, imm })
const load = (name: string, rd: number, rs1: number, imm = 0): number => encode(name, { rd, rs1, imm })
const store = (name: string, rs2: number, rs1: number, imm = 0): number => encode(name, { rs1, rs2, imm })
const wide = (name: string, rd: number, rs1: number, rs2: number): number => encode(name, { rd, rs1, rs2 })
/** As often as x29 says. */
const loop = (body: readonly number[]): readonly number[] => [
  ...body,
  addi(COUNTER_REGISTER, COUNTER_REGISTER, -1),
  encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -4 * (body.length + 1) }),
]
/** x5 = x10 + 4 * the lower half of x11, which is an index. */
const indexed = [
  encode('slli', { rd: 5, rs1: 11, imm: 32 }),
  encode('srli', { rd: 5, rs1: 5, imm: 30 }),
  wide('add', 5, 10, 5),
]

function runOf(body: readonly number[]): PageRun | undefined {
  const code = [...loop(body), ...END]
  const region = formRegion(
    {
      half: (at) => (at < code.length * 4 ? (code[at >> 2] >>> ((at & 2) * 8)) & 0xffff : undefined),
      reached: () => true,
      jumpedTo: () => false,
      has: () => true,
      fusesMultiplyAdd: false,
    },
    0,
  )
  const flow = controlFlow(region!)
  const header = flow.nodes.find((node) => node.isLoop)
  return header && findPageRun(header, flow)
}

/** Of each window: accesses, bytes, bytes per round. */
const windowsOf = (body: readonly number[]): unknown[] =>
  (runOf(body)?.windows ?? []).map(({ members, span, stride }) => [
    members.size,
    span + 1,
    stride.terms.size === 0 ? Number(stride.constant) : [...stride.terms.keys()],
  ])

describe('accesses that walk through memory', () => {
  it('go on by a constant, by registers that stay, or not at all', () => {
    expect(windowsOf([load('lh', 5, 10), addi(10, 10, 2), store('sd', 5, 11, -8), addi(11, 11, -16)])).toEqual([
      [1, 2, 2],
      [1, 8, -16],
    ])
    expect(windowsOf([load('lbu', 5, 10), wide('add', 10, 10, 12)])).toEqual([[1, 1, [12]]])
    expect(windowsOf([load('lw', 5, 10), store('sw', 5, 10)])).toEqual([
      [1, 4, 0],
      [1, 4, 0],
    ])
  })

  it('share a window at constant distances, before and after the step', () => {
    expect(windowsOf([load('ld', 5, 10), load('ld', 6, 10, 24), addi(10, 10, 32), load('lb', 7, 10, -36)])).toEqual([
      [3, 36, 32],
    ])
    expect(windowsOf([load('ld', 5, 10), load('ld', 6, 10, 2000)])).toEqual([
      [1, 8, 0],
      [1, 8, 0],
    ])
  })

  it('may go by an index of 32 bits, as long as that is a small number', () => {
    const run = runOf([...indexed, load('lw', 6, 5), encode('addiw', { rd: 11, rs1: 11, imm: 1 })])!
    expect(windowsOf([...indexed, load('lw', 6, 5), encode('addiw', { rd: 11, rs1: 11, imm: 1 })])).toEqual([[1, 4, 4]])
    expect(run.small.map(({ value }) => [[...value.terms], value.constant])).toEqual([
      [[[11, 1n]], 0n],
      [[[11, 1n]], 1n],
    ])
  })

  it('depend on every 32-bit number that went into them, also on one that is taken out again', () => {
    const body = [
      wide('addw', 5, 11, 12),
      wide('sub', 5, 5, 12),
      load('lw', 6, 5),
      encode('addiw', { rd: 12, rs1: 12, imm: 1 }),
    ]
    expect(runOf(body)!.small.map(({ value }) => [[...value.terms], value.constant])).toEqual([
      [
        [
          [11, 1n],
          [12, 1n],
        ],
        0n,
      ],
      [[[12, 1n]], 1n],
    ])
  })

  it('are not those whose address comes from memory, multiplies, counts backwards in 32 bits or goes too far', () => {
    expect(runOf([load('ld', 10, 10), load('ld', 5, 10, 8)])).toBeUndefined()
    expect(runOf([load('ld', 5, 10), encode('mul', { rd: 10, rs1: 10, rs2: 12 })])).toBeUndefined()
    expect(runOf([load('ld', 5, 10), wide('add', 10, 10, 12), addi(12, 12, 8)])).toBeUndefined()
    expect(runOf([...indexed, load('lw', 6, 5), encode('addiw', { rd: 11, rs1: 11, imm: -1 })])).toBeUndefined()
    expect(runOf([load('ld', 5, 10), addi(10, 10, 1032)])).toBeUndefined()
    expect(runOf([addi(5, 5, 1)])).toBeUndefined()
  })

  it('are looked up where a loop changes what they go through', () => {
    expect(runOf([encode('csrrs', { rd: 0, rs1: 6, imm: 0x100 }), load('ld', 5, 10)])).toBeUndefined()
  })
})

/** Pages one after the other, which are not so in memory. */
const VA = 0x4000_0000
const PAGES = 64
const place = (page: number): number => DATA + ((page * 37 + 11) % PAGES) * 4096
const RW = PTE.V | PTE.R | PTE.W | PTE.A | PTE.D
/** x10 to x15 begin every walk with what x20 to x25 have; x27: rounds, x28: walks. */
const BASES = [10, 11, 12, 13, 14, 15]
const ROUNDS_REGISTER = 27
const WALKS_REGISTER = 28

describe('loops that look ahead', () => {
  /** @returns the loop's body, with what is set in x20 to x25; `before`: what runs before each walk */
  const agree = (prepare: (h: CompilingHart) => { body: readonly number[]; before?: readonly number[] }): void => {
    const [hart] = agrees((h) => {
      for (let at = DATA - RAM_BASE, i = 0; i < PAGES * 4096; i++) h.ram[at + i] = (i * 7) ^ (i >> 8)
      supervised(h)
      for (let page = 0; page < PAGES; page++) h.map(VA + page * 4096, place(page), RW)
      h.hart.setX(ROUNDS_REGISTER, 900n)
      h.hart.setX(WALKS_REGISTER, 3n)
      const { body, before = [] } = prepare(h)
      const walk = [
        ...before,
        ...BASES.map((base) => wide('add', base, base + 10, 0)),
        wide('add', COUNTER_REGISTER, ROUNDS_REGISTER, 0),
        ...loop(body),
        addi(WALKS_REGISTER, WALKS_REGISTER, -1),
      ]
      h.load(CODE, [...walk, encode('bne', { rs1: WALKS_REGISTER, rs2: 0, imm: -4 * walk.length }), ...END])
      return CODE
    })
    expect(hart.counter('regions')).toBeGreaterThan(0)
  }

  const strides = [1, 2, 7, 8, 24, 80, 255, 1000, -1, -3, -16, -520]
  it.each(strides)('agree with the interpreter, %i bytes per round', (stride) => {
    agree((h) => {
      const from = stride > 0 ? 0xf05 : PAGES * 4096 - 0xf05
      h.hart.setX(ROUNDS_REGISTER, BigInt(Math.min(900, Math.floor(0x3_e000 / Math.abs(stride)))))
      h.hart.setX(20, BigInt(VA + from))
      h.hart.setX(21, BigInt(VA + from))
      return {
        body: [
          load('ld', 5, 10),
          load('lbu', 6, 10, 17),
          addi(10, 10, stride),
          wide('add', 7, 7, 5),
          wide('xor', 7, 7, 6),
          load('lh', 8, 10, -2),
          wide('add', 7, 7, 8),
          store('sd', 7, 11, 8),
          store('sb', 5, 11, -1),
          addi(11, 11, Math.sign(stride) * 16),
        ],
      }
    })
  })

  it.each([0n, 1n, 56n, 1024n, 1025n, -8n])('agree with the interpreter, x12 = %i bytes per round', (stride) => {
    agree((h) => {
      h.hart.setX(20, BigInt(VA + 0x3003))
      h.hart.setX(22, stride)
      h.hart.setX(ROUNDS_REGISTER, 200n)
      return { body: [load('lw', 5, 10), wide('add', 7, 7, 5), store('sh', 7, 10, 6), wide('add', 10, 10, 12)] }
    })
  })

  it('read what they have written', () => {
    agree((h) => {
      h.hart.setX(20, BigInt(VA + 0x100))
      return { body: [load('ld', 5, 10), addi(5, 5, 3), store('sd', 5, 10, 8), addi(10, 10, 8)] }
    })
  })

  /** An index that is about to leave the numbers that 32 bits can have, or that is none. */
  it.each([0n, 2n ** 31n - 100n, -100n, 2n ** 32n + 7n])('agree with an index from %i on', (from) => {
    agree((h) => {
      // The walk begins at VA, or (where the index wraps around to 0) goes there.
      const base = BigInt(VA + 0x1000) - 4n * BigInt.asUintN(32, from)
      h.hart.setX(20, base)
      h.hart.setX(21, from)
      h.hart.setX(ROUNDS_REGISTER, from === -100n ? 90n : 250n)
      // Where it would begin if an index of 64 bits were one of 32: the TLB knows that page, too.
      const wrong = BigInt.asUintN(64, base + 4n * from)
      h.hart.setX(23, wrong)
      const mapped = wrong < 2n ** 38n
      if (mapped) h.map(Number(wrong - (wrong % 4096n)), place(5), RW)
      return {
        before: mapped ? [load('lw', 9, 23), store('sw', 9, 23)] : [],
        body: [
          ...indexed,
          load('lw', 6, 5),
          wide('add', 7, 7, 6),
          store('sb', 7, 5, 1),
          encode('addiw', { rd: 11, rs1: 11, imm: 1 }),
        ],
      }
    })
  })

  it('leave for the interpreter in the middle of a run, with the count of instructions right', () => {
    agree((h) => {
      // Doubles, some of them not normal: those rounds need softfloat.
      const view = new DataView(h.ram.buffer, h.ram.byteOffset)
      for (let i = 0; i < 900; i++) {
        const page = place(3 + (i >> 9)) - RAM_BASE
        const value = i % 37 === 5 ? 5e-324 : i % 41 === 3 ? Infinity : i + 0.5
        view.setFloat64(page + (i & 511) * 8, value, true)
      }
      h.hart.setX(20, BigInt(VA + 0x3000))
      const twice = encode('fadd.d', { rd: 2, rs1: 1, rs2: 1, rm: 7 })
      return { body: [load('fld', 1, 10), twice, store('fsd', 2, 10), addi(10, 10, 8)] }
    })
  })

  it('may leave in the middle of a round', () => {
    agree((h) => {
      h.hart.setX(20, BigInt(VA + 0x20))
      h.hart.setX(25, 0x33n)
      // The second block ends the loop when it finds a byte, and goes on behind it.
      return {
        body: [
          load('lbu', 5, 10),
          addi(10, 10, 1),
          encode('bne', { rs1: 5, rs2: 15, imm: 12 }),
          addi(7, 7, 1),
          addi(15, 15, 1),
          wide('add', 8, 8, 5),
        ],
      }
    })
  })

  it.each(Array.from({ length: 12 }, (_, seed) => seed + 1))('agree on loops at random, seed %i', (seed) => {
    agree((h) => {
      const next = random(seed)
      for (const base of [20, 21, 22]) h.hart.setX(base, BigInt(VA + 0xc000 + next(0x1_0000)))
      h.hart.setX(23, BigInt(next(64)))
      h.hart.setX(24, BigInt(next(1000)))
      h.hart.setX(ROUNDS_REGISTER, BigInt(100 + next(150)))
      const body: number[] = []
      for (let i = 0; i < 3 + next(9); i++) {
        const base = 10 + next(3)
        const imm = next(64) - 32
        const kind = next(8)
        if (kind < 2) body.push(load(['lb', 'lhu', 'lw', 'ld'][next(4)], 5 + next(4), base, imm))
        else if (kind < 4) body.push(store(['sb', 'sh', 'sw', 'sd'][next(4)], 5 + next(4), base, imm))
        else if (kind === 4) body.push(addi(base, base, next(40) - 20))
        else if (kind === 5) body.push(wide(['add', 'sub'][next(2)], base, base, 13))
        else if (kind === 6) body.push(wide('add', 5 + next(4), 5 + next(4), 14))
        else
          body.push(encode('addiw', { rd: 14, rs1: 14, imm: next(5) }), encode('andi', { rd: 14, rs1: 14, imm: 2047 }))
      }
      return { body }
    })
  })
})
