/** What a virtio network card saves of its own. Spec: virt-vmstate.md section 9 D, "net". */
import {
  bool,
  buffer,
  defineVmstate,
  type StateOfVmstate,
  u8,
  u16,
  u16Varray,
  u32,
  u32Varray,
  u64,
  type Vmstate,
  validate,
  vbuffer,
} from '@ferryvm/core'
import type { VirtioLayoutFacts } from '../virtio-device.ts'

export const MAC_BYTES = 6
/** More addresses than these are not told apart: everything of their kind is let through. */
export const MAC_TABLE_ENTRIES = 64
/** One bit per VLAN. */
export const VLAN_BYTES = 4096 / 8
export const STATUS_LINK_UP = 1
export const F_CTRL_GUEST_OFFLOADS = 1 << 2
const RSS_TABLE_MAX = 128

function defineTable(queues: number, offloads: boolean) {
  const pairs = (queues - 1) >> 1
  const several = () => pairs > 1
  return defineVmstate({
    name: 'virtio-net-device',
    version: 11,
    minimumVersion: 11,
    fields: {
      mac: buffer(MAC_BYTES),
      /** Something in the first transmit queue was not looked at yet. */
      tx_waiting: u32({ wireName: 'vqs[0].tx_waiting' }),
      mergeable_rx_bufs: u32(),
      /** Bit 0: link is up; bit 1: the driver should announce itself. */
      status: u16({ reset: STATUS_LINK_UP }),
      promisc: u8({ reset: 1 }),
      allmulti: u8(),
      in_use: u32({ wireName: 'mac_table.in_use' }),
      fits: validate(`at most ${MAC_TABLE_ENTRIES} addresses fit the filter`, (s) => s.in_use <= MAC_TABLE_ENTRIES),
      /** Unicast addresses, then multicast ones. */
      macs: vbuffer('in_use', { times: MAC_BYTES, max: MAC_TABLE_ENTRIES, wireName: 'mac_table.macs' }),
      /** Bit i of byte n: VLAN 8n + i is let through. */
      vlans: buffer(VLAN_BYTES, { reset: new Uint8Array(VLAN_BYTES).fill(0xff) }),
      has_vnet_hdr: u32(),
      multi_overflow: u8({ wireName: 'mac_table.multi_overflow' }),
      uni_overflow: u8({ wireName: 'mac_table.uni_overflow' }),
      alluni: u8(),
      nomulti: u8(),
      nouni: u8(),
      nobcast: u8(),
      has_ufo: u8(),
      max_queue_pairs: u16({ when: several }),
      curr_queue_pairs: u16({ when: several }),
      pairs_exist: validate(
        'more queue pairs are in use than there are',
        (s) => s.curr_queue_pairs <= Math.max(1, pairs),
      ),
      more_tx_waiting: u32Varray((s) => (several() ? Math.max(0, s.curr_queue_pairs - 1) : 0), { max: 512 }),
      curr_guest_offloads: u64({ when: () => offloads }),
    },
    subsections: {
      /** Never of ours, which does not offer it. */
      'virtio-net-device/rss': {
        version: 1,
        fields: {
          rss_enabled: bool(),
          redirect: bool(),
          populate_hash: bool(),
          hash_types: u32(),
          indirections_len: u16(),
          default_queue: u16(),
          key: buffer(40),
          indirections_table: u16Varray('indirections_len', { max: RSS_TABLE_MAX }),
        },
        needed: (s) => s.rss_enabled,
      },
    },
    preLoad(s) {
      s.rss_enabled = false
    },
  })
}
export type VirtioNetState = StateOfVmstate<ReturnType<typeof defineTable>>

const tables = new Map<string, Vmstate<VirtioNetState>>()

export function virtioNetTable({ queues, guestFeatures }: VirtioLayoutFacts): Vmstate<VirtioNetState> {
  const offloads = (guestFeatures & F_CTRL_GUEST_OFFLOADS) !== 0
  const key = `${queues} ${offloads}`
  let table = tables.get(key)
  if (!table) tables.set(key, (table = defineTable(queues, offloads)))
  return table
}
