import { createServer, type Socket } from 'node:net'
import type { NetBackend } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { NetHub } from '../hub.ts'
import { DatagramNet } from './datagram-net.ts'
import { StreamNet } from './stream-net.ts'

const host = '127.0.0.1'
const frame = (length: number, fill: number) => new Uint8Array(length).fill(fill)

/** Frames that come, in order. */
function inbox(network: NetBackend) {
  const frames: Uint8Array[] = []
  network.onReceive((f) => void frames.push(f))
  return {
    frames,
    async has(count: number) {
      for (let i = 0; frames.length < count; i++) {
        if (i > 2000) throw new Error(`${frames.length} frames of ${count} came`)
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    },
  }
}

describe('a network on a stream socket', () => {
  it('carries frames of every length, both ways', async () => {
    const server = await StreamNet.open({ address: { host, port: 0 }, server: true })
    const client = await StreamNet.open({ address: { host, port: server.port } })
    const [there, here] = [inbox(server), inbox(client)]
    const lengths = [14, 60, 1514, 9000, 65_550]
    for (const length of lengths) await client.send(frame(length, 1))
    await there.has(lengths.length)
    expect(there.frames.map((f) => f.length)).toEqual(lengths)
    await server.send(frame(64, 2))
    await here.has(1)
    expect(here.frames).toEqual([frame(64, 2)])
    await client.close()
    await server.close()
  })

  it('uses the framing of QEMU, and hangs up on who does not', async () => {
    let peer: Socket | undefined
    const listener = createServer((socket) => void (peer = socket.on('error', () => {})))
    await new Promise<void>((resolve) => listener.listen(0, host, resolve))
    const { port } = listener.address() as { port: number }
    const warnings: string[] = []
    const log = { debug() {}, guestError() {}, warn: (message: string) => void warnings.push(message) }
    const net = await StreamNet.open({ address: { host, port }, log })
    const received = inbox(net)
    while (!peer) await new Promise((resolve) => setTimeout(resolve, 5))
    const sent = new Promise<Buffer>((resolve) => peer!.once('data', resolve))
    void net.send(Uint8Array.of(1, 2, 3))
    expect([...(await sent)]).toEqual([0, 0, 0, 3, 1, 2, 3])
    // Cut anywhere, two at once.
    for (const part of [[0, 0], [0, 2, 9], [8, 0, 0, 0, 1, 7, 0, 0, 0, 1], [6]]) {
      peer.write(Uint8Array.from(part))
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    await received.has(3)
    expect(received.frames.map((f) => [...f])).toEqual([[9, 8], [7], [6]])
    const closed = new Promise((resolve) => peer!.once('close', resolve))
    peer.write('GET / HTTP/1.1\r\n\r\n')
    await closed
    expect(warnings.join()).toContain("does not speak QEMU's framing")
    await net.close()
    listener.close()
  })

  it('tries again when it is told to, and says at once that nobody is there when it is not', async () => {
    const first = await StreamNet.open({ address: { host, port: 0 }, server: true })
    const { port } = first
    await first.close()
    await expect(StreamNet.open({ address: { host, port } })).rejects.toThrow('ECONNREFUSED')
    const net = await StreamNet.open({ address: { host, port }, reconnectMs: 10 })
    const second = await StreamNet.open({ address: { host, port }, server: true })
    const received = inbox(second)
    while (received.frames.length === 0) {
      await net.send(frame(60, 3))
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    await net.close()
    await second.close()
  })
})

describe('a network of datagrams', () => {
  it('carries frames between two places', async () => {
    const a = await DatagramNet.open({ local: { host, port: 0 }, remote: { host, port: 9 } })
    const b = await DatagramNet.open({ local: { host, port: 0 }, remote: { host, port: a.port } })
    const received = inbox(a)
    b.send(frame(1514, 4))
    await received.has(1)
    expect(received.frames[0]).toEqual(frame(1514, 4))
    await a.close()
    await b.close()
  })
})

describe('a hub', () => {
  it('repeats what one port says to all others, also to those of a network that is plugged in', async () => {
    const hub = new NetHub()
    const [a, b] = [hub.port(), hub.port()]
    const server = await StreamNet.open({ address: { host, port: 0 }, server: true })
    const plugged = hub.attach(server)
    const outside = await StreamNet.open({ address: { host, port: server.port } })
    const boxes = [a, b, outside].map(inbox)
    await outside.send(frame(60, 5))
    await Promise.all([boxes[0]!.has(1), boxes[1]!.has(1)])
    a.send(frame(60, 6))
    await boxes[2]!.has(1)
    expect(boxes.map(({ frames }) => frames.map((f) => f[0]))).toEqual([[5], [5, 6], [6]])
    plugged[Symbol.dispose]()
    await outside.close()
    await server.close()
  })
})
