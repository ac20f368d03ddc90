/** PCIe host bridge of the `virt` board, and virtio over PCI. */
export { type GpexOptions, gpex, pciTables } from './gpex.ts'
export { PciConfigMismatchError } from './pci-config-mismatch-error.ts'
