/** Which frames a network card lets through to its guest. Spec: virtio 1.2, section 5.1.6.5. */
import { MAC_BYTES, MAC_TABLE_ENTRIES, type VirtioNetState, VLAN_BYTES } from './virtio-net-vmstate.ts'

const ETHERTYPE_AT = 12
const ETHERTYPE_VLAN = 0x8100
const VLAN_TAG_AT = 14

/** Rows of the section that are the filter's. */
export type FilterState = Pick<
  VirtioNetState,
  | 'promisc'
  | 'allmulti'
  | 'alluni'
  | 'nomulti'
  | 'nouni'
  | 'nobcast'
  | 'in_use'
  | 'macs'
  | 'multi_overflow'
  | 'uni_overflow'
  | 'vlans'
>
/** Commands of class RX, by number. */
const MODES = ['promisc', 'allmulti', 'alluni', 'nomulti', 'nouni', 'nobcast'] as const

export class ReceiveFilter {
  #state: FilterState = powerOn()

  get state(): FilterState {
    return this.#state
  }

  reset(): void {
    this.#state = powerOn()
  }

  load(loaded: FilterState): void {
    const { promisc, allmulti, alluni, nomulti, nouni, nobcast, in_use, multi_overflow, uni_overflow } = loaded
    const modes = { promisc, allmulti, alluni, nomulti, nouni, nobcast, in_use, multi_overflow, uni_overflow }
    this.#state = { ...modes, macs: loaded.macs.slice(), vlans: loaded.vlans.slice() }
  }

  /** A driver that filters VLANs names each that it wants; one that does not wants all. */
  filterVlans(on: boolean): void {
    this.#state.vlans = new Uint8Array(VLAN_BYTES).fill(on ? 0 : 0xff)
  }

  /** @returns false: there is no such mode */
  setMode(command: number, on: boolean): boolean {
    const mode = MODES[command]
    if (!mode) return false
    this.#state[mode] = on ? 1 : 0
    return true
  }

  /** @returns false: there is no such VLAN */
  setVlan(id: number, on: boolean): boolean {
    if (id >= 8 * VLAN_BYTES) return false
    const bit = 1 << (id & 7)
    if (on) this.#state.vlans[id >> 3]! |= bit
    else this.#state.vlans[id >> 3]! &= ~bit
    return true
  }

  /** The addresses to let through; a list that is too long lets everything of its kind through. */
  setAddresses(unicast: readonly Uint8Array[], multicast: readonly Uint8Array[]): void {
    const uni = unicast.length > MAC_TABLE_ENTRIES ? [] : unicast
    const multi = uni.length + multicast.length > MAC_TABLE_ENTRIES ? [] : multicast
    this.#state.uni_overflow = uni === unicast ? 0 : 1
    this.#state.multi_overflow = multi === multicast ? 0 : 1
    this.#state.in_use = uni.length + multi.length
    this.#state.macs = new Uint8Array(MAC_BYTES * this.#state.in_use)
    for (const [i, mac] of [...uni, ...multi].entries()) this.#state.macs.set(mac, MAC_BYTES * i)
  }

  /** @param own the card's address */
  accepts(frame: Uint8Array, own: Uint8Array): boolean {
    const s = this.#state
    if (s.promisc) return true
    if (((frame[ETHERTYPE_AT]! << 8) | frame[ETHERTYPE_AT + 1]!) === ETHERTYPE_VLAN) {
      const id = ((frame[VLAN_TAG_AT]! << 8) | frame[VLAN_TAG_AT + 1]!) & 0xfff
      if (!(s.vlans[id >> 3]! & (1 << (id & 7)))) return false
    }
    const to = frame.subarray(0, MAC_BYTES)
    if (to.every((byte) => byte === 0xff)) return !s.nobcast
    if (to[0]! & 1) return !s.nomulti && (s.allmulti !== 0 || s.multi_overflow !== 0 || this.#inTable(to))
    if (s.nouni) return false
    return s.alluni !== 0 || s.uni_overflow !== 0 || same(to, own) || this.#inTable(to)
  }

  #inTable(mac: Uint8Array): boolean {
    const { macs } = this.#state
    for (let at = 0; at < macs.length; at += MAC_BYTES) if (same(mac, macs.subarray(at, at + MAC_BYTES))) return true
    return false
  }
}

function powerOn(): FilterState {
  return {
    promisc: 1,
    allmulti: 0,
    alluni: 0,
    nomulti: 0,
    nouni: 0,
    nobcast: 0,
    in_use: 0,
    macs: new Uint8Array(0),
    multi_overflow: 0,
    uni_overflow: 0,
    vlans: new Uint8Array(VLAN_BYTES).fill(0xff),
  }
}

const same = (a: Uint8Array, b: Uint8Array): boolean => a.every((byte, i) => byte === b[i])
