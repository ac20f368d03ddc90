/**
 * What stock receivers accept, as data. Spec: stream.md sections 2 to 4, ram.md sections 1 and 6 to 8, virt-vmstate.md sections 2,
 * 4 and 18.
 */
export interface Receiver {
  readonly name: string
  /** Of versioned machine types: newer ones do not exist there. */
  readonly release: readonly [major: number, minor: number]
  /** Highest COMMAND it knows. */
  readonly lastCommand: number
  /** Capabilities that a configuration may list. */
  readonly capabilities: readonly string[]
  /** RAM records it knows beyond zero, page and xbzrle. */
  readonly ramRecords: readonly ('compressed' | 'flush')[]
  readonly machines: Readonly<Record<string, MachineRules>>
  /** What `emu upgrade --to` calls it. */
  readonly upgradeTo?: '7.2' | '10.0'
}
export interface MachineRules {
  readonly sections: readonly SectionRange[]
  readonly blocks: readonly BlockRule[]
  /** Holds for every stream of this machine. */
  readonly caveats: readonly { readonly what: string; readonly wayOut: string }[]
}
export interface SectionRange {
  /** idstr, or the part behind a device path. */
  readonly idstr: string
  readonly minimum: number
  readonly maximum: number
  /** Subsections it knows, with the versions it reads. */
  readonly subsections?: Readonly<Record<string, readonly [minimum: number, maximum: number]>>
  /** Option of the receiver that makes it have the device. Without it: always there. */
  readonly needs?: string
}
export interface BlockRule {
  readonly idstr: string | RegExp
  readonly needs?: string
}

const always = (idstr: string, minimum: number, maximum: number, more: Partial<SectionRange> = {}): SectionRange => ({
  idstr,
  minimum,
  maximum,
  ...more,
})
const optional = (idstr: string, minimum: number, maximum: number, needs: string): SectionRange => ({
  idstr,
  minimum,
  maximum,
  needs,
})

/** The same in 7.2 and 10.0. */
const VIRT_COMMON: readonly SectionRange[] = [
  always('ram', 4, 4),
  always('timer', 1, 2, { subsections: { 'timer/icount': [1, 1] } }),
  always('cpu_common', 1, 1, {
    subsections: { 'cpu_common/exception_index': [1, 1], 'cpu_common/crash_occurred': [1, 1] },
  }),
  always('riscv_mtimer', 1, 1),
  optional('riscv_sifive_plic', 1, 1, '-M virt,aia=none (the default)'),
  optional('riscv_imsic', 1, 1, '-M virt,aia=aplic-imsic'),
  always('gpex_root', 1, 1),
  always('PCIHost', 1, 1),
  always('PCIBUS', 1, 1),
  always('serial', 2, 3),
  always('goldfish_rtc', 0, 3),
  always('pflash_cfi01', 1, 1, { subsections: { pflash_cfi01_blk_write: [1, 1] } }),
  always('globalstate', 1, 1),
  optional('slirp', 4, 4, 'a user network back end: no -nodefaults, or -nic user'),
  optional('virtio-blk', 2, 2, '-device virtio-blk-pci or virtio-blk-device at the same place'),
  optional('virtio-net', 11, 11, '-device virtio-net-pci or virtio-net-device at the same place'),
  optional('virtio-rng', 1, 1, '-device virtio-rng-pci or virtio-rng-device at the same place'),
  optional('virtio-console', 3, 3, '-device virtio-serial-pci or virtio-serial-device at the same place'),
]
const VIRT_BLOCKS: readonly BlockRule[] = [
  { idstr: 'virt.flash0' },
  { idstr: 'virt.flash1' },
  { idstr: 'riscv_virt_board.mrom' },
  { idstr: 'riscv_virt_board.ram' },
  {
    idstr: /^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.\d\/virtio-net-pci\.rom$/,
    needs: 'virtio-net-pci with its ROM: no romfile=',
  },
]
const TIMERS = {
  what: 'stock QEMU does not re-arm RISC-V timers when it loads: a guest that sleeps until one fires does not wake',
  wayOut: 'emu upgrade --nudge leaves a timer interrupt pending; emu as the receiver re-arms them',
}
const CPU_SUBSECTIONS = {
  'cpu/pmp': [1, 1],
  'cpu/vector': [2, 2],
  'cpu/rv128': [1, 1],
  'cpu/kvmtimer': [1, 1],
  'cpu/envcfg': [1, 1],
  'cpu/debug': [2, 2],
} as const
/** Both know `acpi_mr`; on this machine only 10.0 sends it. */
const FW_CFG_SUBSECTIONS = { 'fw_cfg/dma': [0, 0], 'fw_cfg/acpi_mr': [1, 1] } as const

export const qemu72: Receiver = {
  name: 'QEMU 7.2',
  release: [7, 2],
  lastCommand: 10,
  capabilities: ['x-ignore-shared'],
  ramRecords: ['compressed'],
  upgradeTo: '7.2',
  machines: {
    virt: {
      sections: [
        ...VIRT_COMMON,
        always('cpu', 5, 5, {
          subsections: { ...CPU_SUBSECTIONS, 'cpu/hyper': [2, 2], 'cpu/pointer_masking': [1, 1] },
        }),
        optional('riscv_aplic', 1, 1, '-M virt,aia=aplic or aia=aplic-imsic'),
        always('fw_cfg', 1, 2, { subsections: FW_CFG_SUBSECTIONS }),
      ],
      blocks: VIRT_BLOCKS,
      caveats: [TIMERS],
    },
  },
}

export const qemu100: Receiver = {
  name: 'QEMU 10.0',
  release: [10, 0],
  lastCommand: 11,
  capabilities: ['x-ignore-shared', 'mapped-ram'],
  ramRecords: ['flush'],
  upgradeTo: '10.0',
  machines: {
    virt: {
      sections: [
        ...VIRT_COMMON,
        always('cpu', 10, 10, {
          subsections: {
            ...CPU_SUBSECTIONS,
            'cpu/hyper': [4, 4],
            'cpu/pointer_masking': [2, 2],
            'cpu/smtateen': [1, 1],
            'cpu/jvt': [1, 1],
            'cpu/elp': [1, 1],
            'cpu/ssp': [1, 1],
            'cpu/ctr': [1, 1],
          },
        }),
        optional('riscv_aplic', 2, 2, '-M virt,aia=aplic or aia=aplic-imsic'),
        always('fw_cfg', 1, 2, { subsections: FW_CFG_SUBSECTIONS }),
        optional('virt_acpi_build', 1, 1, 'ACPI, which is on unless -M virt,acpi=off'),
        optional('virtio-iommu', 2, 2, '-device virtio-iommu-pci at the same place'),
      ],
      blocks: [
        ...VIRT_BLOCKS,
        {
          idstr: /^\/rom@etc\/(acpi\/tables|table-loader|acpi\/rsdp)$/,
          needs: 'ACPI, which is on unless -M virt,acpi=off',
        },
      ],
      caveats: [TIMERS],
    },
  },
}

export const RECEIVERS: Readonly<Record<string, Receiver>> = { '7.2': qemu72, '10.0': qemu100 }

/** What a receiver knows of a section; devices on a bus have their path before their name. */
export const sectionRange = ({ sections }: MachineRules, idstr: string): SectionRange | undefined =>
  sections.find((r) => r.idstr === idstr) ?? sections.find((r) => r.idstr === idstr.slice(idstr.lastIndexOf('/') + 1))
