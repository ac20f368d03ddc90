import type { Logger } from '../device/logger.ts'
import type { RamBlock } from '../memory/guest-memory.ts'
import type { Channel, ChannelFeature } from './channel.ts'

export interface TransportContext {
  readonly signal: AbortSignal
  readonly log: Logger
}

/** Third parties write connect, listen and a parser; `Address` is what the URI after "scheme:" parses to. */
export interface Transport<Address = unknown> {
  /** As in `migrate tcp:host:4444`. */
  readonly scheme: string
  readonly features: ReadonlySet<ChannelFeature>
  parseAddress(text: string): Address
  formatAddress?(address: Address): string
  /** Called once per channel: multifd calls it n times. */
  connect(address: Address, ctx: TransportContext): Promise<Channel>
  /** Rate is a handful per migration, so AsyncIterable is right here although it is wrong for bytes. */
  listen(address: Address, ctx: TransportContext): Promise<Listener<Address>>
  /** RDMA-like transports move guest pages beside the stream. */
  readonly ramHooks?: RamHooks
}
export interface Listener<Address> extends AsyncIterable<Channel>, AsyncDisposable {
  /** The real one, with the port that an ephemeral request got. */
  readonly address: Address
}
export interface RamHooks {
  registerRam(blocks: readonly RamBlock[]): Promise<void>
  beforeIterate(round: number): Promise<void>
  afterIterate(round: number): Promise<void>
  /** 'declined' sends the page on the stream instead. */
  savePage(block: RamBlock, offset: number, bytes: number): 'queued' | 'declined'
}
/** TLS, throttling, recording: something that wraps any channel. `withLayer(socket(), tls(creds))` is again a Transport. */
export interface ChannelLayer {
  readonly name: string
  wrap(channel: Channel, role: 'client' | 'server', ctx: TransportContext): Promise<Channel>
}
