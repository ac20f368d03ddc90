/**
 * What a hart offers to its guest and how it presents itself: the differences between the releases of stock QEMU whose
 * `rv64` CPU we stand in for. Data only. Spec: virt-machine.md section 5, virt-vmstate.md section 4.
 */
export interface HartProfile {
  readonly name: ProfileName
  /** ISA string as in the device tree, without underscores between single letters. */
  readonly isa: string
  readonly mmuType: string
  /** misa: low 26 bits. */
  readonly misaExtensions: number
  /** As the stream says it: 2 = 1.12, 3 = 1.13. */
  readonly privVersion: number
  readonly mvendorid: bigint
  readonly marchid: bigint
  readonly mimpid: bigint
  readonly menvcfgReset: bigint
  readonly midelegReset: bigint
  readonly mcounterenMask: bigint
  /** mhpmcounter3 .. mhpmcounter(2 + n) exist. */
  readonly hpmCounters: number
  readonly pmpEntries: number
  /** Optional extensions that CSR code, MMU and decoder ask for. */
  readonly sstc: boolean
  /** menvcfg.ADUE exists and gates the hardware update of A and D; without it the update is always on. */
  readonly svadu: boolean
  readonly svnapot: boolean
  readonly svpbmt: boolean
  readonly svinval: boolean
  readonly zicbom: boolean
  readonly zicboz: boolean
  readonly zawrs: boolean
  readonly zfa: boolean
  /** The CSR exists. */
  readonly tinfo: boolean
  /** stimecmp all ones means "never" (10.0) instead of being compared like any value. */
  readonly stimecmpNever: boolean
  /** xtval of a breakpoint is its pc; otherwise 0. */
  readonly breakpointAddress: boolean
  /** Version of the `cpu` section. */
  readonly vmstateVersion: 5 | 10
  /** Smaia and Ssaia: guests of a hart that have an interrupt file of their own; undefined: the harts have no files at all. */
  readonly guestFiles?: number
}
export type ProfileName = 'qemu-7.2' | 'qemu-10.0'

/** A C D F H I M S U. */
const MISA = 0x001411ad

const qemu72: HartProfile = {
  name: 'qemu-7.2',
  isa: 'rv64imafdch_zicsr_zifencei_zihintpause_zba_zbb_zbc_zbs_sstc',
  mmuType: 'riscv,sv48',
  misaExtensions: MISA,
  privVersion: 2,
  mvendorid: 0n,
  marchid: 0x070216n,
  mimpid: 0x070216n,
  menvcfgReset: 0n,
  midelegReset: 0n,
  mcounterenMask: 0xffff_ffffn,
  hpmCounters: 16,
  pmpEntries: 16,
  sstc: true,
  svadu: false,
  svnapot: false,
  svpbmt: false,
  svinval: false,
  zicbom: false,
  zicboz: false,
  zawrs: false,
  zfa: false,
  tinfo: false,
  stimecmpNever: false,
  breakpointAddress: false,
  vmstateVersion: 5,
}

const qemu100: HartProfile = {
  ...qemu72,
  name: 'qemu-10.0',
  isa:
    'rv64imafdch_zic64b_zicbom_zicbop_zicboz_ziccamoa_ziccif_zicclsm_ziccrse_zicntr_zicsr_zifencei_zihintntl_' +
    'zihintpause_zihpm_zmmul_za64rs_zaamo_zalrsc_zawrs_zfa_zca_zcd_zba_zbb_zbc_zbs_shcounterenw_shgatpa_shtvala_' +
    'shvsatpa_shvstvala_shvstvecd_ssccptr_sscounterenw_sstc_sstvala_sstvecd_ssu64xl_svadu_svvptc',
  mmuType: 'riscv,sv57',
  privVersion: 3,
  marchid: 0n,
  mimpid: 0n,
  menvcfgReset: 1n << 61n,
  midelegReset: 0x1444n,
  mcounterenMask: 0x7ffffn,
  svadu: true,
  zicbom: true,
  zicboz: true,
  zawrs: true,
  zfa: true,
  tinfo: true,
  stimecmpNever: true,
  breakpointAddress: true,
  vmstateVersion: 10,
}

/** The same with an IMSIC beside each hart. @param guestFiles files of guests' supervisors */
export const withInterruptFiles = (profile: HartProfile, guestFiles: number): HartProfile => ({
  ...profile,
  guestFiles,
  // In alphabetical order.
  isa: profile.isa.replace('_ss', '_smaia_ssaia_ss'),
})

export const PROFILES: Readonly<Record<ProfileName, HartProfile>> = { 'qemu-7.2': qemu72, 'qemu-10.0': qemu100 }
