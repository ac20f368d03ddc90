import type { StreamSettings } from '@ferryvm/core'

export type VirtProfile = 'qemu-7.2' | 'qemu-10.0'
const MiB = 2 ** 20

/**
 * How the boards of two stock releases differ, as far as a guest or a stream can tell; the CPU's part is `PROFILES` of
 * cpu-riscv under the same names. Spec: virt-machine.md sections 3 to 5, virt-vmstate.md section 2.
 */
export interface VirtProfileFacts {
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
  readonly stream: Pick<StreamSettings, 'sendSwitchoverStart' | 'preemptAtSetup'>
}

export const VIRT_PROFILES: Readonly<Record<VirtProfile, VirtProfileFacts>> = {
  'qemu-7.2': {
    initrdOffsetBytes: 128 * MiB,
    deviceTreeRoomBytes: MiB,
    startsAtEntry: false,
    fwCfgEarly: false,
    acpi: false,
    stream: { sendSwitchoverStart: false, preemptAtSetup: true },
  },
  'qemu-10.0': {
    initrdOffsetBytes: 512 * MiB,
    deviceTreeRoomBytes: undefined,
    startsAtEntry: true,
    fwCfgEarly: true,
    acpi: true,
    stream: { sendSwitchoverStart: true, preemptAtSetup: false },
  },
}
