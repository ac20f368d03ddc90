/**
 * The network that QEMU calls `user`: 10.0.2.0/24, with a gateway that hands out addresses and answers to pings. There is no
 * way out of it: a guest has no TCP, UDP or names beyond the gateway.
 */
import type { NetBackend } from '@ferryvm/core'
import { DISCOVER, dhcpAnswer, parseDhcp, REQUEST } from './dhcp.ts'
import {
  BROADCAST_IP,
  BROADCAST_MAC,
  checksum,
  ETHERNET_BYTES,
  ethernet,
  type Ipv4,
  ipv4,
  type Mac,
  PROTOCOL_ICMP,
  PROTOCOL_UDP,
  parseIpv4,
  parseUdp,
  TYPE_ARP,
  TYPE_IPV4,
  udp,
} from './packets.ts'
import { LEASES, type SlirpState, slirpVmstate } from './slirp-vmstate.ts'

const NETWORK: Ipv4 = 0x0a00_0200
const MASK: Ipv4 = 0xffff_ff00
const HOST: Ipv4 = NETWORK + 2
const DNS: Ipv4 = NETWORK + 3
const FIRST_LEASE: Ipv4 = NETWORK + 15
const DHCP_SERVER = 67
const DHCP_CLIENT = 68
const ARP_BYTES = 28
const ARP_REQUEST = 1
const ARP_REPLY = 2
const ECHO_REQUEST = 8

/** Addresses of the network's own are in hardware addresses, as with stock. */
const macOf = (ip: Ipv4): Mac => Uint8Array.of(0x52, 0x55, ip >>> 24, (ip >> 16) & 0xff, (ip >> 8) & 0xff, ip & 0xff)

export class UserNet implements NetBackend {
  /** What migrates: leases, in the section that stock machines have for it. */
  readonly state: SlirpState = slirpVmstate.createState()
  #listener: ((frame: Uint8Array) => void) | undefined

  send(frame: Uint8Array): void {
    if (frame.length < ETHERNET_BYTES) return
    const type = (frame[12]! << 8) | frame[13]!
    const payload = frame.subarray(ETHERNET_BYTES)
    if (type === TYPE_ARP) this.#arp(payload)
    else if (type === TYPE_IPV4) this.#ipv4(frame.slice(6, 12), payload)
  }

  onReceive(listener: (frame: Uint8Array) => void): Disposable {
    this.#listener = listener
    return { [Symbol.dispose]: () => void (this.#listener = undefined) }
  }

  #arp(question: Uint8Array): void {
    if (question.length < ARP_BYTES) return
    const view = new DataView(question.buffer, question.byteOffset, question.length)
    const asked = view.getUint32(24)
    if (view.getUint16(6) !== ARP_REQUEST || (asked !== HOST && asked !== DNS)) return
    const answer = question.slice(0, ARP_BYTES)
    const guest = question.slice(8, 14)
    new DataView(answer.buffer).setUint16(6, ARP_REPLY)
    answer.set(macOf(asked), 8)
    answer.set(question.subarray(24, 28), 14)
    answer.set(question.subarray(8, 18), 18)
    this.#deliver(ethernet(guest, macOf(asked), TYPE_ARP, answer))
  }

  #ipv4(guest: Mac, bytes: Uint8Array): void {
    const packet = parseIpv4(bytes)
    if (!packet) return
    const { protocol, from, to, payload } = packet
    if (
      protocol === PROTOCOL_ICMP &&
      (to === HOST || to === DNS) &&
      payload[0] === ECHO_REQUEST &&
      payload.length >= 8
    ) {
      const answer = payload.slice()
      answer.fill(0, 0, 4)
      new DataView(answer.buffer).setUint16(2, checksum(answer))
      this.#deliver(ethernet(guest, macOf(to), TYPE_IPV4, ipv4(to, from, PROTOCOL_ICMP, this.#nextId(), answer)))
    } else if (protocol === PROTOCOL_UDP) {
      const datagram = parseUdp(payload)
      if (datagram?.toPort === DHCP_SERVER && (to === BROADCAST_IP || to === HOST)) this.#dhcp(datagram.payload)
    }
  }

  #dhcp(bytes: Uint8Array): void {
    const question = parseDhcp(bytes)
    if (!question || (question.type !== DISCOVER && question.type !== REQUEST)) return
    const address = this.#lease(question.mac, question.type === REQUEST ? question.requested : undefined)
    if (address === undefined && question.type === DISCOVER) return // all are taken
    const answer = udp(DHCP_SERVER, DHCP_CLIENT, dhcpAnswer(question, { host: HOST, dns: DNS, mask: MASK }, address))
    const packet = ipv4(HOST, BROADCAST_IP, PROTOCOL_UDP, this.#nextId(), answer)
    this.#deliver(ethernet(BROADCAST_MAC, macOf(HOST), TYPE_IPV4, packet))
  }

  /** @param wanted only this one will do */
  #lease(mac: Mac, wanted: Ipv4 | undefined): Ipv4 | undefined {
    const clients = this.state.bootp_clients
    const has = (i: number) => clients[i]!.allocated !== 0 && clients[i]!.macaddr.every((byte, n) => byte === mac[n])
    const all = Array.from({ length: LEASES }, (_, i) => i)
    let mine = all.find(has)
    if (wanted !== undefined) {
      const i = wanted - FIRST_LEASE
      if (i < 0 || i >= LEASES || (clients[i]!.allocated !== 0 && !has(i))) return undefined
      mine = i
    }
    mine ??= all.find((i) => clients[i]!.allocated === 0)
    if (mine === undefined) return undefined
    clients[mine] = { allocated: 1, macaddr: mac.slice() }
    return FIRST_LEASE + mine
  }

  #nextId(): number {
    const id = this.state.ip_id
    this.state.ip_id = (id + 1) & 0xffff
    return id
  }

  #deliver(frame: Uint8Array): void {
    this.#listener?.(frame)
  }
}
