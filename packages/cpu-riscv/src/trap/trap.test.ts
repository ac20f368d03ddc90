import { describe, expect, it } from 'vitest'
import { IRQ, MSTATUS, PRIV, WORD } from '../hart/hart-state.ts'
import { testHart } from '../hart/hart-testing.ts'
import { LAYOUT } from '../hart/layout.ts'
import { Request } from '../worker/requests.ts'
import { CAUSE } from './causes.ts'
import { mret, sret, takeTrap } from './trap.ts'

function at(priv: number, mstatus: number) {
  const t = testHart()
  const { hart } = t
  hart.i32[WORD.priv] = priv
  hart.i32[WORD.mstatus] = mstatus
  hart.pc = 0x8000_0004n
  hart.setCsr('mtvec', 0x1000n)
  hart.setCsr('stvec', 0xffff_ffff_8000_2001n)
  return t
}

// Spec: privileged ISA, "Privilege and Global Interrupt-Enable Stack in mstatus".
describe('takeTrap', () => {
  it('goes to M-mode and stacks MIE and the mode', () => {
    const { hart } = at(PRIV.U, MSTATUS.MIE)
    takeTrap(hart, CAUSE.loadPage, false, 0x123, -1)
    expect([hart.priv, hart.pc, hart.csr('mepc'), hart.csr('mcause'), hart.csr('mtval')]).toEqual([
      3,
      0x1000n,
      0x8000_0004n,
      13n,
      0xffff_ffff_0000_0123n,
    ])
    expect(hart.i32[WORD.mstatus]).toBe(MSTATUS.MPIE)
  })

  it('is delegated from S and U, never from M', () => {
    for (const [priv, to] of [
      [PRIV.U, PRIV.S],
      [PRIV.S, PRIV.S],
      [PRIV.M, PRIV.M],
    ]) {
      const { hart } = at(priv, MSTATUS.SIE)
      hart.setCsr('medeleg', 1n << 13n)
      takeTrap(hart, CAUSE.loadPage, false, 0, 0)
      expect(hart.priv).toBe(to)
    }
  })

  it('vectors interrupts, not exceptions', () => {
    const { hart } = at(PRIV.S, MSTATUS.SIE)
    hart.setCsr('mideleg', 0x222n)
    hart.setCsr('medeleg', 1n << 3n)
    takeTrap(hart, 5, true, 0, 0)
    expect([hart.pc, hart.csr('scause')]).toEqual([0xffff_ffff_8000_2014n, (1n << 63n) | 5n])
    expect(hart.i32[WORD.mstatus]).toBe(MSTATUS.SPIE | MSTATUS.SPP)
    takeTrap(hart, 3, false, 0, 0)
    expect(hart.pc).toBe(0xffff_ffff_8000_2000n)
  })
})

describe('xRET', () => {
  it('mret pops the stack and drops MPRV below M', () => {
    const { hart } = at(PRIV.M, MSTATUS.MPIE | MSTATUS.MPRV | (1 << MSTATUS.MPP_SHIFT))
    hart.setCsr('mepc', 0x42n)
    expect(mret(hart)).toBe(true)
    expect([hart.priv, hart.pc, hart.i32[WORD.mstatus]]).toEqual([1, 0x42n, MSTATUS.MIE | MSTATUS.MPIE])
  })

  it('sret goes to SPP', () => {
    const { hart } = at(PRIV.S, MSTATUS.SPP | MSTATUS.SPIE)
    expect(sret(hart)).toBe(true)
    expect([hart.priv, hart.i32[WORD.mstatus]]).toEqual([1, MSTATUS.SIE | MSTATUS.SPIE])
    sret(hart)
    expect(hart.priv).toBe(0)
  })

  it('does not enter virtualized modes', () => {
    const { hart } = at(PRIV.M, 1 << MSTATUS.MPP_SHIFT)
    hart.setCsr('mstatus', hart.csr('mstatus') | (1n << 39n))
    expect(mret(hart)).toBe(false)
    hart.setCsr('hstatus', 1n << 7n)
    expect(sret(hart)).toBe(false)
  })
})

// Spec: privileged ISA, "Machine Interrupt Registers".
describe('interrupts', () => {
  const take = (t: ReturnType<typeof at>) => {
    t.core.step()
    const { hart } = t
    return hart.priv === PRIV.M ? ['M', hart.csr('mcause') & 63n] : ['S', hart.csr('scause') & 63n]
  }

  it('takes the one of highest priority', () => {
    const t = at(PRIV.M, MSTATUS.MIE)
    t.hart.setCsr('mie', 0xfffn)
    t.hart.i32[WORD.externalIrq] = IRQ.MSIP | IRQ.MEIP | IRQ.SEIP
    expect(take(t)).toEqual(['M', 11n])
    t.hart.i32[WORD.mstatus] = MSTATUS.MIE
    t.hart.i32[WORD.externalIrq] = IRQ.MSIP | IRQ.SEIP
    expect(take(t)).toEqual(['M', 3n])
  })

  it('an S-mode hart takes M interrupts whatever MIE says, and its own by SIE', () => {
    const t = at(PRIV.S, 0)
    t.hart.setCsr('mideleg', 0x222n)
    t.hart.setCsr('mie', 0xfffn)
    t.hart.i32[WORD.externalIrq] = IRQ.SEIP
    t.core.step()
    expect(t.hart.priv).toBe(PRIV.S)
    expect(t.hart.pc).toBe(0x8000_0004n)
    t.hart.i32[WORD.mstatus] = MSTATUS.SIE
    expect(take(t)).toEqual(['S', 9n])
    t.hart.i32[WORD.externalIrq] = IRQ.MSIP
    expect(take(t)).toEqual(['M', 3n])
  })

  it('M-mode never takes a delegated one', () => {
    const t = at(PRIV.M, MSTATUS.MIE | MSTATUS.SIE)
    t.hart.setCsr('mideleg', 0x222n)
    t.hart.setCsr('mie', 0xfffn)
    t.hart.i32[WORD.externalIrq] = IRQ.SEIP
    t.core.step()
    expect(t.hart.pc).toBe(0x8000_0004n)
  })

  it('WFI ends when an enabled interrupt is pending, even if it is not taken', () => {
    const t = at(PRIV.M, 0)
    t.hart.halted = true
    t.hart.setCsr('mie', BigInt(IRQ.MSIP))
    t.hart.i32[WORD.externalIrq] = IRQ.MSIP
    t.core.step()
    expect(t.hart.halted).toBe(false)
    expect(t.hart.pc).toBe(0x8000_0004n)
  })

  it('a hart that only does WFIs with something pending gets slower, and still wakes for a request', () => {
    const t = at(PRIV.M, 0)
    t.hart.setCsr('mie', BigInt(IRQ.MSIP))
    t.hart.i32[WORD.externalIrq] = IRQ.MSIP
    const begin = performance.now()
    for (let i = 0; i < 82; i++) {
      t.hart.halted = true
      t.core.step()
    }
    expect(performance.now() - begin).toBeGreaterThan(50 * 0.2)
    // An interrupt that is taken ends it.
    t.hart.i32[WORD.mstatus] = MSTATUS.MIE
    t.core.step()
    expect(t.hart.csr('mcause') & 63n).toBe(3n)
  })

  it('MTIP follows mtimecmp', () => {
    const t = at(PRIV.M, MSTATUS.MIE)
    t.hart.setCsr('mie', BigInt(IRQ.MTIP))
    t.hart.set(LAYOUT.mtimecmp, 5n)
    Atomics.or(t.hart.i32, WORD.request, Request.irq)
    t.core.step()
    expect(t.hart.pc).toBe(0x8000_0004n)
    t.time.ns = 500
    expect(take(t)).toEqual(['M', 7n])
  })
})
