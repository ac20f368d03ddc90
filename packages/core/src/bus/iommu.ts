import type { AddressSpace } from '../memory/address-space.ts'

/** Something that translates the addresses which functions of a PCI bus use. Spec: iommu.md. */
export interface Iommu {
  readonly name: string
  /**
   * The address space of one requester. Looked up anew for every access, so that tables, enables and the order in which
   * devices were created or loaded never matter beyond what the guest programmed.
   * @param sourceId bus << 8 | device << 3 | function
   */
  addressSpace(sourceId: number): AddressSpace
}

/** Given to IOMMU devices by the machine: put yourself in front of a PCI bus. */
export interface IommuAttachPoint {
  readonly bus: string
  /** Where that requester is, as in `0000:00:01.0`; undefined: there is none. Known when all devices are there. */
  functionAt(sourceId: number): string | undefined
  setIommu(iommu: Iommu): void
}
