import { describe, expect, it } from 'vitest'
import { IRQ, MSTATUS, PRIV, WORD } from '../hart/hart-state.ts'
import { testHart } from '../hart/hart-testing.ts'
import { LAYOUT } from '../hart/layout.ts'
import type { ProfileName } from '../hart/profile.ts'
import { Pending } from '../trap/causes.ts'

function csrs(profile: ProfileName = 'qemu-7.2') {
  const t = testHart({ profile })
  /** undefined: illegal instruction. */
  const run = (funct3: number, number: number, source: bigint, index: number): bigint | undefined => {
    const old = t.imports.csr(funct3, number, source, index, 0)
    const pending = t.hart.i32[WORD.trapPending]
    t.hart.i32[WORD.trapPending] = 0
    return pending === Pending.illegal ? undefined : BigInt.asUintN(64, old)
  }
  return {
    ...t,
    run,
    read: (number: number) => run(2, number, 0n, 0),
    write: (number: number, value: bigint) => run(1, number, value, 1),
    set: (number: number, value: bigint) => run(2, number, value, 1),
    clear: (number: number, value: bigint) => run(3, number, value, 1),
    as(priv: number, mstatus = 0) {
      t.hart.i32[WORD.priv] = priv
      t.hart.i32[WORD.mstatus] = mstatus
    },
  }
}

// Spec: privileged ISA, "CSR Address Mapping Conventions".
describe('access', () => {
  it('needs the privilege in the number', () => {
    const c = csrs()
    c.as(PRIV.U)
    expect(c.read(0x100)).toBeUndefined()
    c.as(PRIV.S)
    expect(c.read(0x100)).toBeDefined()
    expect(c.read(0x600)).toBeDefined()
    expect(c.read(0x300)).toBeUndefined()
  })

  it('refuses to write read-only numbers, but csrrs with x0 only reads', () => {
    const c = csrs()
    expect(c.write(0xf14, 0n)).toBeUndefined()
    expect(c.run(2, 0xf14, 0n, 0)).toBe(0n)
    expect(c.run(2, 0xf14, 0n, 1)).toBeUndefined()
    expect(c.run(5, 0xf14, 0n, 0)).toBeUndefined()
  })

  it.each([0x015, 0x3a1, 0x3c0, 0x747, 0x30c, 0xb13, 0xda0])('number 0x%s does not exist', (number) => {
    expect(csrs().read(number)).toBeUndefined()
  })

  it('identifies like the profile', () => {
    expect([0xf11, 0xf12, 0xf13].map((n) => csrs().read(n))).toEqual([0n, 0x070216n, 0x070216n])
    expect([0xf11, 0xf12, 0xf13].map((n) => csrs('qemu-10.0').read(n))).toEqual([0n, 0n, 0n])
    expect(csrs().read(0x301)).toBe(0x8000_0000_0014_11adn)
    expect(csrs().read(0x30a)).toBe(0n)
    expect(csrs('qemu-10.0').read(0x30a)).toBe(1n << 61n)
  })
})

describe('mstatus', () => {
  it('keeps what is fixed, ignores MPP = 2, computes SD', () => {
    const c = csrs()
    c.write(0x300, (1n << 64n) - 1n)
    expect(c.read(0x300)).toBe(0x8000_00ca_007e_79aan)
    c.write(0x300, 0x1000n)
    expect((c.read(0x300)! >> 11n) & 3n).toBe(3n)
    c.write(0x300, 0x6000n)
    expect(c.read(0x300)! >> 63n).toBe(1n)
    c.write(0x300, 0x4000n)
    expect(c.read(0x300)! >> 63n).toBe(0n)
  })

  it('sstatus is a window on it', () => {
    const c = csrs()
    c.write(0x300, 0x1888n)
    c.write(0x100, (1n << 64n) - 1n)
    expect(c.read(0x100)).toBe(0x8000_0002_000c_6122n)
    expect(c.read(0x300)).toBe(0x8000_000a_000c_79aan)
    c.write(0x100, 0n)
    expect(c.read(0x300)).toBe(0xa_0000_1888n)
  })

  it('FS off makes fcsr illegal; writing it makes FS dirty', () => {
    const c = csrs()
    expect(c.read(3)).toBeUndefined()
    c.write(0x300, 0x2000n)
    expect(c.hart.i32[WORD.fpOff]).toBe(2)
    c.write(3, 0xffn)
    expect([c.read(1), c.read(2), c.read(3)]).toEqual([0x1fn, 7n, 0xffn])
    expect(c.read(0x300)! & 0x6000n).toBe(0x6000n)
    expect(c.hart.i32[WORD.fpOff]).toBe(0)
    c.clear(1, 3n)
    expect(c.read(3)).toBe(0xfcn)
  })
})

describe('satp', () => {
  it('takes Bare, Sv39, Sv48, Sv57 and nothing else', () => {
    const c = csrs()
    for (const mode of [8n, 9n, 10n, 0n]) {
      c.write(0x180, (mode << 60n) | 5n)
      expect(c.read(0x180)).toBe((mode << 60n) | 5n)
    }
    c.write(0x180, 11n << 60n)
    expect(c.read(0x180)).toBe(5n)
  })

  it('TVM hides it from S-mode', () => {
    const c = csrs()
    c.as(PRIV.S, MSTATUS.TVM)
    expect(c.read(0x180)).toBeUndefined()
    c.as(PRIV.M, MSTATUS.TVM)
    expect(c.read(0x180)).toBeDefined()
  })

  it('leaves the interpreter, because the next instruction may lie elsewhere', () => {
    const c = csrs()
    c.imports.csr(1, 0x180, 8n << 60n, 1, 0)
    expect(c.hart.i32[WORD.trapPending]).toBe(Pending.csrDone)
  })
})

describe('interrupt bits', () => {
  it('mip shows lines that software cannot clear, and sets only what it may', () => {
    const c = csrs()
    c.hart.i32[WORD.externalIrq] = IRQ.MEIP | IRQ.SEIP | IRQ.MSIP
    c.clear(0x344, 0xffffn)
    expect(c.read(0x344)).toBe(BigInt(IRQ.MEIP | IRQ.SEIP | IRQ.MSIP))
    c.set(0x344, 0xffffn)
    c.hart.i32[WORD.externalIrq] = 0
    expect(c.read(0x344)).toBe(BigInt(IRQ.SSIP | IRQ.STIP | IRQ.SEIP | IRQ.VSSIP | IRQ.VSTIP | IRQ.VSEIP))
  })

  it('csrrs on mip does not turn the line of SEIP into a software bit', () => {
    const c = csrs()
    c.hart.i32[WORD.externalIrq] = IRQ.SEIP
    c.set(0x344, BigInt(IRQ.SSIP))
    c.hart.i32[WORD.externalIrq] = 0
    expect(c.read(0x344)).toBe(BigInt(IRQ.SSIP))
  })

  it('sie and sip show delegated bits; sip sets SSIP only', () => {
    const c = csrs()
    c.write(0x304, 0xffffn)
    expect(c.read(0x304)).toBe(0x1eeen)
    expect(c.read(0x104)).toBe(0n)
    c.write(0x303, 0x222n)
    expect(c.read(0x303)).toBe(0x1666n)
    expect(c.read(0x104)).toBe(0x222n)
    c.set(0x144, 0xffffn)
    expect(c.read(0x144)).toBe(2n)
    c.write(0x104, 0n)
    expect(c.read(0x304)).toBe(0x1cccn)
  })

  it('a write that makes an interrupt deliverable leaves the interpreter', () => {
    const c = csrs()
    c.write(0x304, 8n)
    c.hart.i32[WORD.externalIrq] = IRQ.MSIP
    expect(c.imports.csr(6, 0x300, 8n, 8, 0)).toBe(0xa_0000_0000n)
    expect(c.hart.i32[WORD.trapPending]).toBe(Pending.csrDone)
    expect(c.hart.get(LAYOUT.trapValue)).toBe(0xa_0000_0000n)
  })
})

// Spec: Sstc; privileged ISA "Hardware Performance Monitor", "Machine Counter-Enable".
describe('time and counters', () => {
  it('time counts 100 ns, plus the delta', () => {
    const c = csrs()
    c.time.ns = 12_345
    expect(c.read(0xc01)).toBe(123n)
    c.control.timeDelta = -23n
    expect(c.read(0xc01)).toBe(100n)
  })

  it('mcounteren and scounteren gate them', () => {
    const c = csrs()
    c.as(PRIV.S)
    expect(c.read(0xc01)).toBeUndefined()
    c.hart.setCsr('mcounteren', 2n)
    expect(c.read(0xc01)).toBeDefined()
    expect(c.read(0xc00)).toBeUndefined()
    c.as(PRIV.U)
    expect(c.read(0xc01)).toBeUndefined()
    c.hart.setCsr('scounteren', 2n)
    expect(c.read(0xc01)).toBeDefined()
  })

  it('stimecmp needs STCE and TM below M-mode, and drives STIP', () => {
    const c = csrs()
    c.as(PRIV.S)
    expect(c.read(0x14d)).toBeUndefined()
    c.as(PRIV.M)
    c.write(0x30a, 1n << 63n)
    c.write(0x306, 2n)
    c.write(0x303, 0x222n)
    c.as(PRIV.S)
    c.write(0x14d, 10n)
    expect(c.read(0x144)).toBe(0n)
    c.time.ns = 1000
    expect(c.read(0x144)).toBe(BigInt(IRQ.STIP))
    c.write(0x14d, 11n)
    expect(c.read(0x144)).toBe(0n)
  })

  it('counts retired instructions, stops and goes on with mcountinhibit', () => {
    const c = csrs()
    c.hart.set(LAYOUT.instret, 100n)
    c.write(0xb02, 5n)
    c.hart.set(LAYOUT.instret, 110n)
    expect([c.read(0xb00), c.read(0xb02)]).toEqual([110n, 15n])
    c.write(0x320, 4n)
    c.hart.set(LAYOUT.instret, 200n)
    expect([c.read(0xb00), c.read(0xb02)]).toEqual([200n, 15n])
    c.write(0x320, 0n)
    c.hart.set(LAYOUT.instret, 201n)
    expect(c.read(0xb02)).toBe(16n)
  })

  it('has mhpmcounter3 to 18, which do not count', () => {
    const c = csrs()
    c.write(0xb12, 7n)
    expect([c.read(0xb12), c.read(0xb13), c.read(0xc12)]).toEqual([7n, undefined, 7n])
  })
})

describe('the rest', () => {
  it('trap vectors take modes 0 and 1', () => {
    const c = csrs()
    c.write(0x305, 0x8000_0001n)
    c.write(0x305, 0x9000_0002n)
    expect(c.read(0x305)).toBe(0x8000_0001n)
  })

  it('debug triggers are storage behind tselect', () => {
    const c = csrs()
    expect(c.read(0x7a1)).toBe(2n << 60n)
    c.write(0x7a0, 1n)
    c.write(0x7a2, 0x1234n)
    c.write(0x7a0, 2n)
    expect([c.read(0x7a0), c.read(0x7a2)]).toEqual([1n, 0x1234n])
    c.write(0x7a0, 0n)
    expect(c.read(0x7a2)).toBe(0n)
  })
})
