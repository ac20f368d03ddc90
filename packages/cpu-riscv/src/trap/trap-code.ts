/**
 * What a kernel does all the time, as code that stays in WebAssembly: system calls from U-mode, returns from S-mode, and
 * writes of sstatus. The same as trap.ts and csr-table.ts have it, for the common cases; the others are told apart before
 * anything has changed.
 */
import { COUNTER, MSTATUS, PRIV } from '../hart/hart-state.ts'
import { csrOffset, FETCH_BANK_BYTES, HART_AREA, LAYOUT, TLB_BANK_BYTES } from '../hart/layout.ts'
import { state } from '../interpreter/state-code.ts'
import { f64, i32, i64, select } from '../wasm/expr.ts'
import type { FunctionBody, I32, I64 } from '../wasm/function-body.ts'
import { CAUSE } from './causes.ts'

const NO_RESERVATION = -1
const SPV = 1 << 7
/** SIE and MIE lie so far below SPIE and MPIE. */
const PIE_SHIFT = 4
const SUM_SHIFT = 18
const SPP_SHIFT = 8

/** Names the TLB banks of U-mode (`priv` 0) or S-mode (1): MMU_BANK and FETCH_BANK count like that. @param mstatus its low word */
function selectBanks(body: FunctionBody, hartBase: number, priv: I32, mstatus: I32): void {
  const { set32 } = state(hartBase)
  const sum = i32.and(i32.shr_u(mstatus, i32.const(SUM_SHIFT)), priv)
  const bank = i32.mul(i32.add(priv, sum), i32.const(TLB_BANK_BYTES))
  const offset = body.hold('i32', bank)
  body.put(set32(LAYOUT.readTlb32, i32.add(offset, i32.const(hartBase + HART_AREA.readTlb))))
  body.put(set32(LAYOUT.writeTlb32, i32.add(offset, i32.const(hartBase + HART_AREA.writeTlb))))
  const fetch = i32.mul(priv, i32.const(FETCH_BANK_BYTES))
  body.put(set32(LAYOUT.fetchTlb32, i32.add(fetch, i32.const(hartBase + HART_AREA.fetchTlb))))
}

/** An ecall of U-mode that S-mode handles: enters its trap handler. @param then gets where that is */
export function userEcall(body: FunctionBody, hartBase: number, pc: I64, then: (target: I64) => void): void {
  const { get, get32, set, set32 } = state(hartBase)
  const delegated = i32.and(get32(csrOffset('medeleg')), i32.const(1 << CAUSE.ecallU))
  body.if(i32.and(i32.eqz(get32(LAYOUT.priv32)), i32.ne(delegated, i32.const(0))), () => {
    const before = body.hold('i32', get32(csrOffset('mstatus')))
    const kept = i32.and(before, i32.const(~(MSTATUS.SPIE | MSTATUS.SPP | MSTATUS.SIE)))
    const enabled = i32.shl(i32.and(before, i32.const(MSTATUS.SIE)), i32.const(PIE_SHIFT))
    body.put(set32(csrOffset('mstatus'), i32.or(kept, enabled)))
    body.put(set32(LAYOUT.priv32, i32.const(PRIV.S)))
    body.put(set(LAYOUT.loadRes, i64.const(NO_RESERVATION)))
    body.put(set(csrOffset('sepc'), pc))
    body.put(set(csrOffset('scause'), i64.const(CAUSE.ecallU)))
    for (const csr of ['stval', 'htval', 'htinst'] as const) body.put(set(csrOffset(csr), i64.const(0)))
    const counter = hartBase + LAYOUT.counters + COUNTER.traps * 8
    body.put(f64.store(i32.const(0), f64.add(f64.load(i32.const(0), counter), f64.const(1)), counter))
    selectBanks(body, hartBase, i32.const(PRIV.S), before)
    then(i64.and(get(csrOffset('stvec')), i64.const(-4)))
  })
}

/** An sret of S-mode after which no interrupt is taken. @param then gets where it goes */
export function supervisorReturn(body: FunctionBody, hartBase: number, then: (target: I64) => void): void {
  const { get, get32, set, set32 } = state(hartBase)
  const before = body.hold('i32', get32(csrOffset('mstatus')))
  const barred = i32.or(
    i32.and(before, i32.const(MSTATUS.TSR)),
    i32.or(i32.and(get32(csrOffset('hstatus')), i32.const(SPV)), i32.eqz(get32(LAYOUT.quiet32))),
  )
  body.if(i32.and(i32.eq(get32(LAYOUT.priv32), i32.const(PRIV.S)), i32.eqz(barred)), () => {
    const priv = body.hold('i32', i32.and(i32.shr_u(before, i32.const(SPP_SHIFT)), i32.const(1)))
    const kept = i32.and(before, i32.const(~(MSTATUS.SIE | MSTATUS.SPP | MSTATUS.MPRV)))
    const enabled = i32.shr_u(i32.and(before, i32.const(MSTATUS.SPIE)), i32.const(PIE_SHIFT))
    body.put(set32(csrOffset('mstatus'), i32.or(i32.or(kept, enabled), i32.const(MSTATUS.SPIE))))
    body.put(set32(LAYOUT.priv32, priv))
    body.put(set(LAYOUT.loadRes, i64.const(NO_RESERVATION)))
    selectBanks(body, hartBase, priv, before)
    then(get(csrOffset('sepc')))
  })
}

/** Bits of sstatus that code may write without leaving: none of them changes what a translation yields. */
const CHANGEABLE = MSTATUS.SIE | MSTATUS.SPIE | MSTATUS.SPP | MSTATUS.SUM | MSTATUS.FS
const FS_INITIAL_OR_CLEAN = 2

/**
 * Writes sstatus in S-mode.
 * @param before mstatus, low word @param changed bits that become different, of those that sstatus has
 * @param giveUp leaves if the condition holds; nothing was changed
 */
export function writeSstatus(
  body: FunctionBody,
  hartBase: number,
  before: I32,
  changed: I32,
  giveUp: (condition: I32) => void,
): void {
  const { get32, set32 } = state(hartBase)
  const after = body.hold('i32', i32.xor(before, changed))
  giveUp(i32.ne(get32(LAYOUT.priv32), i32.const(PRIV.S)))
  giveUp(i32.and(changed, i32.const(~CHANGEABLE)))
  const enables = i32.and(i32.and(changed, after), i32.const(MSTATUS.SIE))
  giveUp(i32.and(i32.ne(enables, i32.const(0)), i32.eqz(get32(LAYOUT.quiet32))))
  body.put(set32(csrOffset('mstatus'), after))
  body.if(i32.and(changed, i32.const(MSTATUS.SUM)), () => selectBanks(body, hartBase, i32.const(PRIV.S), after))
  body.if(i32.and(changed, i32.const(MSTATUS.FS)), () => {
    const fs = body.hold('i32', i32.and(after, i32.const(MSTATUS.FS)))
    const on = select(i32.const(0), i32.const(FS_INITIAL_OR_CLEAN), i32.eq(fs, i32.const(MSTATUS.FS)))
    body.put(set32(LAYOUT.fpOff32, select(on, i32.const(1), fs)))
  })
}
