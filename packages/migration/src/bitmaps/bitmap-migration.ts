import type { SaveVmHandlers } from '@ferryvm/core'
import type { BlockDevice } from '../block/block-save.ts'
import type { Capabilities } from '../capabilities.ts'
import { trace } from '../migration-trace.ts'
import type { Parameters } from '../parameters.ts'
import { BitmapLoader } from './bitmap-load.ts'
import type { BitmapMapping } from './bitmap-mapping.ts'
import { BitmapSaver } from './bitmap-save.ts'

interface BitmapMigrationParts {
  readonly capabilities: Capabilities
  readonly parameters: Parameters
}

/** Dirty bitmaps of the disks go in a section of their own (capability `dirty-bitmaps`). */
export class BitmapMigration {
  readonly loader: BitmapLoader
  readonly handlers: SaveVmHandlers
  readonly #saver = new BitmapSaver()
  readonly #devices: readonly BlockDevice[]
  readonly #parts: BitmapMigrationParts

  constructor(devices: readonly BlockDevice[], parts: BitmapMigrationParts) {
    this.#devices = devices
    this.#parts = parts
    this.loader = new BitmapLoader(
      () => devices,
      () => this.#mapping,
    )
    const saver = this.#saver
    this.handlers = {
      isActive: () => saver.active,
      iterates: false,
      saveSetup: (f) => saver.setup(f),
      saveLivePending: () => {
        const pending = saver.remainingBytes
        if (pending > 0) trace.dirty_bitmap_state_pending({ pending })
        return { mustPrecopy: 0, canPostcopy: pending }
      },
      saveLiveIterate: () => true,
      saveLiveCompletePrecopy: (f) => saver.complete(f),
      loadState: (f, version) => this.loader.load(f, version),
      saveCleanup: () => saver.end(),
    }
  }

  /** A migration away from here: nothing else can work with the bitmaps until {@link end}. @throws DirtyBitmapError */
  begin(): void {
    if (this.#parts.capabilities.get('dirty-bitmaps')) this.#saver.begin(this.#devices, this.#mapping)
  }

  end(): void {
    this.#saver.end()
  }

  get #mapping(): BitmapMapping | undefined {
    return this.#parts.parameters.values['block-bitmap-mapping']
  }
}
