import {
  type CharBackend,
  DeviceConfigError,
  type DeviceFactory,
  type DeviceSpec,
  type Logger,
  silentLogger,
} from '@ferryvm/core'
import { type Accelerator, rv64, withInterruptFiles } from '@ferryvm/cpu-riscv'
import { intelIommu } from '@ferryvm/devices-iommu'
import { gpex } from '@ferryvm/devices-pci'
import {
  aclintMswi,
  aclintMtimer,
  aplic,
  bootRom,
  flattenDeviceTree,
  fwCfg,
  goldfishRtc,
  type InterruptControllers,
  imsic,
  MROM,
  maskRom,
  pflashCfi01,
  plic,
  testFinisher,
  uart16550,
  virtAcpiBuild,
  virtDeviceTree,
  vmgenid,
} from '@ferryvm/devices-virt'
import {
  virtconsole,
  virtioBlk,
  virtioIommu,
  virtioMmio,
  virtioNet,
  virtioRng,
  virtioSerial,
  virtserialport,
} from '@ferryvm/devices-virtio'
import type { BootImage, MachineConfig, RamConfig } from '@ferryvm/machine'
import { slirp } from '@ferryvm/netdev'
import { type BootFiles, planBoot, RAM_BASE } from './boot-plan.ts'
import { VIRT_PROFILES, type VirtProfile } from './profile.ts'
import { toldIsa } from './told-isa.ts'

export interface VirtBoardOptions extends BootFiles {
  /** Which stock QEMU's board this is, as far as a guest or a stream can tell. Default `qemu-7.2`. */
  readonly profile?: VirtProfile
  readonly harts?: number
  /** What interrupts go through. Default: the PLIC. PCI functions can send messages where there is an IMSIC. */
  readonly interrupts?: InterruptControllers
  /** Whether the guest keeps the ACPI tables that it brings from stock 10.0. Default: with the profile of 10.0. */
  readonly acpi?: boolean
  /** Default 128 MiB. */
  readonly ramBytes?: number
  /** What RAM is called on the wire when a memory back-end is it, and the file that it is kept in. */
  readonly ram?: Pick<RamConfig, 'idstr' | 'backing'>
  /** The far side of the UART. */
  readonly serial?: CharBackend
  /** Beyond the board's own: `virtioBlk({ drive }, { bus: 'pcie.0' })`, `intelIommu({})`, a plugin's. */
  readonly devices?: readonly DeviceSpec[]
  /** Debug mode: see MachineConfig. */
  readonly checkLoadOrder?: boolean
  /** See `rv64`. Default true. */
  readonly timerNudge?: boolean
  /** How guest code runs, see `rv64`. */
  readonly accel?: Accelerator
  readonly log?: Logger
}

/** Spec: virt-machine.md section 1. */
const MAP = {
  finisher: 0x10_0000,
  rtc: 0x10_1000,
  /** Where stock has nothing. */
  vmgenid: 0x10_2000,
  clint: 0x200_0000,
  mtimer: 0x200_4000,
  platformBus: 0x400_0000,
  plic: 0xc00_0000,
  aplic: { machine: 0xc00_0000, supervisor: 0xd00_0000 },
  imsic: { machine: 0x2400_0000, supervisor: 0x2800_0000 },
  uart: 0x1000_0000,
  fwCfg: 0x1010_0000,
  flash: [0x2000_0000, 0x2200_0000],
} as const
const MiB = 2 ** 20
const VTD_BYTES = 0x1000
/** Behind the clock's; stock uses it for nothing. */
const VMGENID_IRQ = 12
/** What stock 7.2 has, and 10.0 besides ACPI and SMBIOS. Spec: virt-machine.md section 6.7. */
const FW_CFG_FILES = [
  { name: 'bios-geometry', data: new Uint8Array(0) },
  { name: 'bootorder', data: new Uint8Array(0) },
  { name: 'etc/boot-fail-wait', data: new Uint8Array(4).fill(0xff) },
]
/** Stock 10.0 describes itself in them. Nothing here is described; a guest of either finds what comes after under the same keys. */
const SMBIOS_FILES = [{ name: 'etc/smbios/smbios-anchor' }, { name: 'etc/smbios/smbios-tables' }]

/**
 * The RISC-V `virt` board as data for `createMachine`: CPU, board devices in stock's order, boot files in their places.
 * @throws DeviceConfigError boot files that do not fit
 */
export function virtBoard(options: VirtBoardOptions = {}): MachineConfig {
  const { profile = 'qemu-7.2', harts = 1, ramBytes = 128 * MiB, devices = [], log = silentLogger } = options
  const { interrupts = { kind: 'plic' } } = options
  const { fwCfgEarly, virtioIommu: virtioIommuOnBoard, stream, deviceTree } = VIRT_PROFILES[profile]
  const { acpi = VIRT_PROFILES[profile].acpi } = options
  const guestFiles = interrupts.kind === 'aplic-imsic' ? interrupts.guests : undefined
  const cpu = rv64({ harts, profile, guestFiles, toldIsa, timerNudge: options.timerNudge, accel: options.accel })
  const fwCfgSpec = fwCfg(
    { harts, files: profile === 'qemu-7.2' ? FW_CFG_FILES : [...FW_CFG_FILES, ...SMBIOS_FILES], acpi },
    { at: MAP.fwCfg },
  )
  const boot = planBoot(options, ramBytes, profile)
  const iommuRequester = requesterOf(devices, virtioIommu.type)
  if (iommuRequester !== undefined && !virtioIommuOnBoard) {
    throw new DeviceConfigError(
      virtioIommu.type,
      `this board has none with profile ${profile}; stock has it from 10.0 on`,
    )
  }
  const tree = () =>
    flattenDeviceTree(
      virtDeviceTree({
        harts,
        ramBytes,
        facts: { ...deviceTree, ...hartFacts(profile, guestFiles) },
        interrupts,
        bootargs: options.append,
        initrd: boot.initrd,
        rngSeed: crypto.getRandomValues(new Uint8Array(32)),
        virtioIommu: iommuRequester,
        vtd: devices.some((d) => d.definition.type === intelIommu.type),
        vmgenid: devices.some((d) => d.definition.type === vmgenid.type)
          ? { at: MAP.vmgenid, irq: VMGENID_IRQ }
          : undefined,
      }),
    )
  const deviceTreeAddress = boot.deviceTreeAt(tree().length)
  const images: BootImage[] = [
    {
      name: 'reset vector',
      at: MROM.base,
      bytes: bootRom({ startAddress: boot.start, deviceTreeAddress, nextAddress: boot.next }),
    },
    ...boot.images,
    { name: 'device tree', at: deviceTreeAddress, bytes: tree },
  ]
  return {
    name: 'virt',
    stream,
    checkLoadOrder: options.checkLoadOrder,
    cpu,
    ram: [{ idstr: 'riscv_virt_board.ram', ...options.ram, base: RAM_BASE, sizeBytes: ramBytes }],
    // Behind the place of VT-d, where guests look for it: no other device must answer there.
    platformBus: { base: MAP.platformBus + VTD_BYTES, sizeBytes: 32 * MiB - VTD_BYTES, firstIrq: 64, irqCount: 32 },
    images,
    log,
    devices: [
      maskRom({}),
      aclintMswi({}, { at: MAP.clint }),
      aclintMtimer({}, { at: MAP.mtimer }),
      ...interruptControllers(interrupts, profile),
      ...(fwCfgEarly ? [fwCfgSpec] : []),
      testFinisher({}, { at: MAP.finisher }),
      virtioMmio({}, { id: 'virtio-mmio', irq: 1 }),
      gpex({ mmio64Base: Math.ceil((RAM_BASE + ramBytes) / 2 ** 34) * 2 ** 34 }, { id: 'gpex', irq: 32 }),
      uart16550({ chardev: options.serial }, { id: 'serial0', at: MAP.uart, irq: 10 }),
      goldfishRtc({}, { at: MAP.rtc, irq: 11 }),
      pflashCfi01({ idstr: 'virt.flash0' }, { id: 'flash0', at: MAP.flash[0] }),
      pflashCfi01({ idstr: 'virt.flash1' }, { id: 'flash1', at: MAP.flash[1] }),
      ...devices.map(inItsPlace),
      ...(fwCfgEarly ? [] : [fwCfgSpec]),
      // Of a sender with a user network: after those of our own, which come first.
      slirp({}, { id: 'foreign-slirp' }),
      virtAcpiBuild({ acpi }, { id: 'virt-acpi-build' }),
    ],
  }
}

function interruptControllers({ kind }: InterruptControllers, profile: VirtProfile): DeviceSpec[] {
  if (kind === 'plic') return [plic({}, { at: MAP.plic })]
  const messages = kind === 'aplic-imsic'
  const version = VIRT_PROFILES[profile].aplicVersion
  return [
    ...(messages ? [imsic({ supervisorAt: MAP.imsic.supervisor }, { at: MAP.imsic.machine })] : []),
    aplic({ supervisorAt: MAP.aplic.supervisor, messages, version }, { at: MAP.aplic.machine }),
  ]
}

/** What the device tree says of the harts. */
function hartFacts(profile: VirtProfile, guestFiles: number | undefined): { isa: string; mmuType: string } {
  const { cpu } = VIRT_PROFILES[profile]
  return guestFiles === undefined ? cpu : withInterruptFiles(cpu, guestFiles)
}

/** Where the PCI bus will put the first device of that type. */
function requesterOf(devices: readonly DeviceSpec[], type: string): number | undefined {
  const onPci = devices.filter(({ definition, placement }) => definition.bus === 'pci' || placement.bus === 'pcie.0')
  const slotOf = (addr: string) => Number.parseInt(addr.replace(/^0x/i, ''), 16)
  const taken = new Set([0])
  for (const { definition, placement } of onPci) {
    let slot = placement.addr === undefined ? 1 : slotOf(placement.addr)
    while (placement.addr === undefined && taken.has(slot)) slot++
    if (definition.type === type) return slot << 3
    taken.add(slot)
  }
  return undefined
}

/** Devices that a guest looks for in one place only. */
function inItsPlace(device: DeviceSpec): DeviceSpec {
  const { type } = device.definition
  if (type === intelIommu.type) return { ...device, placement: { at: MAP.platformBus, ...device.placement } }
  if (type !== vmgenid.type) return device
  return { ...device, placement: { ...device.placement, at: MAP.vmgenid, irq: VMGENID_IRQ } }
}

/** Devices that `-device` can name on this board. */
export const virtDevices: readonly DeviceFactory<any>[] = [
  intelIommu,
  virtioBlk,
  virtioIommu,
  virtioNet,
  virtioRng,
  virtioSerial,
  virtconsole,
  virtserialport,
  vmgenid,
]
