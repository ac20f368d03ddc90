/**
 * Interrupt controllers of the Advanced Interrupt Architecture, which our board has not: streams of machines that have them can be
 * read, compared and changed all the same. Spec: virt-vmstate.md section 7.
 */
import { defineVmstate, u32, u32Array } from '@ferryvm/core'

const IDENTITIES = 256
/** Interrupt sources and number 0, which is none. */
const SOURCES = 97

/** One interrupt file; with `aia-guests=` those of guests follow in the same section, and it is not this table's. */
export const imsicVmstate = defineVmstate({
  name: 'riscv_imsic',
  version: 1,
  fields: {
    eidelivery: u32(),
    eithreshold: u32(),
    /** Per identity: bit 0 pending, bit 1 enabled. */
    eistate: u32Array(IDENTITIES),
  },
})

/** @param harts that it has wires to: none where it sends messages */
export const aplicVmstate = (harts: number) =>
  defineVmstate({
    name: 'riscv_aplic',
    version: 2,
    minimumVersion: 1,
    fields: {
      domaincfg: u32(),
      mmsicfgaddr: u32(),
      mmsicfgaddrH: u32(),
      smsicfgaddr: u32(),
      smsicfgaddrH: u32(),
      genmsi: u32(),
      kvm_msicfgaddr: u32({ since: 2 }),
      kvm_msicfgaddrH: u32({ since: 2 }),
      sourcecfg: u32Array(SOURCES),
      state: u32Array(SOURCES),
      target: u32Array(SOURCES),
      idelivery: u32Array(harts, { when: () => harts > 0 }),
      iforce: u32Array(harts, { when: () => harts > 0 }),
      ithreshold: u32Array(harts, { when: () => harts > 0 }),
    },
  })
