/** What a virtio block device saves of its own. Spec: virt-vmstate.md section 9 D, "blk". */
import { defineVmstate, list, u32, type Vmstate } from '@ferryvm/core'
import type { VirtioLayoutFacts } from './virtio-device.ts'
import type { VirtqueueElement } from './virtqueue.ts'
import { virtqueueElement } from './virtqueue-element-wire.ts'

export const QUEUE_SIZE = 256

export interface VirtioBlkState {
  /** Taken from the ring and not answered. */
  requests: { queue: number; element: VirtqueueElement }[]
}
const tables = new Map<number, Vmstate<VirtioBlkState>>()

/** A request says which queue it is of only where there are several. */
export function virtioBlkTable({ queues }: VirtioLayoutFacts): Vmstate<VirtioBlkState> {
  let table = tables.get(queues)
  if (!table) {
    const request = defineVmstate({
      name: 'virtio-blk-request',
      version: 1,
      fields: { queue: u32({ when: () => queues > 1 }), element: virtqueueElement() },
    })
    const fields = { requests: list(request, { since: 1, max: QUEUE_SIZE * queues }) }
    tables.set(queues, (table = defineVmstate({ name: 'virtio-blk-device', version: 1, fields })))
  }
  return table
}
