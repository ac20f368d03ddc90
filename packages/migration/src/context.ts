import {
  type BlockBackend,
  type Channel,
  type ChannelLayer,
  type Compressions,
  type GlobalState,
  isSeekable,
  type Logger,
  type Machine,
  type SectionProgress,
  type SeekableChannel,
  type StreamConfiguration,
  type StreamSettings,
  type Transport,
  withLayer,
} from '@ferryvm/core'
import type { PageContents } from './background/memory-moment.ts'
import type { BitmapMigration } from './bitmaps/bitmap-migration.ts'
import type { BlockMigration } from './block/block-migration.ts'
import type { Capabilities } from './capabilities.ts'
import type { Colo } from './colo-link.ts'
import { MigrationStateError, MigrationUriError } from './errors.ts'
import type { ForkRam } from './fork/fork-image.ts'
import { type GuardOptions, guardedListener } from './guarded-listener.ts'
import type { Parameters } from './parameters.ts'
import type { PageEncodings } from './ram/encodings.ts'
import type { RamLoader } from './ram/ram-load.ts'
import type { RamSaver } from './ram/ram-save.ts'
import type { IsZeroPage } from './ram/zero-page.ts'
import type { MigrationStatus } from './status.ts'

/** What both directions of one machine's migration share. */
export interface MigrationContext {
  readonly machine: Machine
  readonly transports: readonly Transport<any>[]
  readonly parameters: Parameters
  readonly capabilities: Capabilities
  readonly settings: Partial<StreamSettings>
  readonly uuid: Uint8Array | undefined
  readonly log: Logger
  readonly confirmCompletion: boolean
  /** See `MigrationOptions.postcopyJournal`. */
  readonly journal: string | undefined
  readonly colo: Colo | undefined
  readonly ramSaver: RamSaver
  readonly ramLoader: RamLoader
  readonly isZero: IsZeroPage
  readonly compressions: Compressions
  /** Where disks can go along in the stream. */
  readonly block: BlockMigration | undefined
  readonly bitmaps: BitmapMigration | undefined
  /** See `MigrationOptions.drives`. */
  readonly drives: readonly BlockBackend[]
  /** For a migration that begins, over a channel that may move pages itself, or hold them in places of their own. */
  encodings(channel: Channel, moment?: PageContents): PageEncodings
  readonly globalState: GlobalState
  /** The running outgoing migration's part of the RAM handler's hooks. */
  outgoing: { limited(): boolean; check(): void; synced(dirtiedPages: number, writtenPages: number): void } | undefined
  /** While a fork is made: what is saved as the `ram` section. */
  forking: ForkRam | undefined
  status(): MigrationStatus
  setStatus(status: MigrationStatus): void
  /** Keeps an error for `query-migrate`, of a migration that goes on. */
  note(error: unknown): void
  fail(error: unknown): void
  section(progress: SectionProgress): void
  /** The guest is here now: network cards say so. */
  announce(): void
}

/** Everything is written, and the other side may have the disks. @throws the disk's error; all are ours again then */
export async function giveDisks({ drives }: MigrationContext): Promise<void> {
  try {
    for (const drive of drives) await drive.inactivate?.()
  } catch (error) {
    for (const drive of drives) await drive.activate?.()
    throw error
  }
}

/** @throws the disk's error: somebody else has it */
export async function takeDisks({ drives }: MigrationContext): Promise<void> {
  for (const drive of drives) await drive.activate?.()
}

export function configurationOf({ machine, uuid, capabilities }: MigrationContext): StreamConfiguration {
  return {
    machineName: machine.name,
    uuid,
    sendUuid: capabilities.get('validate-uuid'),
    validatedCapabilities: {
      'x-ignore-shared': capabilities.get('x-ignore-shared'),
      'mapped-ram': capabilities.get('mapped-ram'),
    },
  }
}

/** Schemes that protocol.md section 7 knows, for better messages. */
const KNOWN_SCHEMES = ['tcp', 'unix', 'vsock', 'fd', 'exec', 'file', 'rdma']

/** @throws MigrationUriError, or whatever the transport's parser throws */
export function resolveUri(
  transports: readonly Transport<any>[],
  uri: string,
): { transport: Transport<any>; address: unknown } {
  const colon = uri.indexOf(':')
  if (colon <= 0) throw new MigrationUriError(uri, 'expected scheme:address, for example tcp:192.0.2.7:4444')
  const scheme = uri.slice(0, colon)
  const transport = transports.find((t) => t.scheme === scheme)
  if (!transport) {
    const known = KNOWN_SCHEMES.includes(scheme) ? 'is not available here' : 'is unknown'
    const have = transports.map((t) => `${t.scheme}:`).join(', ') || 'none'
    throw new MigrationUriError(uri, `the scheme "${scheme}" ${known} (available: ${have})`)
  }
  return { transport, address: transport.parseAddress(uri.slice(colon + 1)) }
}

/** @throws MigrationUriError the transport cannot do what a capability needs */
export function checkTransport(
  { capabilities, parameters }: MigrationContext,
  transport: Transport<any>,
  uri: string,
): void {
  if (capabilities.get('background-snapshot') && transport.scheme === 'rdma') {
    throw new MigrationUriError(uri, 'a background snapshot goes into a stream; rdma: would read pages later')
  }
  if (capabilities.get('mapped-ram')) {
    if (!transport.features.has('seekable')) throw new MigrationUriError(uri, 'mapped-ram needs a file: address')
    if (parameters.values['multifd-compression'] !== 'none' && capabilities.get('multifd')) {
      throw new MigrationUriError(uri, 'mapped-ram stores pages as they are; set multifd-compression to none')
    }
    return
  }
  if (capabilities.get('multifd') && !transport.features.has('multi-channel')) {
    throw new MigrationUriError(uri, 'multifd needs a transport with further channels, such as tcp: or unix:')
  }
}

/** Asks for the layers when a connection is made or waited for, so that a refusal is that migration's failure. */
export function withChannelLayers(
  transport: Transport<any>,
  layersOf: () => readonly ChannelLayer[],
  guard: GuardOptions,
): Transport<any> {
  const { formatAddress } = transport
  return {
    scheme: transport.scheme,
    features: transport.features,
    parseAddress: (text) => transport.parseAddress(text),
    ...(formatAddress && { formatAddress: (address: unknown) => formatAddress.call(transport, address) }),
    connect: async (address, ctx) => withLayer(transport, ...layersOf()).connect(address, ctx),
    async listen(address, ctx) {
      const layers = layersOf()
      const listener = await withLayer(transport, ...layers).listen(address, ctx)
      return layers.length > 0 ? listener : guardedListener(listener, guard, ctx)
    },
  }
}

export const uriOf = (transport: Transport<any>, address: unknown, fallback: string): string =>
  transport.formatAddress ? `${transport.scheme}:${transport.formatAddress(address)}` : fallback

/** @throws MigrationStateError a channel layer, TLS say, hides the file */
export function fileOf(
  { capabilities }: Pick<MigrationContext, 'capabilities'>,
  channel: Channel,
): SeekableChannel | undefined {
  if (!capabilities.get('mapped-ram')) return undefined
  if (isSeekable(channel)) return channel
  throw new MigrationStateError('mapped-ram works on a bare file, without TLS')
}
