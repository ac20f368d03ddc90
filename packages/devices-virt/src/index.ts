/** The board devices of RISC-V `virt`, its boot ROM and its device tree. */
export { aclintMswi, aclintMtimer, aclintSswi, type MtimerState, mtimerVmstate } from './aclint.ts'
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
export { pflashCfi01, pflashCfi01Vmstate } from './pflash-cfi01.ts'
export { type PlicState, plic, plicVmstate } from './plic.ts'
export { testFinisher } from './test-finisher.ts'
export { uart16550, uart16550Vmstate } from './uart16550.ts'
export { type VirtDeviceTreeOptions, type VirtProfile, virtDeviceTree } from './virt-device-tree.ts'
