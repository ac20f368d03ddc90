import { type Channel, type ChannelLayer, createChannelPair, FerryError, withLayer } from '@ferryvm/core'
import { check, failureOf, pattern, type TestRunner, within } from '../runner.ts'
import { faultyChannel } from '../transport/faulty-channel.ts'
import { freshContext, transportCompliance } from '../transport/transport-compliance.ts'
import { loopTransport } from './loop-transport.ts'

export interface LayerComplianceOptions {
  create(): ChannelLayer
  /** The layer promises that changed bytes are an error (TLS does; a rate limit does not). Default false. */
  readonly detectsCorruption?: boolean
  /** Bytes after which one is corrupted, past the handshake. Default 20000. */
  readonly corruptAt?: number
}

/** A wrapped transport must still be one: the transport kit runs over it, and then what a bad wire does to the layer. */
export function layerCompliance(runner: TestRunner, options: LayerComplianceOptions): void {
  const { describe, it } = runner
  const transport = withLayer(loopTransport(), options.create())
  let next = 0
  transportCompliance(runner, { create: () => transport, address: () => `case-${next++}` })

  async function wrapped(bend: (channel: Channel) => Channel): Promise<[Channel, Channel]> {
    const [a, b] = createChannelPair()
    const { context } = freshContext()
    return Promise.all([options.create().wrap(a, 'client', context), options.create().wrap(bend(b), 'server', context)])
  }

  describe('a layer over a bad wire', () => {
    it('works when bytes come one at a time', async () => {
      const [a, b] = await within(
        wrapped((channel) => faultyChannel(channel, { readAtMost: 1 })),
        'the handshake',
      )
      const sent = pattern(500)
      const writing = a.write([sent])
      const received: number[] = []
      while (received.length < sent.length) {
        const into = new Uint8Array(100)
        const count = await within(b.read(into), 'a read')
        check(count > 0, 'the stream goes on')
        received.push(...into.subarray(0, count))
      }
      check(
        sent.every((byte, i) => byte === received[i]),
        'the bytes arrive unchanged',
      )
      await writing
      await Promise.all([a.close(), b.close()])
    })

    it('a connection that is cut in the handshake or later is an error, never a hang', async () => {
      for (const cutReadAfter of [0, 1, 10, 100, 5000]) {
        const error = await within(
          failureOf(async () => {
            const [a, b] = await wrapped((channel) => faultyChannel(channel, { cutReadAfter }))
            const writing = Promise.resolve(a.write([pattern(100_000)])).catch(() => {})
            for (let total = 0; total < 100_000; ) {
              const count = await b.read(new Uint8Array(4096))
              if (count === 0) throw new Error(`ended after ${total} bytes as if that were all`)
              total += count
            }
            await writing
          }, 'the wire is cut'),
          `cut after ${cutReadAfter} bytes`,
        )
        check(FerryError.isInstance(error), `it is a FerryError, not ${error}`)
      }
    })

    if (options.detectsCorruption) {
      it('a byte changed on the wire is an error', async () => {
        const corruptReadAt = options.corruptAt ?? 20_000
        const [a, b] = await wrapped((channel) => faultyChannel(channel, { corruptReadAt }))
        const writing = Promise.resolve(a.write([pattern(200_000)])).catch(() => {})
        const error = await within(
          failureOf(async () => {
            for (let total = 0; total < 200_000; ) {
              const count = await b.read(new Uint8Array(4096))
              if (count === 0) return
              total += count
            }
          }, 'a byte was changed'),
          'the change is found',
        )
        check(FerryError.isInstance(error), `it is a FerryError, not ${error}`)
        await Promise.all([a.close(error), b.close(error), writing])
      })
    }
  })
}
