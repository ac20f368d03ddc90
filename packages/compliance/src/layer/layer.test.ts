import { type Channel, type ChannelLayer, FerryError, withLayer } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { freshContext } from '../transport/transport-compliance.ts'
import { layerCompliance } from './index.ts'
import { loopTransport } from './loop-transport.ts'

const mask = (): ChannelLayer => ({
  name: 'mask',
  async wrap(channel): Promise<Channel> {
    return {
      features: new Set(['shutdown']),
      async read(into) {
        const count = await channel.read(into)
        for (let i = 0; i < count; i++) into[i]! ^= 0x5a
        return count
      },
      write: async (buffers) => channel.write(buffers.map((buffer) => Uint8Array.from(buffer, (byte) => byte ^ 0x5a))),
      shutdown: (how) => channel.shutdown(how),
      close: (reason) => channel.close(reason),
    }
  },
})

describe('a layer that changes every byte', () => {
  layerCompliance({ describe, it }, { create: mask })
})

class HandshakeError extends FerryError {
  readonly code = 'FERRY_TEST_HANDSHAKE'
}

describe('withLayer', () => {
  it('one refused client does not end the listener, and closes the channel below', async () => {
    let refuse = true
    const picky: ChannelLayer = {
      name: 'picky',
      async wrap(channel, role) {
        if (role === 'server' && refuse) {
          refuse = false
          throw new HandshakeError('not you')
        }
        return channel
      },
    }
    const transport = withLayer(loopTransport(), picky)
    const { context } = freshContext()
    await using listener = await transport.listen('x', context)
    const accepted = listener[Symbol.asyncIterator]().next()
    const refused = await transport.connect('x', context)
    const welcome = await transport.connect('x', context)
    const { value: server } = await accepted
    expect(await refused.read(new Uint8Array(1))).toBe(0)
    await server.write([Uint8Array.of(7)])
    const into = new Uint8Array(1)
    expect(await welcome.read(into)).toBe(1)
    expect(into[0]).toBe(7)
  })
})
