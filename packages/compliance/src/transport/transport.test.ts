import { createServer, connect as dial, type Socket } from 'node:net'
import {
  createChannelPair,
  defineTransport,
  FerryError,
  fromMessagePort,
  fromWebStreams,
  type Transport,
} from '@ferryvm/core'
import { fromDuplex } from '@ferryvm/core/node'
import { describe, expect, it } from 'vitest'
import { loopTransport } from '../layer/loop-transport.ts'
import { readBytes } from './channel-cases.ts'
import { channelCompliance, faultyChannel, transportCompliance } from './index.ts'

describe('createChannelPair', () => {
  channelCompliance({ describe, it }, { pair: () => createChannelPair() })
})

describe('createChannelPair without a buffer', () => {
  channelCompliance({ describe, it }, { pair: () => createChannelPair({ bufferBytes: 0 }) })
})

describe('fromWebStreams', () => {
  channelCompliance(
    { describe, it },
    {
      pair() {
        const [there, back] = [new TransformStream<Uint8Array>(), new TransformStream<Uint8Array>()]
        return [
          fromWebStreams({ readable: back.readable, writable: there.writable }),
          fromWebStreams({ readable: there.readable, writable: back.writable }),
        ]
      },
    },
  )
})

describe('fromMessagePort', () => {
  channelCompliance(
    { describe, it },
    {
      pair() {
        const { port1, port2 } = new MessageChannel()
        return [fromMessagePort(port1), fromMessagePort(port2)]
      },
    },
  )
})

describe('faultyChannel without faults', () => {
  channelCompliance(
    { describe, it },
    {
      pair() {
        const [a, b] = createChannelPair()
        return [faultyChannel(a, { delayMs: 0 }), faultyChannel(b, { readAtMost: 5000 })]
      },
    },
  )
})

describe('a loop transport', () => {
  let next = 0
  const transport = loopTransport()
  transportCompliance(
    { describe, it },
    { create: () => transport, address: () => `a${next++}`, invalidAddresses: [''] },
  )
})

class PortError extends FerryError {
  readonly code = 'FERRY_TEST_PORT'
}

/** The smallest transport over real sockets, for `fromDuplex`. */
const tcp = (): Transport<number> =>
  defineTransport<number>({
    scheme: 'tcp',
    features: new Set(['shutdown']),
    parseAddress(text) {
      if (!/^\d+$/.test(text)) throw new PortError(`'${text}' is no port`)
      return Number(text)
    },
    formatAddress: String,
    async connect(port, { signal }) {
      signal.throwIfAborted()
      const socket = dial({ port, host: '127.0.0.1', allowHalfOpen: true })
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve)
        socket.once('error', (cause) => reject(new PortError('no connection', { cause })))
      })
      return fromDuplex(socket)
    },
    async listen(port) {
      const waiting: Socket[] = []
      let wake = () => {}
      let closed = false
      const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
        waiting.push(socket)
        wake()
      })
      await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
      return {
        address: (server.address() as { port: number }).port,
        async *[Symbol.asyncIterator]() {
          while (!closed || waiting.length > 0) {
            const socket = waiting.shift()
            if (socket) yield fromDuplex(socket)
            else
              await new Promise<void>((resolve) => {
                wake = resolve
              })
          }
        },
        async [Symbol.asyncDispose]() {
          closed = true
          server.close()
          wake()
        },
      }
    },
  })

describe('fromDuplex over TCP', () => {
  transportCompliance({ describe, it }, { create: tcp, address: () => '0', invalidAddresses: ['x', '-1'] })
})

describe('faultyChannel', () => {
  const pair = async (faults: Parameters<typeof faultyChannel>[1]) => {
    const [a, b] = createChannelPair()
    return [a, faultyChannel(b, faults)] as const
  }
  const bytes = Uint8Array.of(2, 4, 6, 8, 10)

  it('cuts after so many bytes read, and the peer notices', async () => {
    const [a, b] = await pair({ cutReadAfter: 3 })
    await a.write([bytes])
    expect([...(await readBytes(b, 3))]).toEqual([2, 4, 6])
    await expect(b.read(new Uint8Array(1))).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
    await expect(a.write([bytes])).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
  })

  it('cuts after so many bytes written', async () => {
    const [a, b] = await pair({ cutWriteAfter: 3 })
    await expect(b.write([bytes])).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
    expect([...(await readBytes(a, 3))]).toEqual([2, 4, 6])
    expect(await a.read(new Uint8Array(1))).toBe(0)
  })

  it('ends, corrupts, stalls', async () => {
    const [a, b] = await pair({ endReadAfter: 2 })
    await a.write([bytes])
    await readBytes(b, 2)
    expect(await b.read(new Uint8Array(9))).toBe(0)

    const [c, d] = await pair({ corruptReadAt: 1 })
    await c.write([bytes])
    expect([...(await readBytes(d, 5))]).toEqual([2, 5, 6, 8, 10])

    const [e, f] = await pair({ stallReadAfter: 5 })
    await e.write([bytes, bytes])
    await readBytes(f, 5)
    const stalled = f.read(new Uint8Array(1))
    const outcome = await Promise.race([stalled, new Promise((resolve) => setTimeout(resolve, 20, 'stalled'))])
    expect(outcome).toBe('stalled')
    await f.close(new Error('timeout'))
    await expect(stalled).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
  })
})
