import { defineVmstate, u32, type Vmstate, VmstateMismatchError } from '@ferryvm/core'
import { counterRuns, readCounter } from '../csr/counters.ts'
import { type HartState, IRQ, PRIV, WORD } from '../hart/hart-state.ts'
import { LAYOUT } from '../hart/layout.ts'
import { type HartProfile, PROFILES } from '../hart/profile.ts'
import { MISA_MXL_64 } from '../hart/reset.ts'
import { clearForeign, FOREIGN_SUBSECTIONS, refuseForeign } from './foreign-features.ts'
import { ARRAY_ROWS, BYTE_ROWS, rows72, rows100, WORD_ROWS } from './hart-rows.ts'
import type { ToldIsa } from './told-isa.ts'

/** What the tables need beyond the hart's words. */
export interface HartVmstateParts {
  readonly hart: HartState
  readonly profile: HartProfile
  /** mip with every source, now; with the timers that are to be sent as expired. */
  pending(): number
  /** The ISA string that the guest was told, where that can be found out. */
  told?(): ToldIsa | undefined
  /** A load is done: caches of the hart hold nothing that is true, and SEIP's owner is not known yet. */
  loaded(seip: boolean): void
}

const MIP_NOT_ZERO = 2
/** Interrupt inputs whose level is nowhere but in mip. */
const LINES = IRQ.MSIP | IRQ.MEIP | IRQ.SEIP

/** `cpu_common`: sleeping or not. */
const COMMON = {
  name: 'cpu_common',
  version: 1,
  fields: {
    /** 1: a WFI has been executed, pc is past it. */
    halted: u32(),
    /** Bit 1: mip is not zero. A stock receiver takes interrupts only when it is set. */
    interrupt_request: u32(),
  },
} as const

export function cpuCommonVmstate(parts: HartVmstateParts) {
  const { hart } = parts
  return defineVmstate({
    ...COMMON,
    preSave(state) {
      state.halted = hart.halted ? 1 : 0
      state.interrupt_request = parts.pending() !== 0 ? MIP_NOT_ZERO : 0
    },
    postLoad(state) {
      hart.halted = state.halted !== 0
    },
  })
}

/**
 * `cpu`: registers. Rows that this CPU has no use for keep what arrived, so that they leave as they came. Computed when
 * saving, and therefore possibly different after load and save: `env.mip` (timers move on), `env.pmu_ctrs` (a running
 * counter is written as its value now), `cpu_common`'s interrupt_request.
 */
export function cpuVmstate(parts: HartVmstateParts): Vmstate<any> {
  return cpuLayout(parts, parts.profile.vmstateVersion, (state) => load(state, parts))
}

/** The section as the release writes it whose version this is. */
export function cpuLayout(
  parts: HartVmstateParts,
  version: HartProfile['vmstateVersion'],
  postLoad: (state: any) => void,
): Vmstate<any> {
  return defineVmstate({
    ...cpuTable(parts.profile, parts.hart.index, version),
    preSave: (state: any) => save(state, parts),
    preLoad: clearForeign,
    postLoad,
  })
}

function cpuTable(profile: HartProfile, index: number, version: HartProfile['vmstateVersion']) {
  const rows = version === 5 ? rows72(profile, index) : rows100(profile, index)
  return {
    name: 'cpu',
    version,
    fields: rows.fields as ReturnType<typeof rows72>['fields'],
    subsections: {
      'cpu/pmp': { version: 1, fields: rows.pmp, needed: () => true },
      'cpu/hyper': { version: rows.hyperVersion, fields: rows.hyper, needed: () => true },
      'cpu/envcfg': { version: 1, fields: rows.envcfg, needed: () => true },
      'cpu/debug': { version: 2, fields: rows.debug, needed: () => true },
      ...FOREIGN_SUBSECTIONS,
    },
  }
}

/** Tables of a hart's sections as both releases write them, without a hart: for reading streams. */
export const hartTables: Readonly<Record<'cpu_common' | 'cpu v5' | 'cpu v10', Vmstate<any>>> = {
  cpu_common: defineVmstate(COMMON),
  'cpu v5': defineVmstate(cpuTable(PROFILES['qemu-7.2'], 0, 5)),
  'cpu v10': defineVmstate(cpuTable(PROFILES['qemu-10.0'], 0, 10)),
}

function save(state: any, { hart, pending }: HartVmstateParts): void {
  for (const [row, at] of WORD_ROWS) {
    if (!(row in state)) continue
    const value = hart.get(at)
    state[row] = typeof state[row] === 'number' ? Number(BigInt.asUintN(32, value)) : value
  }
  for (const [row, at] of ARRAY_ROWS) {
    const words: BigUint64Array = state[row]
    for (let i = 0; i < words.length; i++) words[i] = hart.get(at + i * 8)
  }
  for (const [row, at] of BYTE_ROWS) state[row].set(hart.u8.subarray(at, at + state[row].length))
  state['env.mip'] = BigInt(pending())
  for (let i = 0; i < 16; i++) {
    const entry = state['env.pmp_state.pmp'][i]
    entry.addr_reg = hart.get(LAYOUT.pmpaddr + i * 8)
    entry.cfg_reg = hart.u8[LAYOUT.pmpcfg + i]
  }
  for (let i = 0; i < 32; i++) {
    const counter = state['env.pmu_ctrs'][i]
    counter.mhpmcounter_val = readCounter(hart, i)
    counter.mhpmcounter_prev = hart.get(counterRuns(hart, i) ? LAYOUT.instret : LAYOUT.mhpmprev + i * 8)
  }
}

/** Takes a loaded state into the hart. */
export function load(state: any, parts: HartVmstateParts): void {
  const { hart, profile } = parts
  check(state, parts)
  for (const [row, at] of WORD_ROWS) hart.set(at, BigInt(state[row] ?? 0))
  for (const [row, at] of ARRAY_ROWS) {
    const words: BigUint64Array = state[row]
    for (let i = 0; i < words.length; i++) hart.set(at + i * 8, words[i])
  }
  for (const [row, at] of BYTE_ROWS) hart.u8.set(state[row], at)
  hart.setX(0, 0n)
  hart.set(LAYOUT.x, 0n)
  hart.setCsr('misa', MISA_MXL_64 | BigInt(profile.misaExtensions))
  for (let i = 0; i < 16; i++) {
    const entry = state['env.pmp_state.pmp'][i]
    hart.set(LAYOUT.pmpaddr + i * 8, entry.addr_reg)
    hart.u8[LAYOUT.pmpcfg + i] = entry.cfg_reg
  }
  // A running counter goes on from its value; what the sender's clock showed then means nothing here.
  for (let i = 0; i < 32; i++) {
    const counter = state['env.pmu_ctrs'][i]
    hart.set(LAYOUT.mhpmcounter + i * 8, counter.mhpmcounter_val)
    hart.set(LAYOUT.mhpmprev + i * 8, counterRuns(hart, i) ? hart.get(LAYOUT.instret) : counter.mhpmcounter_prev)
  }
  hart.i32[WORD.fflags] = 0
  // MTIP and STIP follow from the time; the rest of mip is either a line or a bit that software wrote.
  const mip = Number(state['env.mip'])
  Atomics.store(hart.i32, WORD.externalIrq, mip & LINES)
  Atomics.store(hart.i32, WORD.mip, mip & ~LINES & ~IRQ.MTIP)
  hart.i32[WORD.mip + 1] = 0
  parts.loaded((mip & IRQ.SEIP) !== 0)
}

/** What this CPU cannot be. */
function check(state: any, { hart, profile, told }: HartVmstateParts): void {
  const refuse = (row: string, why: string): never => {
    throw new VmstateMismatchError(row, why)
  }
  const priv = state['env.priv']
  if (priv !== BigInt(PRIV.U) && priv !== BigInt(PRIV.S) && priv !== BigInt(PRIV.M)) {
    refuse('env.priv', `${priv} is not a privilege mode; 0 U, 1 S and 3 M are`)
  }
  if (state['env.virt_enabled'] === true || (state['env.virt'] ?? 0n) & 1n) {
    refuse('env.virt_enabled' in state ? 'env.virt_enabled' : 'env.virt', 'virtualized modes are not supported yet')
  }
  if (state['env.misa_mxl'] !== 2) refuse('env.misa_mxl', `${state['env.misa_mxl']}; this hart is RV64 (2)`)
  const extra = state['env.misa_ext'] & ~profile.misaExtensions
  if (extra !== 0) {
    const letters = [...Array(26).keys()].filter((i) => extra & (1 << i)).map((i) => String.fromCharCode(65 + i))
    refuse('env.misa_ext', `the sender's hart has ${letters.join(', ')}, which profile ${profile.name} does not`)
  }
  if (state['env.mhartid'] !== BigInt(hart.index))
    refuse('env.mhartid', `${state['env.mhartid']}; expected ${hart.index}`)
  if (state['env.frm'] > 7n) refuse('env.frm', `${state['env.frm']} does not fit three bits`)
  refuseForeign(state, profile, () => told?.())
  if (state['env.trigger_cur'] > 1n) refuse('env.trigger_cur', `${state['env.trigger_cur']}; there are 2 triggers`)
}
