/** What a modern driver wrote. Spec: virt-vmstate.md section 9 E, `virtio_mmio/state`. */
import {
  bool,
  defineVmstate,
  type StateOfVmstate,
  structArray,
  u16,
  u32,
  u32Array,
  VIRTIO_QUEUE_MAX,
} from '@ferryvm/core'

const queueVmstate = defineVmstate({
  name: 'virtio_mmio/queue_state',
  version: 1,
  fields: {
    num: u16(),
    enabled: bool(),
    descLow: u32(),
    descHigh: u32(),
    availLow: u32(),
    availHigh: u32(),
    usedLow: u32(),
    usedHigh: u32(),
  },
})

export const virtioMmioVmstate = defineVmstate({
  name: 'virtio_mmio',
  version: 1,
  fields: {},
  subsections: {
    'virtio_mmio/state': {
      fields: { guest_features: u32Array(2), vqs: structArray(queueVmstate, VIRTIO_QUEUE_MAX) },
      needed: () => true,
    },
  },
})
export type VirtioMmioState = StateOfVmstate<typeof virtioMmioVmstate>
