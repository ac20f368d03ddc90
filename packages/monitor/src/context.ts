import type { Machine, UserObjects } from '@ferryvm/core'
import type { Migration, Snapshots } from '@ferryvm/migration'
import type { Jobs } from './jobs.ts'
import type { StorageOptions } from './storage/block-nodes.ts'
import type { Storage } from './storage/storage.ts'

/** One drive, for `query-block` and `info block`. */
export interface BlockInfo {
  readonly device: string
  /** Path of the image; absent: no medium. */
  readonly file?: string
  readonly readOnly: boolean
  /** Default `raw`. */
  readonly format?: string
  /** Default: `device`. */
  readonly node?: string
}
/** One character device, for `query-chardev`. */
export interface ChardevInfo {
  readonly label: string
  readonly filename: string
  readonly 'frontend-open': boolean
}
export interface MonitorVersion {
  readonly major: number
  readonly minor: number
  readonly micro: number
  /** Names this program and its own version. */
  readonly package: string
}

export interface MonitorOptions {
  readonly machine: Machine
  readonly migration: Migration
  /** `-name` */
  readonly name?: string
  /** As text, 8-4-4-4-12. */
  readonly uuid?: string
  readonly blocks?: () => readonly BlockInfo[]
  readonly chardevs?: () => readonly ChardevInfo[]
  /** Without it there are none, and none can be made. */
  readonly objects?: UserObjects
  /** Without them there is no savevm. */
  readonly snapshots?: Snapshots
  /** Without it disks can neither be copied nor served while the guest runs. */
  readonly storage?: StorageOptions
  /** Without it there is no x-fork. */
  readonly fork?: () => Promise<ForkReply>
  /** Clients decide by it what the protocol can do; the default is the version whose protocol this is. */
  readonly version?: MonitorVersion
  /**
   * A guest that was asked for with `migrate-incoming` could not be loaded, and the command did not say
   * `exit-on-error: false`. Default: prints the reason on stderr and shuts the machine down with exit code 1.
   */
  readonly onIncomingFailed?: (error: Error) => void
}

/** How to run a twin in another process: `emu run` with the arguments, coming lazily from the URI. */
export interface ForkReply {
  readonly uri: string
  readonly arguments: readonly string[]
  /** ms for which the guest stood. */
  readonly downtime: number
}

/** What commands work with. */
export interface MonitorContext {
  readonly machine: Machine
  readonly migration: Migration
  readonly name: string | undefined
  readonly uuid: string | undefined
  readonly version: MonitorVersion
  blocks(): readonly BlockInfo[]
  chardevs(): readonly ChardevInfo[]
  readonly objects: UserObjects | undefined
  readonly snapshots: Snapshots | undefined
  readonly jobs: Jobs
  readonly storage: Storage | undefined
  readonly fork: (() => Promise<ForkReply>) | undefined
  incomingFailed(error: Error): void
  executeHmp(line: string): Promise<string>
}
