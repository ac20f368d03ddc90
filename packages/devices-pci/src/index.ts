/** PCIe host bridge of the `virt` board, and virtio over PCI. */
export { type GpexOptions, gpex } from './gpex.ts'
export { PciConfigMismatchError } from './pci-config-mismatch-error.ts'
