import type { HartState } from '../hart/hart-state.ts'
import { COUNTER, MSTATUS, MSTATUSH, PRIV, WORD } from '../hart/hart-state.ts'
import { csrOffset } from '../hart/layout.ts'

const word = (name: Parameters<typeof csrOffset>[0]): number => csrOffset(name) >> 2
const M = { epc: word('mepc'), cause: word('mcause'), tval: word('mtval'), vec: word('mtvec') } as const
const S = { epc: word('sepc'), cause: word('scause'), tval: word('stval'), vec: word('stvec') } as const
/** What the hypervisor extension has traps write besides; nothing here has more to say than zero. */
const M_GUEST = [word('mtval2'), word('mtinst')]
const S_GUEST = [word('htval'), word('htinst')]

/** Where an xRET may not go. */
export const ENTERS_VIRTUALIZATION = -1

/**
 * A reservation does not outlive a change of context, so that an SC cannot succeed on the LR of another one: stock QEMU
 * forgets it on every trap and every return from one.
 */
export function dropReservation(hart: HartState): void {
  hart.i32[WORD.loadRes] = hart.i32[WORD.loadRes + 1] = -1
}

/**
 * Enters the trap handler: privilege, the mstatus stack, xepc, xcause, xtval, pc. The caller updates translation state
 * afterwards. Spec: privileged ISA, "Trap handling" in the chapters on M- and S-mode.
 * @param valueLo @param valueHi what xtval gets
 */
export function takeTrap(hart: HartState, cause: number, interrupt: boolean, valueLo: number, valueHi: number): void {
  const { i32 } = hart
  const priv = i32[WORD.priv]
  const delegated = priv !== PRIV.M && (i32[interrupt ? WORD.mideleg : WORD.medeleg] >>> cause) & 1
  const to = delegated ? S : M
  let mstatus = i32[WORD.mstatus]
  if (delegated) {
    mstatus &= ~(MSTATUS.SPIE | MSTATUS.SPP)
    if (mstatus & MSTATUS.SIE) mstatus = (mstatus | MSTATUS.SPIE) & ~MSTATUS.SIE
    if (priv === PRIV.S) mstatus |= MSTATUS.SPP
  } else {
    mstatus &= ~(MSTATUS.MPIE | MSTATUS.MPP)
    if (mstatus & MSTATUS.MIE) mstatus = (mstatus | MSTATUS.MPIE) & ~MSTATUS.MIE
    mstatus |= priv << MSTATUS.MPP_SHIFT
    i32[WORD.mstatus + 1] &= ~(MSTATUSH.MPV | MSTATUSH.GVA)
  }
  i32[WORD.mstatus] = mstatus
  i32[WORD.priv] = delegated ? PRIV.S : PRIV.M
  dropReservation(hart)
  i32[to.epc] = i32[WORD.pc]
  i32[to.epc + 1] = i32[WORD.pc + 1]
  i32[to.cause] = cause
  i32[to.cause + 1] = interrupt ? 1 << 31 : 0
  i32[to.tval] = valueLo
  i32[to.tval + 1] = valueHi
  for (const at of delegated ? S_GUEST : M_GUEST) i32[at] = i32[at + 1] = 0
  const vector = i32[to.vec]
  i32[WORD.pc] = vector & ~3
  i32[WORD.pc + 1] = i32[to.vec + 1]
  if (interrupt && vector & 1) hart.pc = BigInt.asUintN(64, hart.pc + BigInt(4 * cause))
  hart.count(interrupt ? COUNTER.interrupts : COUNTER.traps)
}

/** @returns false: it would enter a virtualized mode, which this CPU does not have; nothing was changed */
export function mret(hart: HartState): boolean {
  const { i32 } = hart
  let mstatus = i32[WORD.mstatus]
  const to = (mstatus & MSTATUS.MPP) >>> MSTATUS.MPP_SHIFT
  if (i32[WORD.mstatus + 1] & MSTATUSH.MPV && to !== PRIV.M) return false
  mstatus &= ~(MSTATUS.MIE | MSTATUS.MPP)
  if (mstatus & MSTATUS.MPIE) mstatus |= MSTATUS.MIE
  mstatus |= MSTATUS.MPIE
  if (to !== PRIV.M) mstatus &= ~MSTATUS.MPRV
  i32[WORD.mstatus] = mstatus
  i32[WORD.mstatus + 1] &= ~MSTATUSH.MPV
  i32[WORD.priv] = to
  dropReservation(hart)
  i32[WORD.pc] = i32[M.epc]
  i32[WORD.pc + 1] = i32[M.epc + 1]
  return true
}

const HSTATUS = word('hstatus')
const SPV = 1 << 7

/** @returns false: it would enter a virtualized mode; nothing was changed */
export function sret(hart: HartState): boolean {
  const { i32 } = hart
  if (i32[HSTATUS] & SPV) return false
  let mstatus = i32[WORD.mstatus]
  const to = mstatus & MSTATUS.SPP ? PRIV.S : PRIV.U
  mstatus &= ~(MSTATUS.SIE | MSTATUS.SPP | MSTATUS.MPRV)
  if (mstatus & MSTATUS.SPIE) mstatus |= MSTATUS.SIE
  mstatus |= MSTATUS.SPIE
  i32[WORD.mstatus] = mstatus
  i32[WORD.priv] = to
  dropReservation(hart)
  i32[WORD.pc] = i32[S.epc]
  i32[WORD.pc + 1] = i32[S.epc + 1]
  return true
}
