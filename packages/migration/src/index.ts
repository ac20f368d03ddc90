/**
 * Live migration of a ferryvm machine: precopy and postcopy over any transport.
 *
 * ```ts
 * import { createMigration } from '@ferryvm/migration'
 * import { tcp } from '@ferryvm/transport-socket'
 *
 * const there = createMigration({ machine: destination, transports: [tcp()] })
 * const { uri, done } = await there.incoming('tcp:127.0.0.1:0')
 *
 * const here = createMigration({ machine: source, transports: [tcp()] })
 * here.on('section', ({ type, idstr, bytes }) => console.log(type, idstr, bytes))
 * await here.migrate(uri) // rejects when it failed; the guest then runs on in `source`
 * await done
 * ```
 */

export { DirtyBitmapLoadError } from './bitmaps/bitmap-load.ts'
export type { BitmapMapping, NodeMapping } from './bitmaps/bitmap-mapping.ts'
export { BlockLoadError } from './block/block-load.ts'
export type { BlockDevice } from './block/block-save.ts'
export type { Capability } from './capabilities.ts'
export { CAPABILITIES } from './capabilities.ts'
export type {
  Colo,
  ColoMode,
  ColoPrimaryLink,
  ColoReason,
  ColoSecondaryLink,
  ColoStatus,
  PageSink,
} from './colo-link.ts'
export {
  CapabilityError,
  DestinationFailedError,
  MigrationBlockedError,
  MigrationCancelledError,
  MigrationStateError,
  MigrationUriError,
  MigrationYankedError,
  MultifdError,
  ParameterError,
  ReturnPathError,
  SnapshotError,
  UnwelcomePeerError,
} from './errors.ts'
export type { Advice } from './forecast/advice.ts'
export type { MigrationForecast, Range } from './forecast/forecast.ts'
export { ForkError } from './fork/errors.ts'
export type { Fork, ForkMachineOptions, Twin } from './fork/fork-machine.ts'
export { forkMachine } from './fork/fork-machine.ts'
export type { ForkOptions, ForkPoint } from './fork/fork-point.ts'
export { forkTransport } from './fork/fork-point.ts'
export type { LazyOptions } from './incoming.ts'
export type { MigrationInfo, MigrationStatsInfo, SocketAddressInfo } from './info.ts'
export { JournalError } from './journal/journal-error.ts'
export type { ReconcileOptions, ReconcileResult } from './journal/reconcile.ts'
export { reconcile } from './journal/reconcile.ts'
export { LazySourceError } from './lazy/errors.ts'
export type {
  ChannelLayerRequest,
  IncomingOptions,
  IncomingRun,
  Migration,
  MigrationEvents,
  MigrationOptions,
  MigrationRun,
  StartOptions,
} from './migration.ts'
export { createMigration } from './migration.ts'
export type { Parameter, ParameterDefinition, ParameterValues } from './parameters.ts'
export { PARAMETERS } from './parameters.ts'
export type { RamLoadStats } from './ram/ram-load.ts'
export { RamLoader } from './ram/ram-load.ts'
export { RamLoadError } from './ram/ram-load-error.ts'
export type { RamSaverHooks, RamSaveStats, RamSource } from './ram/ram-save.ts'
export { RamSaver } from './ram/ram-save.ts'
export type { IsZeroPage } from './ram/zero-page.ts'
export { createZeroPageTest } from './ram/zero-page.ts'
export type { AnnounceSelection, AnnounceTimes } from './self-announcements.ts'
export type {
  NamedDrive,
  SnapshotListing,
  SnapshotSelection,
  Snapshots,
  SnapshotsOptions,
} from './snapshot/snapshots.ts'
export { createSnapshots } from './snapshot/snapshots.ts'
export type { MigrationStatus } from './status.ts'
export { isRunning } from './status.ts'
