import { FerryError } from '../errors/ferry-error.ts'
import type { Channel } from './channel.ts'
import { layeredListener } from './layered-listener.ts'
import type { ChannelLayer, Transport, TransportContext } from './transport.ts'

/** Checks and freezes. @throws TransportDefinitionError the scheme cannot stand before a colon */
export function defineTransport<A>(transport: Transport<A>): Transport<A> {
  if (!/^[a-z][a-z0-9+.-]*$/.test(transport.scheme)) {
    throw new TransportDefinitionError(`'${transport.scheme}' is not a URI scheme`)
  }
  return Object.freeze(transport)
}

export class TransportDefinitionError extends FerryError {
  readonly code = 'FERRY_TRANSPORT_DEFINITION'
}

/**
 * A transport whose channels are wrapped: the first layer lies next to the wire. Features are what the outermost
 * channel has. Its channels have no `ramHooks`: pages beside the stream would go around the layers.
 */
export function withLayer<A>(transport: Transport<A>, ...layers: readonly ChannelLayer[]): Transport<A> {
  if (layers.length === 0) return transport
  async function wrap(inner: Channel, role: 'client' | 'server', ctx: TransportContext): Promise<Channel> {
    let channel = inner
    try {
      for (const layer of layers) {
        ctx.signal.throwIfAborted()
        channel = await layer.wrap(channel, role, ctx)
      }
      return channel
    } catch (error) {
      await channel.close(error instanceof Error ? error : new Error(String(error)))
      throw error
    }
  }
  return defineTransport<A>({
    scheme: transport.scheme,
    // fd-pass and the like do not survive a layer that changes bytes.
    features: new Set([...transport.features].filter((f) => f === 'shutdown' || f === 'multi-channel')),
    parseAddress: (text) => transport.parseAddress(text),
    formatAddress: transport.formatAddress && ((address) => transport.formatAddress!(address)),
    connect: async (address, ctx) => wrap(await transport.connect(address, ctx), 'client', ctx),
    listen: async (address, ctx) =>
      layeredListener(
        await transport.listen(address, ctx),
        (channel, context) => wrap(channel, 'server', context),
        ctx,
      ),
  })
}
