import type { SaveVmHandlers } from '@ferryvm/core'
import type { Capabilities } from '../capabilities.ts'
import { type MigrationStatsInfo, NO_STATS } from '../info.ts'
import type { Parameters } from '../parameters.ts'
import { BlockLoader } from './block-load.ts'
import { type BlockDevice, BlockSaver, type BlockSaverHooks } from './block-save.ts'

/** `migrate -b` and `-i` of releases up to QEMU 9.0: disks go in a section of their own, before memory. */
export class BlockMigration {
  readonly saver: BlockSaver
  readonly handlers: SaveVmHandlers
  /** `migrate -i`, of the migration that runs. */
  #incremental = false

  /** @param sending a migration, and not a snapshot, is what the section would be part of */
  constructor(
    devices: readonly BlockDevice[],
    {
      capabilities,
      parameters,
      sending,
      ...hooks
    }: { capabilities: Capabilities; parameters: Parameters; sending: () => boolean } & BlockSaverHooks,
  ) {
    this.saver = new BlockSaver(() => devices, hooks)
    const loader = new BlockLoader(() => devices)
    const { saver } = this
    this.handlers = {
      isActive: () => capabilities.get('block') && sending(),
      goesFirst: true,
      saveSetup: (f) =>
        saver.setup(f, {
          incremental: this.#incremental || parameters.values['block-incremental'],
          zeroBlocks: capabilities.get('zero-blocks'),
        }),
      saveLivePending: () => ({ mustPrecopy: saver.remainingBytes, canPostcopy: 0 }),
      saveLiveIterate: (f) => saver.iterate(f),
      saveLiveCompletePrecopy: (f) => saver.complete(f),
      loadState: (f, version) => loader.load(f, version),
      saveCleanup: () => saver.cleanup(),
    }
  }

  /** For `migrate -b` and `-i`. @returns takes that back */
  only(capabilities: Capabilities, incremental: boolean): () => void {
    capabilities.set([{ capability: 'block', state: true }])
    this.#incremental = incremental
    return () => {
      capabilities.set([{ capability: 'block', state: false }])
      this.#incremental = false
    }
  }

  /** `disk` of `query-migrate`, while disks are sent. */
  get info(): MigrationStatsInfo | undefined {
    if (!this.saver.active) return undefined
    return { ...NO_STATS, 'page-size': 0, ...this.saver.progress }
  }
}
