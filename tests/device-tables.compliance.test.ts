/** What virtio devices, user networks and AIA's interrupt controllers save, through the kit for tables. */
import { vmstateCompliance } from '@ferryvm/compliance/vmstate'
import { aplicVmstate, imsicVmstate, vmgenidVmstate } from '@ferryvm/devices-virt'
import { virtioTables } from '@ferryvm/devices-virtio/tables'
import { slirpVmstate } from '@ferryvm/netdev'
import { describe, it } from 'vitest'

const runner = { describe, it }
const element = { index: 3, out: [{ address: 0x8000_1000, length: 100 }], in: [{ address: 0x8000_2000, length: 1 }] }
const table = (name: string, queues = 3, guestFeatures = 0xffff_ffff) => virtioTables[name]!({ queues, guestFeatures })

vmstateCompliance(runner, { vmstate: vmgenidVmstate, mutate: (s) => void (s.guid[15] = 7) })
for (const queues of [1, 4]) {
  vmstateCompliance(runner, {
    vmstate: table('virtio-blk', queues),
    mutate(s) {
      s.requests.push({ queue: queues - 1, element }, { queue: 0, element })
    },
  })
}
vmstateCompliance(runner, {
  vmstate: table('virtio-console'),
  create: () =>
    Object.assign(table('virtio-console').createState(), { max_nr_ports: 31, ports_map: Uint32Array.of(1) }),
  mutate(s) {
    s.ports_map[0] = 7
    s.nr_active_ports = 2
    const port = { guest_connected: 1, host_connected: 1, iov_idx: 0, iov_offset: 0n, element }
    s.ports = [
      { ...port, id: 0, elem_popped: 0 },
      { ...port, id: 2, elem_popped: 1, iov_offset: 64n },
    ]
  },
})
for (const [queues, features] of [
  [3, 0],
  [3, 1 << 2],
  [9, 1 << 2],
] as const) {
  vmstateCompliance(runner, {
    vmstate: table('virtio-net', queues, features),
    mutate(s) {
      s.mac.set([2, 3, 4, 5, 6, 7])
      s.in_use = 2
      s.macs = Uint8Array.from({ length: 12 }, (_, i) => i)
      s.vlans[7] = 0x55
      s.promisc = 0
      if (queues > 3) {
        s.max_queue_pairs = 4
        s.curr_queue_pairs = 3
        s.more_tx_waiting = Uint32Array.of(1, 0)
      }
      s.rss_enabled = true
      s.indirections_len = 2
      s.indirections_table = Uint16Array.of(1, 2)
    },
  })
}
vmstateCompliance(runner, {
  vmstate: table('virtio-iommu'),
  mutate(s) {
    const mappings = [0x1000n, 0x3000n].map((low) => ({
      key: { low, high: low + 0xfffn },
      value: { phys_addr: 0x8000_0000n, flags: 3 },
    }))
    s.domains.set(4n, { id: 4, mappings, endpoint_list: [{ id: 8 }, { id: 16 }], bypass: false })
    s.domains.set(9n, { id: 9, mappings: [], endpoint_list: [{ id: 24 }], bypass: true })
    s.bypass = 0
  },
})
vmstateCompliance(runner, {
  vmstate: slirpVmstate,
  mutate(s) {
    s.ip_id = 77
    s.bootp_clients[3] = { allocated: 1, macaddr: Uint8Array.of(2, 3, 4, 5, 6, 7) }
  },
})
for (const pages of [1, 3]) {
  vmstateCompliance(runner, {
    vmstate: imsicVmstate(pages),
    mutate(s) {
      s.eidelivery[pages - 1] = 1
      s.eistate[256 * pages - 1] = 3
    },
  })
}
for (const harts of [0, 2]) {
  vmstateCompliance(runner, {
    vmstate: aplicVmstate(harts),
    mutate(s) {
      s.domaincfg = 0x8000_0100
      s.kvm_msicfgaddr = 5
      s.sourcecfg[10] = 6
      s.target[96] = 0x4_0001
      if (harts > 0) s.idelivery[1] = 1
    },
  })
}
