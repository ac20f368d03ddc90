import { describe, expect, it } from 'vitest'
import { BROADCAST_IP, BROADCAST_MAC, checksum, ethernet, ipv4, TYPE_ARP, TYPE_IPV4, udp } from './packets.ts'
import { UserNet } from './user-net.ts'

const GUEST = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56)
const HOST_IP = 0x0a00_0202
const GUEST_IP = 0x0a00_020f
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

function plug() {
  const network = new UserNet()
  const received: Uint8Array[] = []
  network.onReceive((frame) => void received.push(frame))
  return { network, received }
}

/** A client's message, with options as [code, bytes]. Spec: RFC 2131, section 2. */
function dhcp(mac: Uint8Array, ...options: [number, number[]][]): Uint8Array {
  const message = new Uint8Array(300)
  const view = new DataView(message.buffer)
  message.set([1, 1, 6, 0])
  view.setUint32(4, 0xcafe_f00d)
  message.set(mac, 28)
  view.setUint32(236, 0x6382_5363)
  message.set([...options.flatMap(([code, bytes]) => [code, bytes.length, ...bytes]), 255], 240)
  return ethernet(BROADCAST_MAC, mac, TYPE_IPV4, ipv4(0, BROADCAST_IP, 17, 1, udp(68, 67, message)))
}
/** What a server says, from a frame: message type and address. */
function answerOf(frame: Uint8Array) {
  const message = frame.subarray(14 + 20 + 8)
  const view = new DataView(message.buffer, message.byteOffset)
  expect([message[0], view.getUint32(4)]).toEqual([2, 0xcafe_f00d])
  return { type: message[242], address: view.getUint32(16), options: hex(message.subarray(240, 276)) }
}

describe('the user network', () => {
  it('says where its gateway is, and nothing of others', () => {
    const { network, received } = plug()
    const question = (target: number[]) => [0, 1, 8, 0, 6, 4, 0, 1, ...GUEST, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, ...target]
    network.send(ethernet(BROADCAST_MAC, GUEST, TYPE_ARP, Uint8Array.from(question([10, 0, 2, 99]))))
    expect(received).toEqual([])
    network.send(ethernet(BROADCAST_MAC, GUEST, TYPE_ARP, Uint8Array.from(question([10, 0, 2, 2]))))
    expect(hex(received[0]!.subarray(0, 42))).toBe(
      '52540012345652550a0002020806' + '0001080006040002' + '52550a0002020a000202' + '5254001234560a00020f',
    )
  })

  it('answers to pings of the gateway', () => {
    const { network, received } = plug()
    const echo = Uint8Array.from([8, 0, 0, 0, 0x12, 0x34, 0, 1, ...new TextEncoder().encode('hello there')])
    new DataView(echo.buffer).setUint16(2, checksum(echo))
    network.send(ethernet(BROADCAST_MAC, GUEST, TYPE_IPV4, ipv4(GUEST_IP, HOST_IP, 1, 7, echo)))
    network.send(ethernet(BROADCAST_MAC, GUEST, TYPE_IPV4, ipv4(GUEST_IP, 0x0808_0808, 1, 7, echo)))
    expect(received.length, 'there is no way out').toBe(1)
    const packet = received[0]!.subarray(14)
    expect(checksum(packet.subarray(0, 20))).toBe(0)
    const answer = packet.subarray(20, 20 + echo.length)
    expect([answer[0], checksum(answer), hex(answer.subarray(4))]).toEqual([0, 0, hex(echo.subarray(4))])
  })

  it('hands out addresses, the same to who asks again, until there are none', () => {
    const { network, received } = plug()
    network.send(dhcp(GUEST, [53, [1]]))
    expect(answerOf(received[0]!)).toMatchObject({ type: 2, address: GUEST_IP })
    expect(answerOf(received[0]!).options, 'mask, router, name server, lease').toBe(
      '35010236040a000202' + '0104ffffff00' + '03040a000202' + '06040a000203' + '330400015180' + 'ff0000',
    )
    network.send(dhcp(GUEST, [53, [3]], [50, [10, 0, 2, 15]]))
    expect(answerOf(received[1]!)).toMatchObject({ type: 5, address: GUEST_IP })
    network.send(dhcp(Uint8Array.of(2, 0, 0, 0, 0, 1), [53, [3]], [50, [10, 0, 2, 15]]))
    expect(answerOf(received[2]!), 'taken').toMatchObject({ type: 6, address: 0 })
    for (let i = 1; i <= 16; i++) network.send(dhcp(Uint8Array.of(2, 0, 0, 0, 0, i), [53, [1]]))
    expect(received.length).toBe(3 + 15)
    expect(network.state.bootp_clients.map((c) => c.allocated)).toEqual(Array(16).fill(1))
    network.send(dhcp(GUEST, [53, [1]]))
    expect(answerOf(received.at(-1)!).address).toBe(GUEST_IP)
  })

  it('is quiet about what is cut, wrong or strange', () => {
    const { network, received } = plug()
    const good = [
      dhcp(GUEST, [53, [1]]),
      ethernet(BROADCAST_MAC, GUEST, TYPE_IPV4, ipv4(GUEST_IP, HOST_IP, 1, 7, Uint8Array.of(8, 0, 0, 0, 0, 0, 0, 0))),
    ]
    let x = 7
    for (const frame of good) {
      for (let at = 0; at < frame.length; at++) {
        network.send(frame.slice(0, at))
        const bytes = frame.slice()
        bytes[at]! ^= (x = (x * 31 + 11) & 0xff) | 1
        network.send(bytes)
      }
    }
    expect(received.every((frame) => frame.length >= 42 && frame.length < 1600)).toBe(true)
  })
})
