import type { StreamSettings } from '@ferryvm/core'
import { type HartProfile, PROFILES } from '@ferryvm/cpu-riscv'
import type { AplicVersion, DeviceTreeFacts } from '@ferryvm/devices-virt'

export type VirtProfile = 'qemu-7.2' | 'qemu-10.0'
const MiB = 2 ** 20

/**
 * All that the `virt` machines of two stock releases differ in, as far as a guest or a stream can tell.
 * Spec: virt-machine.md sections 3 to 5 and 7, virt-vmstate.md sections 2 and 4.
 */
export interface VirtProfileFacts {
  /** The harts: extensions, CSRs, version of their section. Other packages' code knows them by the profile's name. */
  readonly cpu: HartProfile
  readonly deviceTree: Omit<DeviceTreeFacts, 'isa' | 'mmuType'>
  /** An initial RAM disk begins so far behind the kernel, or at half of the RAM if that is less. */
  readonly initrdOffsetBytes: number
  /** Set: the device tree has so much room at the end of RAM, below 3 GiB. Otherwise as much as it needs, wherever that is. */
  readonly deviceTreeRoomBytes: number | undefined
  /** The reset vector jumps to an ELF firmware's entry point, not to the start of RAM. */
  readonly startsAtEntry: boolean
  /** Where fw_cfg stands in the order of sections: behind the interrupt controller, or behind all devices. */
  readonly fwCfgEarly: boolean
  /** Knows the ACPI tables' RAM blocks and sections, so they may be sent. */
  readonly acpi: boolean
  /** Version of the APLIC's sections. */
  readonly aplicVersion: AplicVersion
  /** The board has a place for virtio-iommu. */
  readonly virtioIommu: boolean
  readonly stream: Pick<
    StreamSettings,
    'sendSwitchoverStart' | 'preemptAtSetup' | 'multifdBefore82' | 'blockMigration' | 'vmdescStyle'
  >
}

export const VIRT_PROFILES: Readonly<Record<VirtProfile, VirtProfileFacts>> = {
  'qemu-7.2': {
    cpu: PROFILES['qemu-7.2'],
    deviceTree: {
      isaLists: false,
      plicSources: 96,
      initrdCells: 1,
      pmuPaddingCells: 5,
      aliases: false,
      aiaBinding: 'draft',
    },
    initrdOffsetBytes: 128 * MiB,
    deviceTreeRoomBytes: MiB,
    startsAtEntry: false,
    fwCfgEarly: false,
    acpi: false,
    aplicVersion: 1,
    virtioIommu: false,
    stream: {
      sendSwitchoverStart: false,
      preemptAtSetup: true,
      multifdBefore82: true,
      blockMigration: true,
      vmdescStyle: '7.2',
    },
  },
  'qemu-10.0': {
    cpu: PROFILES['qemu-10.0'],
    deviceTree: {
      isaLists: true,
      plicSources: 95,
      initrdCells: 2,
      pmuPaddingCells: 0,
      aliases: true,
      aiaBinding: 'final',
    },
    initrdOffsetBytes: 512 * MiB,
    deviceTreeRoomBytes: undefined,
    startsAtEntry: true,
    fwCfgEarly: true,
    acpi: true,
    aplicVersion: 2,
    virtioIommu: true,
    stream: {
      sendSwitchoverStart: true,
      preemptAtSetup: false,
      multifdBefore82: false,
      blockMigration: false,
      vmdescStyle: '10.0',
    },
  },
}
