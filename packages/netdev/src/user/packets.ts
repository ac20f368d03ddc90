/** Headers of the few protocols that {@link UserNet} speaks. Spec: RFC 826 (ARP), 791 (IPv4), 792 (ICMP), 768 (UDP). */
export const ETHERNET_BYTES = 14
export const TYPE_IPV4 = 0x0800
export const TYPE_ARP = 0x0806
export const PROTOCOL_ICMP = 1
export const PROTOCOL_UDP = 17
const IPV4_BYTES = 20
const UDP_BYTES = 8
const TTL = 255

export type Ipv4 = number
export type Mac = Uint8Array

export const BROADCAST_MAC: Mac = new Uint8Array(6).fill(0xff)
export const BROADCAST_IP: Ipv4 = 0xffff_ffff

export function ethernet(to: Mac, from: Mac, type: number, payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(Math.max(60, ETHERNET_BYTES + payload.length))
  frame.set(to)
  frame.set(from, 6)
  new DataView(frame.buffer).setUint16(12, type)
  frame.set(payload, ETHERNET_BYTES)
  return frame
}

export function ipv4(from: Ipv4, to: Ipv4, protocol: number, id: number, payload: Uint8Array): Uint8Array {
  const packet = new Uint8Array(IPV4_BYTES + payload.length)
  const view = new DataView(packet.buffer)
  view.setUint8(0, 0x45)
  view.setUint16(2, packet.length)
  view.setUint16(4, id)
  view.setUint8(8, TTL)
  view.setUint8(9, protocol)
  view.setUint32(12, from)
  view.setUint32(16, to)
  view.setUint16(10, checksum(packet.subarray(0, IPV4_BYTES)))
  packet.set(payload, IPV4_BYTES)
  return packet
}

/** Without a checksum, which UDP allows. */
export function udp(fromPort: number, toPort: number, payload: Uint8Array): Uint8Array {
  const datagram = new Uint8Array(UDP_BYTES + payload.length)
  const view = new DataView(datagram.buffer)
  view.setUint16(0, fromPort)
  view.setUint16(2, toPort)
  view.setUint16(4, datagram.length)
  datagram.set(payload, UDP_BYTES)
  return datagram
}

export interface Ipv4Packet {
  readonly protocol: number
  readonly from: Ipv4
  readonly to: Ipv4
  readonly payload: Uint8Array
}

/** @returns undefined: no whole packet (a fragment, say) */
export function parseIpv4(bytes: Uint8Array): Ipv4Packet | undefined {
  if (bytes.length < IPV4_BYTES) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const headerBytes = 4 * (view.getUint8(0) & 15)
  const length = view.getUint16(2)
  if (view.getUint8(0) >> 4 !== 4 || headerBytes < IPV4_BYTES || length < headerBytes || length > bytes.length) {
    return undefined
  }
  if (view.getUint16(6) & 0x3fff) return undefined
  const payload = bytes.subarray(headerBytes, length)
  return { protocol: view.getUint8(9), from: view.getUint32(12), to: view.getUint32(16), payload }
}

/** @returns undefined: shorter than it says */
export function parseUdp(bytes: Uint8Array): { fromPort: number; toPort: number; payload: Uint8Array } | undefined {
  if (bytes.length < UDP_BYTES) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const length = view.getUint16(4)
  if (length < UDP_BYTES || length > bytes.length) return undefined
  return { fromPort: view.getUint16(0), toPort: view.getUint16(2), payload: bytes.subarray(UDP_BYTES, length) }
}

/** Of the internet protocols. Spec: RFC 1071. */
export function checksum(bytes: Uint8Array): number {
  let sum = 0
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0)
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16)
  return ~sum & 0xffff
}
