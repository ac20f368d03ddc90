/** What a modern driver wrote. Spec: virt-vmstate.md section 9 E, `virtio_pci/modern_state`. */
import {
  bool,
  defineVmstate,
  type StateOfVmstate,
  structArray,
  u16,
  u32,
  u32Array,
  unused,
  VIRTIO_QUEUE_MAX,
} from '@ferryvm/core'

const modernQueueVmstate = defineVmstate({
  name: 'virtio_pci/modern_queue_state',
  version: 1,
  fields: {
    num: u16(),
    unused: unused(1),
    enabled: bool(),
    descLow: u32(),
    descHigh: u32(),
    availLow: u32(),
    availHigh: u32(),
    usedLow: u32(),
    usedHigh: u32(),
  },
})
export type ModernQueueState = StateOfVmstate<typeof modernQueueVmstate>

export const virtioPciVmstate = defineVmstate({
  name: 'virtio_pci',
  version: 1,
  fields: {},
  subsections: {
    'virtio_pci/modern_state': {
      fields: {
        dfselect: u32(),
        gfselect: u32(),
        guest_features: u32Array(2),
        vqs: structArray(modernQueueVmstate, VIRTIO_QUEUE_MAX),
      },
      needed: () => true,
    },
  },
})
export type VirtioPciState = StateOfVmstate<typeof virtioPciVmstate>
