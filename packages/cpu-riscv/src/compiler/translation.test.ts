import { describe, expect, it } from 'vitest'
import { encode } from '../isa/encode-testing.ts'
import {
  agrees,
  CODE,
  COUNTER_REGISTER,
  type CompilingHart,
  END,
  OTHER_ROOT,
  PTE,
  pte,
  RAM_BASE,
  ROOT,
  satp,
  supervised,
} from './compiler-testing.ts'

/** Where a page is mapped to one place or another, and the places. */
const VA = 0x4000_0000
const [A, B] = [RAM_BASE + 0x20_0000, RAM_BASE + 0x20_1000]
const EXECUTABLE = PTE.V | PTE.R | PTE.X | PTE.A
const ROUNDS = 200
const SATP = 0x180
const RESULT = 11

const RETURN = encode('jalr', { rd: 0, rs1: 1 })
const addi = (rd: number, rs1: number, imm: number): number => encode('addi', { rd, rs1, imm })
/** A function that adds to the result, in a loop of three rounds so that it is hot by itself. */
const adds = (imm: number): number[] => [
  addi(6, 0, 3),
  addi(RESULT, RESULT, imm),
  addi(6, 6, -1),
  encode('bne', { rs1: 6, rs2: 0, imm: -8 }),
  RETURN,
]
/** What follows in each round, then back to the start of the loop. */
const loop = (body: readonly number[]): number[] => [
  ...body,
  addi(COUNTER_REGISTER, COUNTER_REGISTER, -1),
  encode('bne', { rs1: COUNTER_REGISTER, rs2: 0, imm: -4 * (body.length + 1) }),
  ...END,
]
/** Calls the address in x20. */
const CALL = encode('jalr', { rd: 1, rs1: 20 })
/** Exchanges x12 and x13. */
const SWAP = [
  encode('add', { rd: 14, rs1: 12 }),
  encode('add', { rd: 12, rs1: 13 }),
  encode('add', { rd: 13, rs1: 14 }),
]

function twoFunctions(h: CompilingHart): void {
  h.load(A, adds(1))
  h.load(B, adds(100))
  h.hart.setX(COUNTER_REGISTER, BigInt(ROUNDS))
  h.hart.setX(20, BigInt(VA))
}
/** Half of the rounds ran each function. */
const BOTH = BigInt((ROUNDS / 2) * 3 * 101)

describe('compiled code under translation', () => {
  it.each([
    ['sfence.vma', 0, 0],
    ['sfence.vma address', 20, 0],
    ['sfence.vma address, asid', 20, 21],
    ['sfence.vma of an asid', 0, 21],
  ])('a page is mapped elsewhere, then %s', (_, rs1, rs2) => {
    const [hart] = agrees((h) => {
      supervised(h)
      h.map(VA, A, EXECUTABLE)
      twoFunctions(h)
      h.hart.setX(12, pte(B, EXECUTABLE))
      h.hart.setX(13, pte(A, EXECUTABLE))
      h.hart.setX(15, BigInt(h.entryAt(VA)))
      h.load(CODE, loop([CALL, encode('sd', { rs1: 15, rs2: 12 }), encode('sfence.vma', { rs1, rs2 }), ...SWAP]))
      return CODE
    })
    expect(hart.hart.x(RESULT)).toBe(BOTH)
    // Both functions stay compiled: they belong to where they lie and not to where they are seen.
    expect(hart.counter('regionsStale')).toBe(0)
    expect(hart.counter('regionsLive')).toBeGreaterThan(3)
  })

  it.each([
    ['two ASIDs', 1, 2],
    ['one ASID', 0, 0],
  ])('satp goes between address spaces that have other code at the same address, %s', (_, asid, otherAsid) => {
    const [hart] = agrees((h) => {
      supervised(h, [ROOT, OTHER_ROOT])
      h.map(VA, A, EXECUTABLE)
      h.map(VA, B, EXECUTABLE, OTHER_ROOT)
      twoFunctions(h)
      h.hart.setX(12, satp(OTHER_ROOT, otherAsid))
      h.hart.setX(13, satp(ROOT, asid))
      h.load(CODE, loop([CALL, encode('csrrw', { rs1: 12, imm: SATP }), ...SWAP]))
      return CODE
    })
    expect(hart.hart.x(RESULT)).toBe(BOTH)
    expect(hart.counter('regionsStale')).toBe(0)
  })

  it('satp changes under the code that changes it: what follows is the other space’s', () => {
    const [hart] = agrees((h) => {
      supervised(h, [ROOT, OTHER_ROOT])
      // The loop itself lies in the page that differs. The two copies differ in what they add.
      const copy = (imm: number) => loop([encode('csrrw', { rs1: 12, imm: SATP }), addi(RESULT, RESULT, imm), ...SWAP])
      h.load(A, copy(1))
      h.load(B, copy(100))
      h.map(VA, A, EXECUTABLE)
      h.map(VA, B, EXECUTABLE, OTHER_ROOT)
      h.hart.setX(COUNTER_REGISTER, BigInt(ROUNDS))
      h.hart.setX(12, satp(OTHER_ROOT))
      h.hart.setX(13, satp(ROOT))
      return VA
    })
    expect(hart.hart.x(RESULT)).toBe(BigInt((ROUNDS / 2) * 101))
  })

  /** A loop that goes over the end of its first page in the middle of an instruction; the second page says what it adds. */
  function straddling(h: CompilingHart, seconds: readonly (readonly [page: number, imm: number])[]): number {
    const insns = [addi(6, 0, 3), addi(7, 7, 1), addi(6, 6, -1)]
    const rest = [encode('bne', { rs1: 6, rs2: 0, imm: -12 }), RETURN]
    // What lies behind the page in memory is not what is mapped behind it.
    h.load(A + 0xff2, [...insns, addi(RESULT, RESULT, 2000)])
    for (const [page, imm] of seconds) {
      h.ram.set([(addi(RESULT, RESULT, imm) >>> 16) & 0xff, addi(RESULT, RESULT, imm) >>> 24], page - RAM_BASE)
      h.load(page + 2, rest)
    }
    return VA + 0xff2
  }
  const SECOND = A + 0x4000
  const THIRD = A + 0x6000

  it('an instruction lies across two pages, of which the second is exchanged', () => {
    const [hart] = agrees((h) => {
      supervised(h)
      const at = straddling(h, [
        [SECOND, 1],
        [THIRD, 100],
      ])
      h.map(VA, A, EXECUTABLE)
      h.map(VA + 0x1000, SECOND, EXECUTABLE)
      h.hart.setX(COUNTER_REGISTER, BigInt(ROUNDS))
      h.hart.setX(20, BigInt(at))
      h.hart.setX(12, pte(THIRD, EXECUTABLE))
      h.hart.setX(13, pte(SECOND, EXECUTABLE))
      h.hart.setX(15, BigInt(h.entryAt(VA + 0x1000)))
      h.load(CODE, loop([CALL, encode('sd', { rs1: 15, rs2: 12 }), encode('sfence.vma', { rs1: 0, rs2: 0 }), ...SWAP]))
      return CODE
    })
    expect(hart.hart.x(RESULT)).toBe(BOTH)
  })

  it('the second page of an instruction goes away: the trap names its second half', () => {
    const [hart] = agrees((h) => {
      supervised(h)
      const at = straddling(h, [[SECOND, 1]])
      h.map(VA, A, EXECUTABLE)
      h.map(VA + 0x1000, SECOND, EXECUTABLE)
      h.hart.setX(COUNTER_REGISTER, BigInt(ROUNDS))
      h.hart.setX(20, BigInt(at))
      h.hart.setX(15, BigInt(h.entryAt(VA + 0x1000)))
      h.hart.setCsr('mtvec', BigInt(CODE + 0x800))
      h.load(CODE + 0x800, END)
      const done = loop([CALL]).slice(0, -END.length)
      const then = [encode('sd', { rs1: 15, rs2: 0 }), encode('sfence.vma'), CALL]
      h.load(CODE, [...done, ...then])
      return CODE
    })
    expect(hart.hart.csr('mcause')).toBe(12n)
    expect(hart.hart.csr('mepc')).toBe(BigInt(VA + 0xffe))
    expect(hart.hart.csr('mtval')).toBe(BigInt(VA + 0x1000))
    // The loop has run over its first part once more.
    expect(hart.hart.x(7)).toBe(BigInt(ROUNDS * 3 + 1))
  })

  it('one page of code is seen at two addresses, with other neighbours', () => {
    const [hart] = agrees((h) => {
      supervised(h)
      const at = straddling(h, [
        [SECOND, 1],
        [THIRD, 100],
      ])
      const other = VA + 0x10_0000
      h.map(VA, A, EXECUTABLE)
      h.map(VA + 0x1000, SECOND, EXECUTABLE)
      h.map(other, A, EXECUTABLE)
      h.map(other + 0x1000, THIRD, EXECUTABLE)
      h.hart.setX(COUNTER_REGISTER, BigInt(ROUNDS))
      h.hart.setX(20, BigInt(at))
      h.hart.setX(12, BigInt(at + 0x10_0000))
      h.hart.setX(13, BigInt(at))
      h.load(CODE, loop([CALL, encode('add', { rd: 20, rs1: 12 }), ...SWAP]))
      return CODE
    })
    expect(hart.hart.x(RESULT)).toBe(BOTH)
  })

  it('code is written through another address of its page, then fence.i', () => {
    const [hart] = agrees((h) => {
      supervised(h)
      twoFunctions(h)
      h.map(VA, A, EXECUTABLE)
      // The loop writes the addi at A + 4 where RAM is mapped as it lies, and runs it at VA.
      h.hart.setX(15, BigInt(A + 4))
      h.hart.setX(12, BigInt(addi(RESULT, RESULT, 100)))
      h.hart.setX(13, BigInt(addi(RESULT, RESULT, 1)))
      h.load(CODE, loop([CALL, encode('sw', { rs1: 15, rs2: 12 }), encode('fence.i'), ...SWAP]))
      return CODE
    })
    expect(hart.hart.x(RESULT)).toBe(BOTH)
  })

  it('data beside hot code is written all the time, and the code stays compiled', () => {
    const [hart] = agrees((h) => {
      supervised(h)
      h.hart.setX(COUNTER_REGISTER, BigInt(ROUNDS))
      h.hart.setX(15, BigInt(CODE + 0x400))
      h.load(
        CODE,
        loop([
          encode('ld', { rd: 6, rs1: 15 }),
          addi(6, 6, 1),
          encode('sd', { rs1: 15, rs2: 6 }),
          addi(RESULT, RESULT, 1),
        ]),
      )
      return CODE
    })
    expect(hart.hart.x(RESULT)).toBe(BigInt(ROUNDS))
    expect(hart.hart.x(6)).toBe(BigInt(ROUNDS))
    expect(hart.counter('regionsStale')).toBe(0)
    expect(hart.counter('regionsLive')).toBeGreaterThan(0)
  })

  it('more pages of hot code than a hart keeps decoded', () => {
    const [hart] = agrees(
      (h) => {
        supervised(h)
        // 40 functions, each in a page of its own, one after the other, for each round.
        const pages = 40
        for (let i = 0; i < pages; i++) h.load(A + i * 0x1000, adds(i))
        h.hart.setX(COUNTER_REGISTER, 20n)
        h.hart.setX(21, 0x1000n)
        h.hart.setX(22, BigInt(A))
        h.hart.setX(23, BigInt(A + pages * 0x1000))
        h.load(
          CODE,
          loop([
            encode('add', { rd: 20, rs1: 22 }),
            CALL,
            encode('add', { rd: 20, rs1: 20, rs2: 21 }),
            encode('bne', { rs1: 20, rs2: 23, imm: -8 }),
          ]),
        )
        return CODE
      },
      { poolPages: 16 },
    )
    expect(hart.hart.x(RESULT)).toBe(BigInt((20 * 3 * (39 * 40)) / 2))
    expect(hart.counter('recycledPages')).toBeGreaterThan(400)
    // What is given up is not kept: not more live than the pages that are left can hold.
    expect(hart.counter('regionsLive')).toBeLessThan(100)
  })

  it('a page of code loses its right to be executed while it is hot', () => {
    const [hart] = agrees((h) => {
      supervised(h)
      twoFunctions(h)
      h.map(VA, A, EXECUTABLE)
      h.hart.setX(15, BigInt(h.entryAt(VA)))
      h.hart.setX(12, pte(A, PTE.V | PTE.R | PTE.A))
      h.hart.setCsr('mtvec', BigInt(CODE + 0x800))
      h.load(CODE + 0x800, END)
      const done = loop([CALL]).slice(0, -END.length)
      h.load(CODE, [...done, encode('sd', { rs1: 15, rs2: 12 }), encode('sfence.vma', { rs1: 20, rs2: 0 }), CALL])
      return CODE
    })
    expect([hart.hart.csr('mcause'), hart.hart.csr('mepc'), hart.hart.csr('mtval')]).toEqual([
      12n,
      BigInt(VA),
      BigInt(VA),
    ])
    expect(hart.hart.x(RESULT)).toBe(BigInt(ROUNDS * 3))
  })

  it('user code and supervisor code are the same page, and each sees memory as it may', () => {
    const [hart] = agrees((h) => {
      supervised(h)
      // lw x11 from a page that only S may read; the same function is called in S and, by sret, in U.
      h.load(A, [
        encode('lw', { rd: 12, rs1: 15 }),
        addi(RESULT, RESULT, 1),
        encode('bne', { rs1: 12, rs2: 0, imm: -8 }),
        RETURN,
      ])
      h.map(VA, A, EXECUTABLE)
      h.map(VA + 0x20_0000, A, EXECUTABLE | PTE.U)
      h.hart.setX(15, BigInt(B))
      h.hart.setX(20, BigInt(VA))
      h.hart.setX(COUNTER_REGISTER, BigInt(ROUNDS))
      h.hart.setCsr('mtvec', BigInt(CODE + 0x800))
      h.hart.setCsr('mstatus', h.hart.csr('mstatus') & ~0x100n)
      h.hart.setX(21, BigInt(VA + 0x20_0000))
      h.load(CODE + 0x800, END)
      const done = loop([CALL]).slice(0, -END.length)
      h.load(CODE, [...done, encode('csrrw', { rs1: 21, imm: 0x141 }), encode('sret')])
      return CODE
    })
    expect([hart.hart.csr('mcause'), hart.hart.csr('mepc'), hart.hart.csr('mtval')]).toEqual([
      13n,
      BigInt(VA + 0x20_0000),
      BigInt(B),
    ])
    expect(hart.hart.x(RESULT)).toBe(BigInt(ROUNDS))
  })
})
