import { describe, expect, it } from 'vitest'
import { IRQ, WORD } from '../hart/hart-state.ts'
import { csrOffset, LAYOUT } from '../hart/layout.ts'
import { encode } from '../isa/encode-testing.ts'
import { INSTRUCTIONS } from '../isa/table.ts'
import { Request } from '../worker/requests.ts'
import {
  agrees,
  BELL,
  CODE,
  COUNTER_REGISTER,
  type CompilingHart,
  changed,
  DATA,
  END,
  PTE,
  prepared,
  RAM_BASE,
  random,
  supervised,
} from './compiler-testing.ts'

const HANDLER = CODE + 0x800
const RW = PTE.V | PTE.R | PTE.W | PTE.A | PTE.D
const CSR = {
  fflags: 1,
  frm: 2,
  stimecmp: 0x14d,
  pmpcfg0: 0x3a0,
  mepc: 0x341,
  mcause: 0x342,
  mtval: 0x343,
  minstret: 0xb02,
}
/** x28 = where the handler writes, x27 is its own. */
const LOG_REGISTER = 28
const SCRATCH = 27
const LOG_BYTES = 128
const LOG = DATA + 0x8_0000

const addi = (rd: number, rs1: number, imm: number): number => encode('addi', { rd, rs1, imm })
const csrr = (rd: number, csr: number): number => encode('csrrs', { rd, imm: csr })
const csrw = (csr: number, rs1: number): number => encode('csrrw', { rs1, imm: csr })
const sd = (rs2: number, rs1: number, imm: number): number => encode('sd', { rs1, rs2, imm })
const backTo = (insns: number): number => encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -4 * insns })
const countDown = addi(COUNTER_REGISTER, COUNTER_REGISTER, -1)

/** What a handler logs: why and where, how many instructions it took to get there, and x5 to x15. */
const logTrap = [
  ...[CSR.mepc, CSR.mcause, CSR.mtval, CSR.minstret].flatMap((csr, i) => [
    csrr(SCRATCH, csr),
    sd(SCRATCH, LOG_REGISTER, i * 8),
  ]),
  ...Array.from({ length: 11 }, (_, i) => sd(5 + i, LOG_REGISTER, 32 + i * 8)),
  addi(LOG_REGISTER, LOG_REGISTER, LOG_BYTES),
]
const skipInstruction = [csrr(SCRATCH, CSR.mepc), addi(SCRATCH, SCRATCH, 4), csrw(CSR.mepc, SCRATCH), encode('mret')]

/** Instructions of the handler before it reads minstret. */
const TO_INSTRET = 6

function withHandler(h: CompilingHart, after: readonly number[]): void {
  h.hart.setX(LOG_REGISTER, BigInt(LOG))
  h.hart.setCsr('mtvec', BigInt(HANDLER))
  h.load(HANDLER, [...logTrap, ...after])
}
interface LoggedTrap {
  readonly pc: number
  readonly cause: bigint
  readonly value: number
  readonly instret: number
  readonly x: readonly bigint[]
}
function traps({ hart, ram }: CompilingHart): LoggedTrap[] {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length)
  const count = (Number(hart.x(LOG_REGISTER)) - LOG) / LOG_BYTES
  return Array.from({ length: count }, (_, i) => {
    const word = (n: number) => view.getBigUint64(LOG - RAM_BASE + i * LOG_BYTES + n * 8, true)
    return {
      pc: Number(word(0)),
      cause: word(1),
      value: Number(word(2)),
      instret: Number(word(3)),
      x: Array.from({ length: 11 }, (_, n) => word(4 + n)),
    }
  })
}

/** Pages from here on: one that can be read and written, one that can be read, none, one behind which there is no memory. */
const VA = 0x4000_0000
const PAGES = 16
const PHYSICAL = RAM_BASE + 0x20_0000
const ROUNDS = 160

/** A loop that walks over {@link PAGES} pages, with an access in the middle of things that have to be right when it traps. */
function walk(h: CompilingHart, access: number, stride: number): void {
  supervised(h)
  for (let page = 0; page < PAGES; page++) {
    const at = VA + page * 4096
    if (page % 4 === 0) h.map(at, PHYSICAL + page * 4096, RW)
    if (page % 4 === 1) h.map(at, PHYSICAL + page * 4096, RW & ~PTE.W)
    if (page % 4 === 3) h.map(at, 0x7000_0000, RW)
  }
  withHandler(h, skipInstruction)
  h.hart.setX(10, BigInt(VA + 8))
  h.hart.setX(9, BigInt(stride))
  h.hart.setX(COUNTER_REGISTER, BigInt(ROUNDS))
  h.load(CODE, [
    addi(11, 11, 3),
    addi(12, 12, 5),
    access,
    encode('add', { rd: 13, rs1: 13, rs2: 12 }),
    encode('xor', { rd: 14, rs1: 14, rs2: 13 }),
    encode('add', { rd: 10, rs1: 10, rs2: 9 }),
    countDown,
    backTo(7),
    ...END,
  ])
}

describe('a fault in the middle of a hot loop', () => {
  /** Memory at x10 + imm, with x11 as the source or x12 as the destination. */
  const access = (name: string, imm: number): number =>
    /^(l|fl)[^r]/.test(name) || name.startsWith('lr')
      ? encode(name, { rd: 12, rs1: 10, imm })
      : encode(name, { rd: /^(s|fs)/.test(name) ? 0 : 12, rs1: 10, rs2: 11, imm })
  it.each([
    ['ld', 13n],
    ['lw', 13n],
    ['lbu', 13n],
    ['fld', 13n],
    ['lr.d', 13n],
    ['sd', 15n],
    ['sh', 15n],
    ['fsd', 15n],
    ['amoadd.d', 15n],
    ['amomaxu.w', 15n],
  ])('%s: every register and pc are exact', (name, pageFault) => {
    const [hart] = agrees((h) => {
      walk(h, access(name, name.includes('.') ? 0 : 16), 408)
      return CODE
    })
    const log = traps(hart)
    const accessFault = pageFault === 13n ? 5n : 7n
    expect(new Set(log.map(({ cause }) => cause))).toEqual(new Set([pageFault, accessFault]))
    for (const { pc, instret, x } of log) {
      expect(pc).toBe(CODE + 8)
      // x11 counts rounds by threes: it has been added to, what follows the access has not been done.
      const round = Number(x[6]) / 3
      expect(x[5]).toBe(BigInt(VA + 8 + (round - 1) * 408))
      expect(instret).toBeGreaterThan(round * 8 - 8)
    }
    // Not all fault: a fourth of the pages is writable, half is readable.
    expect(log.length).toBeGreaterThan(ROUNDS / 3)
    expect(log.length).toBeLessThan(ROUNDS)
  })

  it.each(['ld', 'lhu', 'sd', 'sw'])('%s, misaligned, one after the other and over the ends of pages', (name) => {
    const [hart] = agrees((h) => {
      walk(h, access(name, -1), 407)
      return CODE
    })
    expect(traps(hart).some(({ value }) => value % 2 === 1)).toBe(true)
    const [over] = agrees((h) => {
      walk(h, access(name, -1), 4096)
      h.hart.setX(10, BigInt(VA + 4096))
      return CODE
    })
    // Page 0 to 1: a store may not go on. 1 to 2: nothing may. 3 to 4: it begins where there is no memory.
    const first = traps(over).slice(0, 3)
    const page = (n: number) => VA + n * 4096
    expect(first.map(({ value }) => value)).toEqual(
      name.startsWith('l') ? [page(2), page(3) - 1, page(4) - 1] : [page(1), page(2) - 1, page(3) - 1],
    )
  })

  it.each(['amoadd.w', 'lr.w', 'amoswap.d'])('%s at an address that is not aligned', (name) => {
    const [hart] = agrees((h) => {
      walk(h, access(name, 0), 2)
      return CODE
    })
    expect(new Set(traps(hart).map(({ cause }) => cause))).toEqual(new Set([name === 'lr.w' ? 4n : 6n]))
  })

  it.each([
    ['a page', 4096],
    ['a part of a page', 64],
  ])('physical memory protection of %s', (_, bytes) => {
    const [hart] = agrees((h) => {
      walk(h, access('ld', 0), 32)
      h.hart.setX(10, BigInt(VA + 4096 - 128))
      // Entry 0 denies everything there, NAPOT; entry 1 is what supervised() has allowed.
      h.hart.set(LAYOUT.pmpaddr, BigInt((PHYSICAL + 4096) / 4 + bytes / 8 - 1))
      h.hart.set(LAYOUT.pmpaddr + 8, (1n << 54n) - 1n)
      h.hart.set(LAYOUT.pmpcfg, 0x1f18n)
      changed(h)
      return CODE
    })
    const denied = traps(hart).filter(({ cause }) => cause === 5n)
    expect(denied.map(({ value }) => value)).toEqual(Array.from({ length: bytes / 32 }, (_, i) => VA + 4096 + i * 32))
  })

  it('protection that a hot loop in M-mode puts on its own data', () => {
    const [hart] = agrees((h) => {
      withHandler(h, END)
      h.hart.setX(10, BigInt(DATA))
      h.hart.set(LAYOUT.pmpaddr, BigInt(DATA / 4 + 4096 / 8 - 1))
      changed(h)
      h.hart.setX(COUNTER_REGISTER, 100n)
      h.hart.setX(6, 0x98n)
      h.load(CODE, [
        encode('ld', { rd: 12, rs1: 10 }),
        addi(11, 11, 3),
        // In the last round it locks an entry without rights.
        encode('sltiu', { rd: 7, rs1: COUNTER_REGISTER, imm: 2 }),
        encode('mul', { rd: 7, rs1: 7, rs2: 6 }),
        csrw(CSR.pmpcfg0, 7),
        encode('ld', { rd: 12, rs1: 10 }),
        countDown,
        backTo(7),
        ...END,
      ])
      return CODE
    })
    expect(traps(hart)).toMatchObject([{ pc: CODE + 20, cause: 5n, value: DATA, instret: 99 * 8 + 5 + TO_INSTRET }])
    expect(hart.hart.x(11)).toBe(300n)
  })
})

describe('floating point in hot loops', () => {
  const D = [
    0n,
    0x8000_0000_0000_0000n,
    0x3ff0_0000_0000_0000n,
    0xbff0_0000_0000_0000n,
    0x3ff0_0000_0000_0001n,
    0x3fb9_9999_9999_999an,
    0x4008_0000_0000_0000n,
    1n,
    0x000f_ffff_ffff_ffffn,
    0x0010_0000_0000_0000n,
    0x7fef_ffff_ffff_ffffn,
    0xffef_ffff_ffff_ffffn,
    0x7ff0_0000_0000_0000n,
    0xfff0_0000_0000_0000n,
    0x7ff8_0000_0000_0000n,
    0x7ff0_0000_0000_0001n,
    0x41df_ffff_ffc0_0000n,
    0xc3e0_0000_0000_0000n,
    // Single precision, boxed and not.
    0xffff_ffff_3f80_0000n,
    0xffff_ffff_3dcc_cccdn,
    0xffff_ffff_0000_0001n,
    0xffff_ffff_7f7f_ffffn,
    0xffff_ffff_7f80_0000n,
    0xffff_ffff_7fa0_0000n,
    0x0000_0001_3f80_0000n,
    0xffff_ffff_cf00_0001n,
  ] as const
  const TRIPLES = 32
  const rows = INSTRUCTIONS.filter(
    ({ extension, name, match }) =>
      ['f', 'd', 'zfa'].includes(extension) && ![0x07, 0x27].includes(match & 0x7f) && !name.startsWith('fli'),
  )

  it('every result and every flag, for each instruction, from clear flags and from inexact', () => {
    expect(rows.length).toBeGreaterThan(70)
    const [hart] = agrees((h) => {
      const view = new DataView(h.ram.buffer, h.ram.byteOffset, h.ram.length)
      const pick = random(7)
      for (let i = 0; i < TRIPLES * 3; i++) {
        view.setBigUint64(DATA - RAM_BASE + i * 8, D[pick(D.length)], true)
      }
      // 1 / 0 is one of them.
      view.setBigUint64(DATA - RAM_BASE, D[2], true)
      view.setBigUint64(DATA - RAM_BASE + 8, D[0], true)
      // x20 = flags before, x21 = where results go; frm is set before each pass.
      h.hart.setX(21, BigInt(PHYSICAL))
      let at = CODE
      for (const [frm, flags] of [
        [0, 0],
        [0, 1],
        [1, 1],
        [3, 0],
      ] as const) {
        at = h.load(at, [addi(6, 0, frm), csrw(CSR.frm, 6), addi(20, 0, flags)])
        for (const { name, format } of rows) {
          const rm = format.syntax.includes('m') ? 7 : 0
          at = h.load(at, [
            addi(COUNTER_REGISTER, 0, TRIPLES),
            encode('add', { rd: 10, rs1: 31 }),
            encode('fld', { rd: 1, rs1: 10 }),
            encode('fld', { rd: 2, rs1: 10, imm: 8 }),
            encode('fld', { rd: 3, rs1: 10, imm: 16 }),
            encode('ld', { rd: 12, rs1: 10 }),
            csrw(CSR.fflags, 20),
            encode(name, {
              rd: 13,
              rs1: format.syntax.includes('S') ? 1 : 12,
              rs2: format.syntax.includes('T') ? 2 : 0,
              rs3: 3,
              rm,
            }),
            csrr(14, CSR.fflags),
            sd(14, 21, 0),
            encode('fsd', { rs1: 21, rs2: 13, imm: 8 }),
            sd(13, 21, 16),
            addi(10, 10, 24),
            addi(21, 21, 24),
            countDown,
            backTo(13),
          ])
        }
      }
      h.load(at, END)
      return CODE
    })
    expect(Number(hart.hart.x(21)) - PHYSICAL).toBe(rows.length * TRIPLES * 24 * 4)
    expect(hart.counter('regions')).toBeGreaterThan(rows.length)
    const seen = new Set<number>()
    for (let at = PHYSICAL; at < Number(hart.hart.x(21)); at += 24) seen.add(hart.ram[at - RAM_BASE])
    // NX, UF, OF, DZ and NV were all raised.
    expect([...seen].reduce((all, flags) => all | flags, 0)).toBe(31)
  })
})

describe('interrupts in hot code', () => {
  const PERIOD = 50_000
  const TIMES = 10
  const shapes: Record<string, readonly number[]> = {
    'a tight loop': [addi(11, 11, 1), encode('jal', { imm: -4 })],
    'a loop to itself': [encode('jal', { imm: 0 })],
    'jumps through a register': [addi(11, 11, 1), encode('jalr', { rs1: 20 })],
    'a call in a loop': [
      encode('jal', { rd: 1, imm: 12 }),
      addi(11, 11, 1),
      encode('jal', { imm: -8 }),
      encode('jalr', { rs1: 1 }),
    ],
    'recursion without end': [encode('jal', { rd: 1, imm: 0 })],
    'CSR instructions in a loop': [csrr(11, CSR.minstret), encode('jal', { imm: -4 })],
    'loads and stores in a loop': [encode('ld', { rd: 11, rs1: 31 }), sd(11, 31, 8), encode('jal', { imm: -8 })],
  }

  it.each(Object.keys(shapes))('the timer, in %s', (name) => {
    for (const threshold of [undefined, 1, 9]) {
      const h = prepared(threshold)
      // One tick of time for each instruction, as far as the hart has said how many there were.
      h.outside.now = () => Number(h.hart.get(LAYOUT.instret)) * 100
      h.hart.setX(20, BigInt(CODE))
      h.hart.setX(26, BigInt(PERIOD))
      h.hart.setX(25, BigInt(LOG + TIMES * LOG_BYTES))
      h.hart.setCsr('menvcfg', 1n << 63n)
      h.hart.setCsr('mideleg', 0n)
      h.hart.setCsr('mie', BigInt(IRQ.STIP))
      h.hart.setCsr('mstatus', h.hart.csr('mstatus') | 8n)
      h.hart.set(csrOffset('stimecmp'), BigInt(PERIOD))
      withHandler(h, [
        encode('beq', { rs1: LOG_REGISTER, rs2: 25, imm: 20 }),
        csrr(SCRATCH, CSR.stimecmp),
        encode('add', { rd: SCRATCH, rs1: SCRATCH, rs2: 26 }),
        csrw(CSR.stimecmp, SCRATCH),
        encode('mret'),
        ...END,
      ])
      changed(h)
      h.load(CODE, shapes[name])
      h.run(CODE)
      const log = traps(h)
      expect(log.length).toBe(TIMES)
      log.forEach(({ cause, instret, pc }, i) => {
        expect(cause).toBe((1n << 63n) | 5n)
        const late = instret - (i + 1) * PERIOD
        expect(late).toBeGreaterThanOrEqual(0)
        // A hart looks at the time every 20,000 instructions, give or take a block.
        expect(late).toBeLessThan(21_000)
        expect(pc).toBeGreaterThanOrEqual(CODE)
        expect(pc).toBeLessThan(CODE + 4 * shapes[name].length)
      })
      if (threshold !== undefined) expect(h.counter('regionsLive')).toBeGreaterThan(0)
    }
  })

  it.each([
    ['software', IRQ.MSIP, 3n],
    ['external', IRQ.MEIP, 11n],
  ])('%s: taken where the loop next goes round', (_, bit, number) => {
    for (const threshold of [undefined, 1, 9]) {
      const h = prepared(threshold)
      const rung: number[] = []
      h.outside.onRing = (value) => {
        if (value !== 0) rung.push(value)
        if (value === 0) Atomics.and(h.hart.i32, WORD.externalIrq, ~bit)
        else Atomics.or(h.hart.i32, WORD.externalIrq, bit)
        Atomics.or(h.hart.i32, WORD.request, Request.irq)
      }
      h.hart.setX(20, BigInt(BELL))
      h.hart.setX(COUNTER_REGISTER, 5000n)
      h.hart.setCsr('mie', BigInt(bit))
      h.hart.setCsr('mstatus', h.hart.csr('mstatus') | 8n)
      withHandler(h, [encode('sw', { rs1: 20, rs2: 0 }), encode('mret')])
      changed(h)
      // x11 counts rounds; every 64th rings.
      h.load(CODE, [
        addi(11, 11, 1),
        encode('andi', { rd: 6, rs1: 11, imm: 63 }),
        encode('bne', { rs1: 6, rs2: 0, imm: 8 }),
        encode('sw', { rs1: 20, rs2: 11 }),
        countDown,
        backTo(5),
        ...END,
      ])
      h.run(CODE)
      const log = traps(h)
      expect(log.length).toBe(Math.floor(5000 / 64))
      expect(log.map(({ cause }) => cause & 63n)).toEqual(log.map(() => number))
      // In the round that rang, or at the start of the next.
      expect(log.map(({ x }) => Number(x[6]))).toEqual(rung)
    }
  })
})

describe('a page of code that PMP allows in part', () => {
  const PAGE = RAM_BASE + 0x20_0000
  /** Two blocks of 64 bytes, not executable. */
  const BARRED = [0x400, 0x800]
  const CALLS = 60
  const NAPOT = 0x18

  function guarded(h: CompilingHart): number {
    supervised(h)
    const { hart } = h
    for (const [i, at] of BARRED.entries()) hart.set(LAYOUT.pmpaddr + i * 8, (BigInt(PAGE + at) >> 2n) | 7n)
    hart.set(LAYOUT.pmpaddr + 16, (1n << 54n) - 1n)
    hart.set(LAYOUT.pmpcfg, BigInt(((NAPOT | 7) << 16) | ((NAPOT | 3) << 8) | (NAPOT | 3)))
    changed(h)
    withHandler(h, [csrw(CSR.mepc, 1), encode('mret')])
    const ret = encode('jalr', { rs1: 1 })
    // Loops, and returns.
    h.load(PAGE + 0x100, [
      addi(6, 0, 5),
      addi(11, 11, 1),
      addi(6, 6, -1),
      encode('bne', { rs1: 6, rs2: 0, imm: -8 }),
      ret,
    ])
    // Runs into what it may not run.
    h.load(PAGE + 0x3f8, [addi(12, 12, 1), addi(12, 12, 1), addi(12, 12, 100)])
    // Jumps there.
    h.load(PAGE + 0x200, [addi(13, 13, 1), encode('jal', { imm: 0x20c })])
    // Its last instruction (after one of 2 bytes, c.addi x14, 1) has its second half there.
    h.load(PAGE + 0x7f8, [addi(14, 14, 1), 0x0705, addi(14, 14, 100)])
    // Over it to what is allowed again, and reads it on the way.
    h.load(PAGE + 0x300, [encode('lw', { rd: 15, rs1: 21 }), encode('jal', { imm: 0x63c })])
    h.load(PAGE + 0x940, [addi(8, 8, 1), ret])
    hart.setX(COUNTER_REGISTER, BigInt(CALLS))
    const entries = [0x100, 0x3f8, 0x200, 0x7f8, 0x300]
    for (const [i, at] of entries.entries()) hart.setX(20 + i, BigInt(PAGE + at))
    const calls = entries.map((_, i) => encode('jalr', { rd: 1, rs1: 20 + i }))
    h.load(CODE, [...calls, countDown, backTo(calls.length + 1), ...END])
    return CODE
  }

  it('runs where it may, and traps where it may not, however it gets there', () => {
    for (const h of agrees(guarded)) {
      const log = traps(h)
      expect(log.length).toBe(3 * CALLS)
      for (const [i, trap] of log.entries()) {
        expect(trap.cause).toBe(1n)
        const [pc, value] = [
          [0x400, 0x400],
          [0x410, 0x410],
          [0x7fe, 0x800],
        ][i % 3]
        expect([trap.pc - PAGE, trap.value - PAGE]).toEqual([pc, value])
      }
      expect([11, 12, 13, 14, 8].map((n) => Number(h.hart.x(n)))).toEqual([5, 2, 1, 2, 1].map((n) => n * CALLS))
    }
  })

  it('is fetched as it is now, when it was written', () => {
    const ran = agrees((h) => {
      guarded(h)
      // Turns addi x11, x11, 1 into addi x11, x11, 2 and back.
      h.hart.setX(25, BigInt(PAGE + 0x104))
      h.hart.setX(9, BigInt(addi(11, 11, 1) ^ addi(11, 11, 2)))
      h.hart.setX(10, BigInt(addi(11, 11, 1)))
      const rewrite = [
        encode('xor', { rd: 10, rs1: 10, rs2: 9 }),
        encode('sw', { rs1: 25, rs2: 10 }),
        encode('fence.i'),
      ]
      const call = encode('jalr', { rd: 1, rs1: 20 })
      h.load(CODE, [...rewrite, call, countDown, backTo(rewrite.length + 2), ...END])
      return CODE
    })
    for (const h of ran) expect(h.hart.x(11)).toBe(BigInt((CALLS / 2) * 5 * 3))
  })
})
