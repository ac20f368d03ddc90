/**
 * Higher is saved, hence loaded, first; equal priorities keep registration order. A closed set of named levels instead
 * of before/after hints: hints of third parties can contradict each other, a number cannot, and `info savevm-handlers`
 * prints the outcome. The numbers are QEMU's. Spec: stream.md section 8.
 */
export const MigrationPriority = {
  DEFAULT: 0,
  /** Before the PCI devices whose DMA it remaps: they read their rings through it while they load. */
  IOMMU: 1,
  PCI_BUS: 2,
  VIRTIO_MEM: 3,
  GICV3_ITS: 4,
  GICV3: 5,
  MAX: 6,
} as const
export type MigrationPriority = (typeof MigrationPriority)[keyof typeof MigrationPriority]
