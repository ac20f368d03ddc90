import {
  type Channel,
  FerryError,
  type Listener,
  silentLogger,
  type Transport,
  type TransportContext,
} from '@ferryvm/core'
import { check, checkSameBytes, failureOf, pattern, type TestRunner, within } from '../runner.ts'
import { channelCompliance, readBytes } from './channel-cases.ts'
import { faultCompliance } from './fault-cases.ts'

export interface TransportComplianceOptions<Address> {
  create(): Transport<Address>
  /** An address to listen on, as a user writes it after `scheme:`; a new one, or an ephemeral one, each time. */
  address(): string | Promise<string>
  /** Texts that are no address. */
  readonly invalidAddresses?: readonly string[]
}

/** The contract of a transport and of the channels it makes. */
export function transportCompliance<A>(runner: TestRunner, options: TransportComplianceOptions<A>): void {
  const { describe, it } = runner

  async function connectedPair(): Promise<readonly [Channel, Channel]> {
    const transport = options.create()
    const { context } = freshContext()
    const listener = await transport.listen(transport.parseAddress(await options.address()), context)
    try {
      const [client, server] = await Promise.all([transport.connect(listener.address, context), accept(listener)])
      return [client, server]
    } finally {
      await listener[Symbol.asyncDispose]()
    }
  }

  async function listening<T>(run: (t: Transport<A>, l: Listener<A>, c: TransportContext) => Promise<T>): Promise<T> {
    const transport = options.create()
    const { context } = freshContext()
    const listener = await transport.listen(transport.parseAddress(await options.address()), context)
    try {
      return await run(transport, listener, context)
    } finally {
      await listener[Symbol.asyncDispose]()
    }
  }

  describe('a transport', () => {
    it('has a scheme and frozen features', () => {
      const transport = options.create()
      check(/^[a-z][a-z0-9+.-]*$/.test(transport.scheme), `'${transport.scheme}' can stand before a colon`)
      check(transport.features instanceof Set, 'features is a set')
    })

    it('an address survives formatting and parsing', () =>
      listening(async (transport, listener) => {
        if (!transport.formatAddress) return
        const text = transport.formatAddress(listener.address)
        const again = transport.formatAddress(transport.parseAddress(text))
        check(again === text, `'${text}' became '${again}'`)
      }))

    it('refuses what is no address with an error of its own', async () => {
      for (const text of options.invalidAddresses ?? []) {
        const error = await failureOf(() => options.create().parseAddress(text), `'${text}' is no address`)
        check(FerryError.isInstance(error), `'${text}' is refused with a FerryError, not ${error}`)
      }
    })

    it('its channels have no feature that it did not declare', async () => {
      const transport = options.create()
      const [client, server] = await connectedPair()
      for (const channel of [client, server]) {
        for (const feature of channel.features) check(transport.features.has(feature), `'${feature}' is declared`)
      }
      await Promise.all([client.close(), server.close()])
    })

    it('several connections at once are several channels', () =>
      listening(async (transport, listener, context) => {
        const count = 4
        const accepting = acceptMany(listener, count)
        const clients = await Promise.all(
          Array.from({ length: count }, () => transport.connect(listener.address, context)),
        )
        const servers = await within(accepting, 'all connections arrive')
        await Promise.all(clients.map((client, i) => client.write([Uint8Array.of(i)])))
        const seen = await Promise.all(servers.map(async (server) => (await readBytes(server, 1))[0]!))
        check([...seen].sort().join() === '0,1,2,3', `each has its own bytes, not ${seen}`)
        await Promise.all([...clients, ...servers].map((channel) => channel.close()))
      }))

    it('a connection made before it is accepted is not lost', () =>
      listening(async (transport, listener, context) => {
        const connecting = transport.connect(listener.address, context)
        await new Promise((resolve) => setTimeout(resolve, 30))
        const server = await within(accept(listener), 'it is accepted later')
        const client = await connecting
        const [bytes] = await Promise.all([readBytes(server, 100), client.write([pattern(100)])])
        checkSameBytes(bytes, pattern(100), 'its bytes')
        await Promise.all([client.close(), server.close()])
      }))

    it('connecting to nobody is an error of ours, not a hang', async () => {
      const transport = options.create()
      const address = await listening(async (_, listener) => listener.address)
      const error = await within(
        failureOf(() => transport.connect(address, freshContext().context), 'nobody listens there'),
        'connecting to nobody fails',
      )
      check(FerryError.isInstance(error), `it fails with a FerryError, not ${error}`)
    })

    it('an aborted signal stops connect', () =>
      listening(async (transport, listener) => {
        const { context, controller } = freshContext()
        controller.abort(new Error('no more'))
        await within(
          failureOf(() => transport.connect(listener.address, context), 'the signal was aborted'),
          'connect ends',
        )
      }))

    it('a disposed listener ends its iteration and frees its address', async () => {
      const transport = options.create()
      const { context } = freshContext()
      const listener = await transport.listen(transport.parseAddress(await options.address()), context)
      const iterating = listener[Symbol.asyncIterator]().next()
      await listener[Symbol.asyncDispose]()
      const step = await within(iterating, 'the iteration ends')
      check(step.done, 'the iteration is done')
      const again = await transport.listen(listener.address, context)
      await again[Symbol.asyncDispose]()
    })
  })

  channelCompliance(runner, { pair: connectedPair })
  faultCompliance(runner, { pair: connectedPair })
}

export function freshContext(): { context: TransportContext; controller: AbortController } {
  const controller = new AbortController()
  return { context: { signal: controller.signal, log: silentLogger }, controller }
}

async function accept(listener: Listener<unknown>): Promise<Channel> {
  return (await acceptMany(listener, 1))[0]!
}

async function acceptMany(listener: Listener<unknown>, count: number): Promise<Channel[]> {
  const channels: Channel[] = []
  const iterator = listener[Symbol.asyncIterator]()
  while (channels.length < count) {
    const { done, value } = await iterator.next()
    check(!done, 'the listener gives a channel')
    channels.push(value)
  }
  return channels
}
