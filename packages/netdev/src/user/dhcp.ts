/** The server's half of DHCP, as far as one subnet with fixed answers needs it. Spec: RFC 2131, 2132. */
import type { Ipv4, Mac } from './packets.ts'

const OP_REQUEST = 1
const OP_REPLY = 2
const OPTIONS_AT = 240
const COOKIE_AT = 236
const COOKIE = 0x6382_5363
const CLIENT_MAC_AT = 28

const MASK = 1
const ROUTER = 3
const DNS = 6
const REQUESTED_IP = 50
const LEASE_TIME = 51
const MESSAGE_TYPE = 53
const SERVER_ID = 54
const END = 255

export const DISCOVER = 1
const OFFER = 2
export const REQUEST = 3
const ACK = 5
const NAK = 6

const LEASE_SECONDS = 86_400

export interface DhcpQuestion {
  readonly type: number
  readonly mac: Mac
  /** What the client has, or wants to have again. */
  readonly requested?: Ipv4
  readonly bytes: Uint8Array
}

/** @returns undefined: not a client's message */
export function parseDhcp(bytes: Uint8Array): DhcpQuestion | undefined {
  if (bytes.length < OPTIONS_AT || bytes[0] !== OP_REQUEST) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (view.getUint32(COOKIE_AT) !== COOKIE) return undefined
  let type: number | undefined
  let requested = view.getUint32(12) || undefined // ciaddr
  for (let at = OPTIONS_AT; at + 1 < bytes.length && bytes[at] !== END; ) {
    if (bytes[at] === 0) {
      at++
      continue
    }
    const length = bytes[at + 1]!
    if (at + 2 + length > bytes.length) return undefined
    if (bytes[at] === MESSAGE_TYPE && length === 1) type = bytes[at + 2]
    if (bytes[at] === REQUESTED_IP && length === 4) requested = view.getUint32(at + 2)
    at += 2 + length
  }
  if (type === undefined) return undefined
  return { type, mac: bytes.slice(CLIENT_MAC_AT, CLIENT_MAC_AT + 6), requested, bytes }
}

/** @param address what the client gets; undefined: no, not what it asked for */
export function dhcpAnswer(
  question: DhcpQuestion,
  network: { readonly host: Ipv4; readonly dns: Ipv4; readonly mask: Ipv4 },
  address: Ipv4 | undefined,
): Uint8Array {
  const answer = new Uint8Array(300)
  const view = new DataView(answer.buffer)
  answer.set(question.bytes.subarray(0, OPTIONS_AT - 4 - 192)) // up to the server's name, which stays empty
  view.setUint8(0, OP_REPLY)
  view.setUint32(12, 0)
  view.setUint32(16, address ?? 0)
  view.setUint32(20, network.host)
  view.setUint32(COOKIE_AT, COOKIE)
  let at = OPTIONS_AT
  const option = (code: number, value: number, bytes: 1 | 4) => {
    view.setUint8(at, code)
    view.setUint8(at + 1, bytes)
    if (bytes === 1) view.setUint8(at + 2, value)
    else view.setUint32(at + 2, value)
    at += 2 + bytes
  }
  option(MESSAGE_TYPE, address === undefined ? NAK : question.type === DISCOVER ? OFFER : ACK, 1)
  option(SERVER_ID, network.host, 4)
  if (address !== undefined) {
    option(MASK, network.mask, 4)
    option(ROUTER, network.host, 4)
    option(DNS, network.dns, 4)
    option(LEASE_TIME, LEASE_SECONDS, 4)
  }
  view.setUint8(at, END)
  return answer
}
