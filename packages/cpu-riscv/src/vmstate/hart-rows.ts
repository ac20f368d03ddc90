import { bool, defineVmstate, type Field, structArray, u8, u8Array, u32, u64, u64Array, unused } from '@ferryvm/core'
import { type CsrName, csrOffset, LAYOUT } from '../hart/layout.ts'
import type { HartProfile } from '../hart/profile.ts'
import { hviprioReset, miprioReset, siprioReset } from '../trap/interrupt-priorities.ts'

/**
 * The rows of the `cpu` section as the two releases write them. Their layouts differ, so each has a table of its own made
 * from the same groups. Spec: virt-vmstate.md section 4.
 */

/** Bits of mip that devices own in the reference machine: SGEIP. */
const MICLAIM_RESET = 0x1000n
const NONE = 0xffff_ffff_ffff_ffffn
/** bit0 MMU, bit1 PMP, bit4 debug. */
const FEATURES_72 = 0x13

const pmpEntry = defineVmstate({ name: 'cpu/pmp/entry', version: 1, fields: { addr_reg: u64(), cfg_reg: u8() } })
const pmuCounter72 = defineVmstate({
  name: 'cpu/pmu',
  version: 1,
  fields: {
    mhpmcounter_val: u64(),
    mhpmcounterh_val: u64(),
    mhpmcounter_prev: u64(),
    mhpmcounterh_prev: u64(),
    started: bool(),
  },
})
const pmuCounter100 = defineVmstate({
  name: 'cpu/pmu',
  version: 2,
  fields: { mhpmcounter_val: u64(), mhpmcounterh_val: u64(), mhpmcounter_prev: u64(), mhpmcounterh_prev: u64() },
})

const supervisorBefore = {
  'env.mideleg': u64(),
  'env.satp': u64(),
  'env.stval': u64(),
  'env.medeleg': u64(),
  'env.stvec': u64(),
  'env.sepc': u64(),
  'env.scause': u64(),
  'env.mtvec': u64(),
  'env.mepc': u64(),
  'env.mcause': u64(),
  'env.mtval': u64(),
  'env.miselect': u64(),
  'env.siselect': u64(),
}
const registers = (profile: HartProfile) => ({
  'env.gpr': u64Array(32),
  'env.fpr': u64Array(32),
  'env.miprio': u8Array(64, { reset: miprioReset() }),
  'env.siprio': u8Array(64, { reset: siprioReset() }),
  'env.pc': u64(),
  /** Virtual address of the reservation; all ones: none. */
  'env.load_res': u64({ reset: NONE }),
  'env.load_val': u64(),
  'env.frm': u64(),
  /** Scratch of the reference's trap entry. */
  'env.badaddr': u64(),
  'env.guest_phys_fault_addr': u64(),
  'env.priv_ver': u64({ reset: BigInt(profile.privVersion) }),
  'env.vext_ver': u64({ reset: profile.vmstateVersion === 10 ? 0x10000n : 0n }),
  'env.misa_mxl': u32({ reset: 2 }),
  'env.misa_ext': u32({ reset: profile.misaExtensions }),
})
const hartIdentity = (index: number) => ({
  'env.resetvec': u64({ reset: 0x1000n }),
  'env.mhartid': u64({ reset: BigInt(index) }),
  /** Without SD, which is computed. */
  'env.mstatus': u64(),
  'env.mip': u64(),
  'env.miclaim': u64({ reset: MICLAIM_RESET }),
  'env.mie': u64(),
})

const pmp = { 'env.pmp_state.pmp': structArray(pmpEntry, 16) }
const envcfg = { 'env.menvcfg': u64(), 'env.senvcfg': u64(), 'env.henvcfg': u64() }
const debug = {
  'env.trigger_cur': u64(),
  'env.tdata1': u64Array(2),
  'env.tdata2': u64Array(2),
  'env.tdata3': u64Array(2),
}
const hyperFirst = { 'env.hstatus': u64(), 'env.hedeleg': u64(), 'env.hideleg': u64() }
const hyperTraps = {
  'env.htval': u64(),
  'env.htinst': u64(),
  'env.hgatp': u64(),
  'env.hgeie': u64(),
  'env.hgeip': u64(),
}
const hyperAia = { 'env.hvictl': u64(), 'env.hviprio': u8Array(64, { reset: hviprioReset() }) }
const virtualSupervisor = {
  'env.vsstatus': u64(),
  'env.vstvec': u64(),
  'env.vsscratch': u64(),
  'env.vsepc': u64(),
  'env.vscause': u64(),
  'env.vstval': u64(),
  'env.vsatp': u64(),
  'env.vsiselect': u64(),
}
/** HS copies, in use while V = 1 only; mstatus_hs resets to UXL = SXL = 2. */
const hyperLast = {
  'env.mtval2': u64(),
  'env.mtinst': u64(),
  'env.stvec_hs': u64(),
  'env.sscratch_hs': u64(),
  'env.sepc_hs': u64(),
  'env.scause_hs': u64(),
  'env.stval_hs': u64(),
  'env.satp_hs': u64(),
  'env.mstatus_hs': u64({ reset: 0xa_0000_0000n }),
}

/** Rows in stream order, and the subsections in theirs. */
export function rows72(profile: HartProfile, index: number) {
  return {
    fields: {
      ...registers(profile),
      'env.misa_mxl_max': u32({ reset: 2 }),
      'env.misa_ext_mask': u32({ reset: profile.misaExtensions }),
      'env.features': u32({ reset: FEATURES_72 }),
      'env.priv': u64(),
      'env.virt': u64(),
      ...hartIdentity(index),
      ...supervisorBefore,
      'env.scounteren': u64(),
      'env.mcounteren': u64(),
      'env.mcountinhibit': u64(),
      'env.pmu_ctrs': structArray(pmuCounter72, 32),
      'env.mhpmevent_val': u64Array(32),
      'env.mhpmeventh_val': u64Array(32),
      'env.sscratch': u64(),
      'env.mscratch': u64(),
      'env.mfromhost': u64(),
      'env.mtohost': u64(),
      'env.stimecmp': u64(),
    },
    hyperVersion: 2,
    hyper: {
      ...hyperFirst,
      'env.hcounteren': u64() as Field<any>,
      ...hyperTraps,
      'env.htimedelta': u64(),
      'env.vstimecmp': u64(),
      ...hyperAia,
      ...virtualSupervisor,
      ...hyperLast,
    },
    pmp,
    envcfg,
    debug,
  }
}

export function rows100(profile: HartProfile, index: number) {
  return {
    fields: {
      ...registers(profile),
      unused: unused(4),
      'env.misa_ext_mask': u32({ reset: profile.misaExtensions }),
      'env.priv': u64(),
      'env.virt_enabled': bool(),
      ...hartIdentity(index),
      'env.mvien': u64(),
      'env.mvip': u64(),
      'env.sie': u64(),
      ...supervisorBefore,
      'env.scounteren': u32(),
      'env.mcounteren': u32(),
      'env.scountinhibit': u32(),
      'env.mcountinhibit': u32(),
      'env.pmu_ctrs': structArray(pmuCounter100, 32),
      'env.mhpmevent_val': u64Array(32),
      'env.mhpmeventh_val': u64Array(32),
      'env.sscratch': u64(),
      'env.mscratch': u64(),
      'env.stimecmp': u64(),
    },
    hyperVersion: 4,
    hyper: {
      ...hyperFirst,
      'env.hcounteren': u32() as Field<any>,
      ...hyperTraps,
      'env.hvien': u64(),
      'env.hvip': u64(),
      'env.htimedelta': u64(),
      'env.vstimecmp': u64(),
      ...hyperAia,
      ...virtualSupervisor,
      'env.vsie': u64(),
      ...hyperLast,
    },
    pmp,
    envcfg,
    debug,
  }
}

const csr = (name: CsrName): readonly [string, number] => [`env.${name}`, csrOffset(name)]
/** Rows that are one word of the hart's area, whatever their type on the wire. A release has not all of them. */
export const WORD_ROWS: readonly (readonly [row: string, at: number])[] = [
  ['env.pc', LAYOUT.pc],
  ['env.load_res', LAYOUT.loadRes],
  ['env.load_val', LAYOUT.loadVal],
  ['env.frm', LAYOUT.frm32],
  ['env.priv', LAYOUT.priv32],
  ['env.trigger_cur', csrOffset('tselect')],
  ...(
    [
      'mstatus',
      'mie',
      'mideleg',
      'satp',
      'stval',
      'medeleg',
      'stvec',
      'sepc',
      'scause',
      'mtvec',
      'mepc',
      'mcause',
      'mtval',
      'scounteren',
      'mcounteren',
      'mcountinhibit',
      'sscratch',
      'mscratch',
      'stimecmp',
      'menvcfg',
      'senvcfg',
      'henvcfg',
      'hstatus',
      'hedeleg',
      'hideleg',
      'hcounteren',
      'htval',
      'htinst',
      'hgatp',
      'hgeie',
      'htimedelta',
      'vstimecmp',
      'vsstatus',
      'vstvec',
      'vsscratch',
      'vsepc',
      'vscause',
      'vstval',
      'vsatp',
      'mtval2',
      'mtinst',
      'miselect',
      'siselect',
      'vsiselect',
      'mvien',
      'mvip',
      'sie',
      'hvien',
      'hvictl',
    ] as const
  ).map(csr),
]
/** Rows that are an array of words there. */
export const ARRAY_ROWS: readonly (readonly [row: string, at: number])[] = [
  ['env.gpr', LAYOUT.x],
  ['env.fpr', LAYOUT.f],
  ['env.mhpmevent_val', LAYOUT.mhpmevent],
  ['env.tdata1', LAYOUT.tdata],
  ['env.tdata2', LAYOUT.tdata + 16],
  ['env.tdata3', LAYOUT.tdata + 32],
]
/** Rows that are bytes there. */
export const BYTE_ROWS: readonly (readonly [row: string, at: number])[] = [
  ['env.miprio', LAYOUT.miprio],
  ['env.siprio', LAYOUT.siprio],
  ['env.hviprio', LAYOUT.hviprio],
]
