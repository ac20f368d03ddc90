/**
 * What the RISC-V `virt` board is made of: ACLINT, PLIC or APLIC and IMSIC, UART 16550, goldfish RTC, test finisher, fw_cfg, CFI flash, boot
 * ROM and device tree. Sections, versions and bytes are those of stock QEMU 7.2 and 10.0.
 *
 * ```ts
 * devices: [
 *   maskRom({}),
 *   aclintMswi({}, { at: 0x200_0000 }),
 *   aclintMtimer({}, { at: 0x200_4000 }),
 *   plic({}, { at: 0xc00_0000 }),
 *   uart16550({ chardev: terminal }, { at: 0x1000_0000, irq: 10 }),
 * ]
 * const blob = flattenDeviceTree(virtDeviceTree({ harts: 1, ramBytes: 128 << 20, facts }))
 * ```
 */
export { aclintMswi, aclintMtimer, aclintSswi, type MtimerState, mtimerVmstate } from './aclint.ts'
export { type AplicState, type AplicVersion, aplic, aplicVmstate } from './aplic.ts'
export { type BootRomOptions, bootRom, MROM, maskRom } from './boot-rom.ts'
export {
  cells,
  cells64,
  DeviceTreeFormatError,
  type FdtNode,
  fdtNode,
  flag,
  flattenDeviceTree,
  joined,
  parseDeviceTree,
  text,
} from './fdt.ts'
export { type FwCfgFile, fwCfg, fwCfgVmstate } from './fw-cfg.ts'
export { goldfishRtc, goldfishRtcVmstate } from './goldfish-rtc.ts'
export { type ImsicState, imsic, imsicVmstate } from './imsic.ts'
export { pflashCfi01, pflashCfi01Vmstate } from './pflash-cfi01.ts'
export { type PlicState, plic, plicVmstate } from './plic.ts'
export { testFinisher } from './test-finisher.ts'
export { uart16550, uart16550Vmstate } from './uart16550.ts'
export { acpiBuildVmstate, virtAcpiBuild } from './virt-acpi-build.ts'
export {
  type DeviceTreeFacts,
  type InterruptControllers,
  type VirtDeviceTreeOptions,
  virtDeviceTree,
} from './virt-device-tree.ts'
export { vmgenid, vmgenidVmstate } from './vmgenid.ts'
