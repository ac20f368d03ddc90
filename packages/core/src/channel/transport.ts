import type { Logger } from '../device/logger.ts'
import type { Channel, ChannelFeature } from './channel.ts'

export interface TransportContext {
  readonly signal: AbortSignal
  readonly log: Logger
  /** Names of those that are on for the migration whose channel it is, as QMP spells them. Absent: nobody says. */
  readonly capabilities?: ReadonlySet<string>
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
}
export interface Listener<Address> extends AsyncIterable<Channel>, AsyncDisposable {
  /** The real one, with the port that an ephemeral request got. */
  readonly address: Address
}
/** TLS, throttling, recording: something that wraps any channel. `withLayer(socket(), tls(creds))` is again a Transport. */
export interface ChannelLayer {
  readonly name: string
  wrap(channel: Channel, role: 'client' | 'server', ctx: TransportContext): Promise<Channel>
}
