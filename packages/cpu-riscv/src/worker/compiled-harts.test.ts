import { afterEach, describe, expect, it } from 'vitest'
import { IRQ } from '../hart/hart-state.ts'
import { encode } from '../isa/encode-testing.ts'
import { board, closeBoards, RAM_BASE } from './board-testing.ts'

afterEach(closeBoards)

const LOG = 20
const FINISHER = 21
const COUNTER = 29
const addi = (rd: number, rs1: number, imm: number): number => encode('addi', { rd, rs1, imm })
const jal = (imm: number): number => encode('jal', { imm })
const bne = (rs1: number, rs2: number, imm: number): number => encode('bne', { rs1, rs2, imm })
const countDown = (bodyInsns: number): number[] => [addi(COUNTER, COUNTER, -1), bne(COUNTER, 0, -4 * (bodyInsns + 1))]
/** x20 = the log, x21 = the finisher, x22 = data. */
const START = [
  encode('lui', { rd: LOG, imm: 0x1000_0000 }),
  encode('lui', { rd: FINISHER, imm: 0x10_0000 }),
  encode('auipc', { rd: 22, imm: 0x20_0000 }),
]
const FINISH = [encode('sw', { rs1: FINISHER, rs2: 0 }), encode('wfi'), jal(-4)]
const DATA = RAM_BASE + 0x20_0008

const words = (...pieces: readonly (number | readonly number[])[]): number[] => pieces.flat()

describe('atomics of several compiled harts', { timeout: 120_000 }, () => {
  const ROUNDS = 2000

  it.each([2, 4])('%i harts: LR/SC, AMOs and a lock lose nothing', async (harts) => {
    // Words at DATA: 0 counted by LR/SC, 1 by amoadd.w, 2 guarded by the lock at 3, 4 the maximum, 5 xor, 6 harts done.
    const lrsc = [
      encode('lr.d', { rd: 5, rs1: 22 }),
      addi(5, 5, 1),
      encode('sc.d', { rd: 6, rs1: 22, rs2: 5 }),
      bne(6, 0, -12),
    ]
    const at = (word: number) => addi(7, 22, word * 8)
    const one = addi(5, 0, 1)
    const add = [at(1), one, encode('amoadd.w', { rd: 0, rs1: 7, rs2: 5 })]
    const locked = [
      at(3),
      one,
      encode('amoswap.w', { rd: 6, rs1: 7, rs2: 5 }),
      bne(6, 0, -4),
      encode('ld', { rd: 5, rs1: 22, imm: 16 }),
      addi(5, 5, 1),
      encode('sd', { rs1: 22, rs2: 5, imm: 16 }),
      encode('amoswap.w', { rd: 0, rs1: 7, rs2: 0 }),
    ]
    const most = [at(4), encode('amomaxu.d', { rd: 0, rs1: 7, rs2: COUNTER })]
    const toggled = [at(5), encode('amoxor.d', { rd: 0, rs1: 7, rs2: COUNTER })]
    const round = words(lrsc, add, locked, most, toggled)
    const program = words(
      START,
      encode('csrrs', { rd: 10, imm: 0xf14 }),
      addi(COUNTER, 0, ROUNDS),
      round,
      countDown(round.length),
      at(6),
      one,
      encode('amoadd.d', { rd: 0, rs1: 7, rs2: 5 }),
      // The first hart waits for the others.
      bne(10, 0, 16),
      addi(11, 0, harts),
      encode('ld', { rd: 12, rs1: 22, imm: 48 }),
      bne(12, 11, -4),
      // The others sleep.
      encode('beq', { rs1: 10, rs2: 0, imm: 12 }),
      encode('wfi'),
      jal(-4),
      FINISH,
    )
    const b = await board(program, harts, 'jit', { compileThreshold: 1 })
    b.start()
    await b.finished
    await b.cpu.pause()
    const word = (n: number) => b.word(DATA + n * 8)
    const total = BigInt(harts * ROUNDS)
    expect([word(0), word(1), word(2), word(3), word(4), word(5), word(6)]).toEqual([
      total,
      total,
      total,
      0n,
      BigInt(ROUNDS),
      0n,
      BigInt(harts),
    ])
    expect(b.cpu.counters().regions).toBeGreaterThanOrEqual(harts)
    expect(b.cpu.counters().regionsFailed).toBe(0)
    expect(b.failures).toEqual([])
  })
})

describe('interrupts from outside of a compiled loop', { timeout: 120_000 }, () => {
  const TIMES = 100
  const NEVER = (1n << 64n) - 1n

  it.each(['external', 'software', 'timer'] as const)('%s: each one is taken, and the loop goes on', async (kind) => {
    const bit = { external: IRQ.MEIP, software: IRQ.MSIP, timer: IRQ.MTIP }[kind]
    const handler = [addi(12, 12, 1), encode('sw', { rs1: LOG, rs2: 12 }), encode('mret')]
    const program = words(
      START,
      jal(4 + handler.length * 4),
      handler,
      encode('auipc', { rd: 5, imm: 0 }),
      addi(5, 5, -4 * handler.length),
      encode('csrrw', { rs1: 5, imm: 0x305 }),
      addi(5, 0, 1),
      encode('slli', { rd: 5, rs1: 5, imm: Math.log2(bit) }),
      encode('csrrw', { rs1: 5, imm: 0x304 }),
      encode('csrrsi', { rs1: 8, imm: 0x300 }),
      addi(13, 0, TIMES),
      // The loop that is interrupted counts its rounds twice.
      addi(10, 10, 1),
      addi(11, 11, 1),
      // Less than, not unequal: on a busy host the next interrupt may be there before the loop looks at the last one's number.
      encode('blt', { rs1: 12, rs2: 13, imm: -8 }),
      FINISH,
    )
    let set = (_: boolean): void => {}
    const b = await board(program, 1, 'jit', {
      compileThreshold: 1,
      onWrite() {
        set(false)
        setTimeout(() => set(true), Math.random() * 2)
      },
    })
    const [hart] = b.cpu.harts
    if (kind === 'timer') set = (on) => hart.setMtimecmp(on ? 0n : NEVER)
    else {
      const line = hart.line(Math.log2(bit))
      set = (on) => line.set(on)
    }
    b.start()
    set(true)
    await b.finished
    await b.cpu.pause()
    expect(b.log.slice(0, TIMES)).toEqual(Array.from({ length: TIMES }, (_, i) => BigInt(i + 1)))
    const counted = ['a0', 'a1'].map((name) => b.cpu.readRegister(0, name))
    // It is left at the start of a round.
    expect(counted[0] - counted[1]).toBe(0n)
    expect(b.cpu.counters().regions).toBeGreaterThan(0)
  })
})

describe('hot code without end', () => {
  const MiB = 2 ** 20
  const REGIONS = 100_000

  it(`is hot in ${REGIONS} places, twice over, in bounded memory`, { timeout: 300_000 }, async () => {
    // Loops of 70 rounds, four instructions each; the log hears of every 10,000th.
    const program: number[] = words(START, addi(22, 0, 2))
    const top = program.length
    for (let i = 1; i <= REGIONS; i++) {
      program.push(addi(5, 0, 70), addi(5, 5, -1), encode('add', { rd: 10, rs1: 10, rs2: 5 }), bne(5, 0, -8))
      if (i % 10_000 === 0) program.push(encode('sw', { rs1: LOG, rs2: 0 }))
    }
    const back = (top - program.length - 2) * 4
    const upper = (back + 0x800) & ~0xfff
    program.push(
      addi(22, 22, -1),
      encode('beq', { rs1: 22, rs2: 0, imm: 12 }),
      encode('auipc', { rd: 6, imm: upper }),
      encode('jalr', { rs1: 6, imm: back - upper }),
      ...FINISH,
    )
    const rss: number[] = []
    const b = await board(Uint32Array.from(program), 1, 'jit', {
      ramBytes: 8 * MiB,
      compileThreshold: 60,
      onWrite: () => void rss.push(process.memoryUsage().rss / MiB),
    })
    const before = process.memoryUsage().rss / MiB
    b.start()
    await b.finished
    await b.cpu.pause()
    const count = b.cpu.counters()
    expect(b.cpu.readRegister(0, 'a0')).toBe(BigInt(REGIONS * 2 * ((70 * 69) / 2)))
    expect(count.regions).toBeGreaterThan(REGIONS * 0.9)
    expect(count.evictions).toBeGreaterThan(3)
    expect(count.regionsLive).toBeLessThan(16_384)
    expect(count.regionsFailed).toBe(0)
    // What is compiled may cost 96 MiB, and what was given up goes only when the collector comes; the harness has its share, too.
    expect(rss.length).toBe(20)
    expect(Math.max(...rss) - before).toBeLessThan(500)
    // It does not grow with what was compiled and given up: the second time is no worse than the first.
    expect(Math.max(...rss.slice(10)) - Math.max(...rss.slice(0, 10))).toBeLessThan(200)
  })
})
