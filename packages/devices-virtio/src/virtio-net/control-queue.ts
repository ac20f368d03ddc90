/** Commands of a network card's control queue. Spec: virtio 1.2, section 5.1.6.5. */

import type { ReceiveFilter } from './receive-filter.ts'
import { MAC_BYTES } from './virtio-net-vmstate.ts'

export const ACK_OK = 0
export const ACK_ERROR = 1
const HEADER_BYTES = 2
const CLASS_RX = 0
const CLASS_MAC = 1
const MAC_TABLE_SET = 0
const MAC_ADDR_SET = 1
const CLASS_VLAN = 2
const VLAN_ADD = 0
const VLAN_DEL = 1
const CLASS_ANNOUNCE = 3
const ANNOUNCE_ACK = 0
const CLASS_GUEST_OFFLOADS = 5
const GUEST_OFFLOADS_SET = 0

/** What commands act on. */
export interface ControlTarget {
  readonly filter: ReceiveFilter
  setMac(mac: Uint8Array): void
  announced(): void
  /** @returns false: some of them are not offered */
  setOffloads(offloads: bigint): boolean
}

/** @param command all that the driver made readable: class, command, and what belongs to it */
export function execute(command: Uint8Array, target: ControlTarget): number {
  const data = command.subarray(HEADER_BYTES)
  const [kind, number] = command
  const done = () => {
    switch (kind) {
      case CLASS_RX:
        return data.length === 1 && target.filter.setMode(number!, data[0] !== 0)
      case CLASS_MAC:
        return number === MAC_TABLE_SET ? setTable(data, target) : number === MAC_ADDR_SET && setAddress(data, target)
      case CLASS_VLAN:
        if (data.length !== 2 || (number !== VLAN_ADD && number !== VLAN_DEL)) return false
        return target.filter.setVlan(data[0]! | (data[1]! << 8), number === VLAN_ADD)
      case CLASS_ANNOUNCE:
        if (number !== ANNOUNCE_ACK) return false
        target.announced()
        return true
      case CLASS_GUEST_OFFLOADS: {
        if (number !== GUEST_OFFLOADS_SET || data.length !== 8) return false
        return target.setOffloads(new DataView(data.buffer, data.byteOffset).getBigUint64(0, true))
      }
      default:
        return false
    }
  }
  return command.length >= HEADER_BYTES && done() ? ACK_OK : ACK_ERROR
}

function setAddress(data: Uint8Array, target: ControlTarget): boolean {
  if (data.length !== MAC_BYTES) return false
  target.setMac(data.slice())
  return true
}

/** Two lists, each with its length in front: unicast, then multicast. */
function setTable(data: Uint8Array, target: ControlTarget): boolean {
  const view = new DataView(data.buffer, data.byteOffset, data.length)
  let at = 0
  const take = (): Uint8Array[] | undefined => {
    if (at + 4 > data.length) return undefined
    const count = view.getUint32(at, true)
    at += 4
    if (count > (data.length - at) / MAC_BYTES) return undefined
    return Array.from({ length: count }, () => data.slice(at, (at += MAC_BYTES)))
  }
  const unicast = take()
  const multicast = unicast && take()
  if (!multicast || at !== data.length) return false
  target.filter.setAddresses(unicast, multicast)
  return true
}
