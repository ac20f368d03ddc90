/** What a virtio IOMMU saves of its own. Spec: iommu.md section b.5. */
import {
  bool,
  defineVmstate,
  gtree,
  gtreeDirectKey,
  qlist,
  type StateOfVmstate,
  u8,
  u32,
  u64,
  type Vmstate,
  VmstateRangeError,
} from '@ferryvm/core'

/** Of all domains together: beyond it a guest is told that there is no memory left. */
export const MAX_MAPPINGS = 1 << 18
/** As many as there are functions on a bus; a domain without one dies. */
export const MAX_ENDPOINTS = 256

/** Both ends included. */
const intervalVmstate = defineVmstate({ name: 'interval', version: 1, fields: { low: u64(), high: u64() } })
const mappingVmstate = defineVmstate({
  name: 'mapping',
  version: 1,
  fields: { phys_addr: u64(), /** 1 read, 2 write, 4 memory-mapped. */ flags: u32() },
})
const endpointVmstate = defineVmstate({ name: 'endpoint', version: 1, fields: { id: u32() } })
const domainVmstate = defineVmstate({
  name: 'domain',
  version: 2,
  minimumVersion: 2,
  fields: {
    id: u32(),
    mappings: gtree(intervalVmstate, mappingVmstate, {
      since: 1,
      max: MAX_MAPPINGS,
      compare: (a, b) => (a.low < b.low ? -1 : a.low > b.low ? 1 : 0),
    }),
    endpoint_list: qlist(endpointVmstate, { since: 1, max: MAX_ENDPOINTS }),
    bypass: bool(),
  },
})
export type DomainState = StateOfVmstate<typeof domainVmstate>

const table = defineVmstate({
  name: 'virtio-iommu-device',
  version: 2,
  minimumVersion: 2,
  fields: {
    domains: gtreeDirectKey(domainVmstate, { since: 2, max: MAX_ENDPOINTS }),
    bypass: u8({ wireName: 'config.bypass', reset: 1 }),
  },
  postLoad({ domains, bypass }) {
    if (bypass > 1) throw new VmstateRangeError('bypass', `${bypass} is neither 0 nor 1`)
    for (const [key, { id, mappings }] of domains) {
      if (key !== BigInt(id)) throw new VmstateRangeError('domains', `domain ${id} has key ${key}`)
      let end = -1n
      for (const { key: interval } of mappings) {
        if (interval.low <= end || interval.high < interval.low) {
          throw new VmstateRangeError('domains', `mappings of domain ${id} overlap, or are not in order`)
        }
        end = interval.high
      }
    }
  },
})
export type VirtioIommuState = StateOfVmstate<typeof table>
export const virtioIommuTable = (): Vmstate<VirtioIommuState> => table
