import { describe, expect, it } from 'vitest'
import { IRQ, MSTATUS, PRIV, WORD } from '../hart/hart-state.ts'
import { testHart } from '../hart/hart-testing.ts'
import { FILE, InterruptFileMemory } from '../hart/interrupt-file.ts'
import { LAYOUT } from '../hart/layout.ts'
import { Pending } from '../trap/causes.ts'
import { Interrupts } from '../trap/interrupts.ts'

const CSR = {
  siselect: 0x150,
  sireg: 0x151,
  stopei: 0x15c,
  stopi: 0xdb0,
  miselect: 0x350,
  mireg: 0x351,
  mtopei: 0x35c,
  mtopi: 0xfb0,
  vsiselect: 0x250,
  vsireg: 0x251,
  vstopei: 0x25c,
  hgeie: 0x607,
  hgeip: 0xe12,
  hstatus: 0x600,
  sip: 0x144,
  mip: 0x344,
}
const EIDELIVERY = 0x70n
const EITHRESHOLD = 0x72n
const EIP = 0x80n
const EIE = 0xc0n
const shown = (identity: number) => BigInt((identity << 16) | identity)

function csrs(guestFiles: number | 'none' = 0) {
  const t = testHart(guestFiles === 'none' ? {} : { guestFiles })
  const run = (funct3: number, number: number, source: bigint, index: number): bigint | undefined => {
    const old = t.imports.csr(funct3, number, source, index, 0)
    const pending = t.hart.i32[WORD.trapPending]
    t.hart.i32[WORD.trapPending] = 0
    return pending === Pending.illegal ? undefined : BigInt.asUintN(64, old)
  }
  const read = (number: number) => run(2, number, 0n, 0)
  const write = (number: number, value: bigint) => run(1, number, value, 1)
  const file = (index: number = FILE.S) => new InterruptFileMemory(t.hart, index)
  return {
    ...t,
    read,
    write,
    set: (number: number, value: bigint) => run(2, number, value, 1),
    clear: (number: number, value: bigint) => run(3, number, value, 1),
    file,
    /** Writes a register of S-mode's file. */
    sireg(select: bigint, value: bigint) {
      write(CSR.siselect, select)
      write(CSR.sireg, value)
    },
    interrupts: () => new Interrupts(t.hart, t.profile, t.control, () => 0),
  }
}

// Spec: RISC-V AIA 1.0, chapter "Incoming MSI Controller (IMSIC)".
describe('registers of an interrupt file', () => {
  it('are where xiselect points to; elsewhere is nothing', () => {
    const c = csrs()
    for (const select of [0x2fn, 0x31n, 0x40n, 0x6fn, 0x71n, 0x73n, 0x7fn, 0x81n, 0xc1n, 0x100n]) {
      c.write(CSR.siselect, select)
      expect(c.read(CSR.sireg), `select ${select}`).toBeUndefined()
    }
    for (const select of [0x30n, 0x3en, EIDELIVERY, EITHRESHOLD, EIP, 0xben, EIE, 0xfen]) {
      c.write(CSR.siselect, select)
      expect(c.read(CSR.sireg), `select ${select}`).toBeDefined()
    }
  })

  it('hold what their bits can: identity 0 is none, and there are 255', () => {
    const c = csrs()
    for (const [select, kept] of [
      [EIDELIVERY, 1n],
      [EITHRESHOLD, 255n],
      [EIP, (1n << 64n) - 2n],
      [EIE + 6n, (1n << 64n) - 1n],
      [EIE + 8n, 0n],
    ] as const) {
      c.sireg(select, (1n << 64n) - 1n)
      expect(c.read(CSR.sireg), `select ${select}`).toBe(kept)
    }
    c.write(CSR.siselect, EIP)
    c.clear(CSR.sireg, 0xff00n)
    c.set(CSR.sireg, 0x0300n)
    expect(c.read(CSR.sireg)).toBe((1n << 64n) - 2n - 0xfc00n)
  })

  it('say which identity comes first, and a write claims the one that was read', () => {
    const c = csrs()
    c.sireg(EIE, (1n << 40n) | (1n << 7n))
    c.file().setPending(40)
    c.file().setPending(7)
    c.file().setPending(5)
    expect(c.read(CSR.stopei)).toBe(shown(7))
    c.sireg(EITHRESHOLD, 7n)
    expect(c.read(CSR.stopei)).toBe(0n)
    c.sireg(EITHRESHOLD, 8n)
    expect(c.write(CSR.stopei, 0n)).toBe(shown(7))
    c.sireg(EITHRESHOLD, 0n)
    expect(c.write(CSR.stopei, 0n)).toBe(shown(40))
    expect(c.write(CSR.stopei, 0n)).toBe(0n)
    c.write(CSR.siselect, EIP)
    expect(c.read(CSR.sireg)).toBe(1n << 5n)
  })

  it('make the external interrupt pending while they deliver', () => {
    const c = csrs()
    c.sireg(EIE, 1n << 9n)
    c.file().setPending(9)
    expect(c.read(CSR.mip)! & BigInt(IRQ.SEIP | IRQ.MEIP)).toBe(0n)
    c.sireg(EIDELIVERY, 1n)
    expect(c.read(CSR.mip)! & BigInt(IRQ.SEIP | IRQ.MEIP)).toBe(BigInt(IRQ.SEIP))
    c.write(CSR.stopei, 0n)
    expect(c.read(CSR.mip)! & BigInt(IRQ.SEIP)).toBe(0n)
  })

  it('of guests belong to who hstatus.VGEIN names, and show in hgeip', () => {
    const c = csrs(2)
    expect(c.read(CSR.vstopei)).toBeUndefined()
    c.write(CSR.hstatus, 2n << 12n)
    c.write(CSR.vsiselect, EIE)
    c.write(CSR.vsireg, 1n << 3n)
    c.write(CSR.vsiselect, EIDELIVERY)
    c.write(CSR.vsireg, 1n)
    c.file(FILE.S + 2).setPending(3)
    expect(c.read(CSR.hgeip)).toBe(4n)
    expect(c.read(CSR.mip)! & BigInt(IRQ.SGEIP)).toBe(0n)
    c.write(CSR.hgeie, (1n << 64n) - 1n)
    expect(c.read(CSR.hgeie)).toBe(6n)
    expect(c.read(CSR.mip)! & BigInt(IRQ.SGEIP)).toBe(BigInt(IRQ.SGEIP))
    expect(c.write(CSR.vstopei, 0n)).toBe(shown(3))
    expect(c.read(CSR.hgeip)).toBe(0n)
    c.write(CSR.hstatus, 3n << 12n)
    expect(c.read(CSR.vstopei)).toBeUndefined()
  })

  it('are not there without an IMSIC', () => {
    const c = csrs('none')
    for (const number of Object.values(CSR).filter(
      (n) => ![CSR.hgeie, CSR.hgeip, CSR.hstatus, CSR.sip, CSR.mip].includes(n),
    )) {
      expect(c.read(number), number.toString(16)).toBeUndefined()
    }
    c.write(CSR.hgeie, 6n)
    expect(c.read(CSR.hgeie)).toBe(0n)
  })
})

// Spec: RISC-V AIA 1.0, chapter "Interrupts for Machine and Supervisor Levels".
describe('mtopi and stopi', () => {
  const pending = (c: ReturnType<typeof csrs>, mip: number, mie: number, mideleg: number) => {
    c.hart.i32[WORD.mip] = mip
    c.hart.i32[WORD.mie] = mie
    c.hart.i32[WORD.mideleg] = mideleg
  }

  it('show the first of those pending and enabled at their level, whatever mstatus says', () => {
    const c = csrs()
    pending(c, IRQ.SSIP | IRQ.SEIP | IRQ.MSIP, IRQ.SSIP | IRQ.SEIP | IRQ.MSIP, IRQ.SSIP | IRQ.SEIP)
    expect(c.read(CSR.mtopi)! >> 16n).toBe(3n)
    expect(c.read(CSR.stopi)).toBe(9n << 16n)
    pending(c, IRQ.SSIP | IRQ.SEIP, IRQ.SSIP, IRQ.SSIP | IRQ.SEIP)
    expect(c.read(CSR.stopi)! >> 16n).toBe(1n)
    expect(c.read(CSR.mtopi)).toBe(0n)
  })

  it('follow the priorities that software gave, and so does what is taken', () => {
    const c = csrs()
    pending(c, IRQ.SSIP | IRQ.STIP, IRQ.SSIP | IRQ.STIP, IRQ.SSIP | IRQ.STIP)
    expect(c.read(CSR.stopi)! >> 16n).toBe(1n)
    c.hart.priv = PRIV.S
    c.hart.i32[WORD.mstatus] = MSTATUS.SIE
    expect(c.interrupts().next()).toBe(1)
    c.write(CSR.siselect, 0x30n)
    const before = c.read(CSR.sireg)!
    c.write(CSR.sireg, (before & ~(0xffn << 40n)) | (3n << 40n))
    expect(c.read(CSR.stopi)).toBe((5n << 16n) | 3n)
    expect(c.interrupts().next()).toBe(5)
  })

  it('leave the external interrupt in its place', () => {
    const c = csrs()
    c.write(CSR.siselect, 0x32n)
    c.write(CSR.sireg, (1n << 64n) - 1n)
    expect(c.hart.u8[LAYOUT.siprio + 9]).toBe(0)
    expect(c.hart.u8[LAYOUT.siprio + 10]).toBe(255)
  })
})
