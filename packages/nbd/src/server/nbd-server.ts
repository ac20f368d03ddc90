import {
  type Channel,
  type ChannelLayer,
  FerryError,
  isLoopback,
  type Listener,
  type Logger,
  silentLogger,
} from '@ferryvm/core'
import { NbdRefusedError } from '../errors.ts'
import { MAX_STRING_BYTES } from '../protocol.ts'
import { encodeText } from '../wire.ts'
import type { NbdExport } from './nbd-export.ts'
import { negotiateAsServer } from './negotiate.ts'
import { serveRequests } from './transmission.ts'

export interface NbdServerOptions {
  readonly log?: Logger
  /** Clients begin with STARTTLS, or get nothing. */
  readonly tls?: ChannelLayer
  /** From where clients may come without TLS. Default `loopback`: from this host. */
  readonly plaintextFrom?: 'loopback' | 'anywhere'
  /** Clients at a time; 0: any number. Default 100. */
  readonly maxConnections?: number
  /** Who has not chosen an export by then is cut off. Default 10000 ms. */
  readonly handshakeTimeoutMs?: number
}

interface Client {
  readonly channel: Channel
  /** Chosen, once negotiated. */
  exportName?: string
}

/** Serves disks to clients of the NBD protocol. */
export class NbdServer {
  readonly #options: NbdServerOptions
  readonly #log: Logger
  readonly #exports = new Map<string, NbdExport>()
  readonly #clients = new Set<Client>()
  readonly #listeners = new Set<AsyncDisposable>()
  readonly #closed = new AbortController()

  constructor(options: NbdServerOptions = {}) {
    this.#options = options
    this.#log = options.log ?? silentLogger
  }

  get exports(): readonly NbdExport[] {
    return [...this.#exports.values()]
  }

  /** Clients that use that export. */
  connections(name: string): number {
    return [...this.#clients].filter(({ exportName }) => exportName === name).length
  }

  /** @throws NbdRefusedError the name is taken, or too long */
  add(exported: NbdExport): void {
    const { name, description = '' } = exported
    if (this.#exports.has(name)) throw new NbdRefusedError(name, 'there is one of that name already')
    if (encodeText(name).length > MAX_STRING_BYTES || encodeText(description).length > MAX_STRING_BYTES)
      throw new NbdRefusedError(name.slice(0, 64), `names and descriptions have at most ${MAX_STRING_BYTES} bytes`)
    this.#exports.set(name, exported)
  }

  /** Nobody finds it any more, and whoever uses it is cut off. Resolves when the disk is not used any more. */
  async remove(name: string): Promise<void> {
    this.#exports.delete(name)
    await this.#drop((client) => client.exportName === name, new NbdRefusedError(name, 'it was taken away'))
  }

  /** Serves who comes, until the listener or this server is closed. */
  async accept(listener: Listener<unknown>): Promise<void> {
    this.#listeners.add(listener)
    try {
      for await (const channel of listener) void this.serve(channel)
    } finally {
      this.#listeners.delete(listener)
      await listener[Symbol.asyncDispose]()
    }
  }

  /** Serves one client; resolves when it is gone. What was wrong with it is logged. */
  async serve(channel: Channel): Promise<void> {
    const client: Client = { channel }
    const work = this.#serve(client)
    this.#work.set(client, work)
    await work
    this.#work.delete(client)
  }
  readonly #work = new Map<Client, Promise<void>>()

  /** Stops listening and cuts everybody off. Resolves when no disk is used any more. */
  async close(): Promise<void> {
    this.#closed.abort(new Error('the NBD server was stopped'))
    this.#exports.clear()
    for (const listener of this.#listeners) await listener[Symbol.asyncDispose]()
    await this.#drop(() => true, new Error('the NBD server was stopped'))
  }

  async #drop(which: (client: Client) => boolean, why: Error): Promise<void> {
    const dropped = [...this.#clients].filter(which)
    await Promise.all(
      dropped.map(async (client) => {
        await client.channel.close(why).catch(() => {})
        await this.#work.get(client)
      }),
    )
  }

  async #serve(client: Client): Promise<void> {
    const { channel } = client
    const { maxConnections = 100, handshakeTimeoutMs = 10_000, plaintextFrom = 'loopback', tls } = this.#options
    const refused = this.#closed.signal.aborted
      ? 'the server is stopped'
      : maxConnections > 0 && this.#clients.size >= maxConnections
        ? `there are ${maxConnections} already`
        : !tls && plaintextFrom === 'loopback' && channel.remoteAddress && !isLoopback(channel.remoteAddress)
          ? 'it is not encrypted; give both ends TLS credentials, or allow plaintext here'
          : undefined
    if (refused !== undefined) {
      this.#log.warn(`an NBD client${from(channel)} was refused: ${refused}`)
      await channel.close(new Error(refused)).catch(() => {})
      return
    }
    this.#clients.add(client)
    const timer = setTimeout(
      () => void channel.close(new Error(`no export was chosen in ${handshakeTimeoutMs} ms`)).catch(() => {}),
      handshakeTimeoutMs,
    )
    let used = channel
    try {
      const session = await negotiateAsServer({
        channel,
        exports: () => this.exports,
        tls,
        context: { signal: this.#closed.signal, log: this.#log },
      })
      clearTimeout(timer)
      if (!session) return
      used = session.channel
      // It may have been taken away meanwhile.
      if (this.#exports.get(session.exported.name) !== session.exported) return
      client.exportName = session.exported.name
      await serveRequests(session, this.#log)
    } catch (error) {
      const gone = FerryError.isInstance(error) && error.code === 'FERRY_CHANNEL_CLOSED'
      const message = error instanceof Error ? error.message : String(error)
      if (gone) this.#log.debug('an NBD client is gone', { error })
      else this.#log.warn(`an NBD client${from(channel)} was cut off: ${message}`, { error })
    } finally {
      clearTimeout(timer)
      await used.close().catch(() => {})
      this.#clients.delete(client)
    }
  }
}

const from = ({ remoteAddress }: Channel): string => (remoteAddress === undefined ? '' : ` from ${remoteAddress}`)
