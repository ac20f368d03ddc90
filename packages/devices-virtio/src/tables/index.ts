import type { Vmstate } from '@ferryvm/core'
import { virtioBlkTable } from '../virtio-blk-vmstate.ts'
import type { VirtioLayoutFacts } from '../virtio-device.ts'
import { virtioIommuTable } from '../virtio-iommu/virtio-iommu-vmstate.ts'
import { virtioNetTable } from '../virtio-net/virtio-net-vmstate.ts'
import { virtioConsoleTable } from '../virtio-serial/virtio-console-vmstate.ts'

/** Tables of devices' own data by vmstate name, for reading streams without a device. Spec: virt-vmstate.md section 9 D. */
export const virtioTables: Readonly<Record<string, (facts: VirtioLayoutFacts) => Vmstate<any>>> = {
  'virtio-blk': virtioBlkTable,
  'virtio-console': virtioConsoleTable,
  'virtio-iommu': virtioIommuTable,
  'virtio-net': virtioNetTable,
}
