import {
  bool,
  defineVmstate,
  MigrationPriority,
  type StateOfVmstate,
  u8,
  u8Array,
  u16,
  u32,
  u64Number,
  unused,
  validate,
} from '@ferryvm/core'
import { REGISTER_BYTES } from './registers.ts'

/**
 * Section `iommu-intel`, 602 bytes, sent before the devices behind it. Spec: iommu.md section a.9.
 * The register file travels raw; of what it repeats, the latched copies and booleans here are what counts.
 */
export const intelIommuVmstate = defineVmstate({
  name: 'iommu-intel',
  version: 1,
  priority: MigrationPriority.IOMMU,
  fields: {
    /** Latched by SRTP. */
    root: u64Number(),
    /** Interrupt remapping table, latched by SIRTP. */
    intr_root: u64Number(),
    /** Invalidation queue, latched when it was enabled. */
    iq: u64Number(),
    /** Entries of the interrupt remapping table. */
    intr_size: u32(),
    /** Index of the next descriptor; not shifted as in IQH. */
    iq_head: u16(),
    iq_tail: u16(),
    /** Descriptors in the queue. */
    iq_size: u16(),
    /** Next fault recording register; there is one. */
    next_frcd_reg: u16(),
    one_fault_record: validate('there is one fault recording register', (s) => s.next_frcd_reg === 0),
    csr: u8Array(REGISTER_BYTES),
    /** Type of the last descriptor, 0 before the first. */
    iq_last_desc_type: u8(),
    unused: unused(1),
    dmar_enabled: bool(),
    qi_enabled: bool(),
    intr_enabled: bool(),
    intr_eime: bool(),
  },
})
export type IntelIommuState = StateOfVmstate<typeof intelIommuVmstate>
