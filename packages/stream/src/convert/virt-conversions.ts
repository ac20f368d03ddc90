/**
 * `virt`: saved by QEMU 7.2, to be loaded by 10.0, and the other way. Spec: virt-vmstate.md sections 2, 4 ("Converting
 * between v5 and v10"), 7, 13 to 15.
 */
import type { Conversion } from './rules.ts'

/** 10.0 always delegates these (VS-level interrupts and guest external interrupts). */
const FORCED_MIDELEG = 0x1444n
/** menvcfg.ADUE: hardware updates of A and D bits. 7.2 always does them and has no such bit. */
const ADUE = 1n << 61n
/** Bits of menvcfg that 7.2 knows: STCE, PBMTE, CBZE, CBCFE, CBIE, FIOM. */
const MENVCFG_72 = (1n << 63n) | (1n << 62n) | 0xf1n
const VEXT_1_0 = 0x10000n

const u64 = (name: string) => ({ name, type: 'uint64', value: 0n })
/** Registers of 32 bits, in which 7.2 keeps whatever was written: firmware writes -1. */
const narrow = (field: string) => ({ field, type: 'uint32', cut: true })
const wide = (field: string) => ({ field, type: 'uint64' })
const aia = (field: string) => ({
  drop: field,
  unless: { not: 0n, because: 'the guest uses AIA state that 7.2 lacks' },
})
const KVM_MSI = 'kvm_msicfgaddr'

export const virtTo100: Conversion = {
  to: '10.0',
  machine: 'virt',
  sections: [
    {
      idstr: 'cpu',
      from: 5,
      to: 10,
      rules: [
        { set: 'env.priv_ver', value: 3n },
        { set: 'env.vext_ver', value: VEXT_1_0 },
        { replace: 'env.misa_mxl_max', by: [{ name: 'unused', type: 'unused_buffer', value: 4 }] },
        { drop: 'env.features' },
        { field: 'env.virt', type: 'bool', name: 'env.virt_enabled' },
        { after: 'env.mie', insert: [u64('env.mvien'), u64('env.mvip'), u64('env.sie')] },
        { bits: 'env.mideleg', on: FORCED_MIDELEG },
        narrow('env.scounteren'),
        narrow('env.mcounteren'),
        { after: 'env.mcounteren', insert: [{ name: 'env.scountinhibit', type: 'uint32', value: 0 }] },
        narrow('env.mcountinhibit'),
        { each: 'env.pmu_ctrs', version: 2, rules: [{ drop: 'started' }] },
        { drop: 'env.mfromhost', unless: { not: 0n, because: 'the guest uses HTIF, which 10.0 does not migrate' } },
        { drop: 'env.mtohost', unless: { not: 0n, because: 'the guest uses HTIF, which 10.0 does not migrate' } },
      ],
      subsections: [
        {
          name: 'cpu/hyper',
          from: 2,
          to: 4,
          rules: [
            narrow('env.hcounteren'),
            { after: 'env.hgeip', insert: [u64('env.hvien'), u64('env.hvip')] },
            { after: 'env.vsiselect', insert: [u64('env.vsie')] },
          ],
        },
        { name: 'cpu/envcfg', from: 1, to: 1, rules: [{ bits: 'env.menvcfg', on: ADUE }] },
        {
          name: 'cpu/pointer_masking',
          drop: 'if zero',
          because: "the guest uses 7.2's experimental pointer masking (misa.J), which 10.0 does not have",
        },
      ],
    },
    {
      idstr: 'riscv_aplic',
      from: 1,
      to: 2,
      rules: [
        {
          after: 'genmsi',
          insert: [
            { name: KVM_MSI, type: 'uint32', value: 0 },
            { name: `${KVM_MSI}H`, type: 'uint32', value: 0 },
          ],
        },
      ],
    },
  ],
  dropSections: [],
  dropBlocks: [],
  dropCommands: [],
  switchoverStart: true,
}

export const virtTo72: Conversion = {
  to: '7.2',
  machine: 'virt',
  sections: [
    {
      idstr: 'cpu',
      from: 10,
      to: 5,
      rules: [
        { set: 'env.priv_ver', value: 2n },
        { replace: 'unused', by: [{ name: 'env.misa_mxl_max', type: 'uint32', value: 2 }] },
        // MMU, PMP, debug triggers: what the default CPU of 7.2 sends.
        { after: 'env.misa_ext_mask', insert: [{ name: 'env.features', type: 'uint32', value: 0x13 }] },
        { field: 'env.virt_enabled', type: 'uint64', name: 'env.virt' },
        aia('env.mvien'),
        aia('env.mvip'),
        aia('env.sie'),
        wide('env.scounteren'),
        wide('env.mcounteren'),
        {
          drop: 'env.scountinhibit',
          unless: { not: 0, because: 'the guest uses scountinhibit (Ssccfg), which 7.2 lacks' },
        },
        wide('env.mcountinhibit'),
        {
          each: 'env.pmu_ctrs',
          version: 1,
          rules: [{ after: 'mhpmcounterh_prev', insert: [{ name: 'started', type: 'bool', value: false }] }],
        },
        { after: 'env.mscratch', insert: [u64('env.mfromhost'), u64('env.mtohost')] },
      ],
      subsections: [
        {
          name: 'cpu/hyper',
          from: 4,
          to: 2,
          rules: [wide('env.hcounteren'), aia('env.hvien'), aia('env.hvip'), aia('env.vsie')],
        },
        {
          name: 'cpu/envcfg',
          from: 1,
          to: 1,
          rules: [
            {
              bits: 'env.menvcfg',
              off: ADUE,
              allowed: MENVCFG_72 | ADUE,
              because: 'the guest has switched on extensions in menvcfg that 7.2 lacks',
            },
          ],
        },
        { name: 'cpu/smtateen', drop: 'if zero', because: 'the guest uses Smstateen, which 7.2 does not migrate' },
        { name: 'cpu/jvt', drop: 'if zero', because: 'the guest uses Zcmt (jvt), which 7.2 lacks' },
        { name: 'cpu/elp', drop: 'if zero', because: 'the guest uses landing pads (Zicfilp), which 7.2 lacks' },
        { name: 'cpu/ssp', drop: 'if zero', because: 'the guest uses a shadow stack (Zicfiss), which 7.2 lacks' },
        {
          name: 'cpu/ctr',
          drop: 'if zero',
          because: 'the guest uses control transfer records (Smctr), which 7.2 lacks',
        },
        { name: 'cpu/pointer_masking', drop: 'always', because: 'it is empty in 10.0' },
      ],
    },
    { idstr: 'riscv_aplic', from: 2, to: 1, rules: [{ drop: KVM_MSI }, { drop: `${KVM_MSI}H` }] },
    {
      idstr: 'fw_cfg',
      from: 2,
      to: 2,
      rules: [],
      subsections: [{ name: 'fw_cfg/acpi_mr', drop: 'always', because: '7.2 has no ACPI tables on this machine' }],
    },
  ],
  dropSections: [
    {
      idstr: 'virt_acpi_build',
      because: '7.2 has no ACPI tables on this machine',
      unless: {
        field: 'patched',
        is: true,
        because: "the guest's firmware has read the ACPI tables, which 7.2 does not have on this machine",
      },
    },
  ],
  dropBlocks: ['/rom@etc/acpi/tables', '/rom@etc/table-loader', '/rom@etc/acpi/rsdp'],
  dropCommands: [{ id: 11, because: '7.2 does not know SWITCHOVER_START' }],
  switchoverStart: false,
}
