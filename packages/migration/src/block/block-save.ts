import { type BlockBackend, isZeroFilled, nextTurn, type QEMUFileWriter, type WriteLog } from '@ferryvm/core'
import { trace } from '../migration-trace.ts'
import {
  BLOCK_DEVICE,
  BLOCK_EOS,
  BLOCK_PROGRESS,
  BLOCK_ZERO,
  CHUNK_BYTES,
  SECTOR_BITS,
  SECTOR_BYTES,
} from './block-records.ts'

/** A disk by the name that both machines have for it, that of `-drive id=`. */
export interface BlockDevice {
  readonly name: string
  /** Its `node-name`, by which bitmaps are mapped. Default: its name. */
  readonly node?: string
  readonly backend: BlockBackend
}

export interface BlockSaveOptions {
  /** What is not in the disk's own image but in the one below it stays here. */
  readonly incremental: boolean
  /** Zeros go without data: the receiver must know that. */
  readonly zeroBlocks: boolean
}

export interface BlockSaverHooks {
  /** The rate limit is reached. */
  readonly limited: () => boolean
  /** Throws when the migration was given up. */
  readonly check: () => void
}

/** A pass gives others a turn after so long. */
const PASS_MS = 50

interface Tracked extends BlockDevice {
  readonly chunks: number
  readonly log: WriteLog
  /** The first chunk that the bulk has not come to. */
  next: number
}

/** Sending half of the section `block`: disks in chunks, while the guest writes to them. */
export class BlockSaver {
  readonly #devices: () => readonly BlockDevice[]
  readonly #hooks: BlockSaverHooks
  #options: BlockSaveOptions = { incremental: false, zeroBlocks: false }
  #tracked: Tracked[] = []
  #sentBytes = 0
  #percent = -1

  constructor(devices: () => readonly BlockDevice[], hooks: BlockSaverHooks) {
    this.#devices = devices
    this.#hooks = hooks
  }

  /** Between setup and cleanup. */
  get active(): boolean {
    return this.#tracked.length > 0
  }

  /** Bytes of the disks, as `query-migrate` has them. */
  get progress(): { readonly transferred: number; readonly remaining: number; readonly total: number } {
    const total = this.#tracked.reduce((sum, { backend }) => sum + backend.capacityBytes, 0)
    return { transferred: this.#sentBytes, remaining: Math.max(0, total - this.#sentBytes), total }
  }

  /** Bytes that the peer lacks, whole chunks. */
  get remainingBytes(): number {
    return this.#tracked.reduce((sum, { chunks, next, log }) => sum + (chunks - next + log.count) * CHUNK_BYTES, 0)
  }

  /** The START: nothing but its end. From now on writes are noticed. */
  setup(f: QEMUFileWriter, options: BlockSaveOptions): void {
    this.#options = options
    this.#sentBytes = 0
    this.#percent = -1
    this.#tracked = this.#devices()
      .filter(({ backend }) => !backend.readOnly && backend.capacityBytes > 0)
      .map(({ name, backend }) => {
        if (!backend.trackWrites) throw new RangeError(`the disk "${name}" does not track its writes`)
        const log = backend.trackWrites(CHUNK_BYTES)
        if (options.incremental) trace.migration_block_init_shared({ blk_device_name: name })
        else trace.migration_block_init_full({ blk_device_name: name })
        return { name, backend, log, chunks: Math.ceil(backend.capacityBytes / CHUNK_BYTES), next: 0 }
      })
    trace.migration_block_save({ mig_stage: 'setup', submitted: 0, transferred: 0 })
    putWord(f, 0, BLOCK_EOS)
  }

  /** @returns whether every disk was sent once: memory waits for that */
  async iterate(f: QEMUFileWriter): Promise<boolean> {
    trace.migration_block_save({ mig_stage: 'iterate', submitted: 0, transferred: this.#sentChunks })
    const until = performance.now() + PASS_MS
    while (await this.#sendNext(f)) {
      if (this.#hooks.limited() || performance.now() > until) break
    }
    putWord(f, 0, BLOCK_EOS)
    await f.flush()
    trace.migration_block_state_pending({ pending: this.remainingBytes })
    return this.#tracked.every(({ next, chunks }) => next >= chunks)
  }

  /** The guest is stopped: what is left, without limits. */
  async complete(f: QEMUFileWriter): Promise<void> {
    trace.migration_block_save({ mig_stage: 'complete', submitted: 0, transferred: this.#sentChunks })
    while (await this.#sendNext(f));
    this.#putProgress(f, 100, true)
    putWord(f, 0, BLOCK_EOS)
    await f.flush()
    trace.migration_block_save_complete({})
  }

  /** Writes are not noticed any more. */
  cleanup(): void {
    for (const { log } of this.#tracked) log[Symbol.dispose]()
    this.#tracked = []
  }

  get #sentChunks(): number {
    return Math.floor(this.#sentBytes / CHUNK_BYTES)
  }

  /** One chunk: first of what was never sent, then of what was written since. @returns false when there is none */
  async #sendNext(f: QEMUFileWriter): Promise<boolean> {
    this.#hooks.check()
    for (const device of this.#tracked) {
      const chunk = device.next < device.chunks ? await this.#bulkChunk(device) : -1
      if (chunk >= 0) {
        await this.#sendChunk(f, device, chunk)
        this.#putProgress(f, this.#bulkPercent())
        return true
      }
    }
    for (const device of this.#tracked) {
      const chunk = device.log.next(0)
      if (chunk >= 0) {
        await this.#sendChunk(f, device, chunk)
        return true
      }
    }
    return false
  }

  /** @returns -1: all that is left of it is in the image below */
  async #bulkChunk(device: Tracked): Promise<number> {
    const { backend, chunks } = device
    if (this.#options.incremental && backend.runAt) {
      while (device.next < chunks) {
        const offset = device.next * CHUNK_BYTES
        const { bytes, kind } = await backend.runAt(offset, backend.capacityBytes - offset)
        const whole = offset + bytes === backend.capacityBytes ? chunks - device.next : Math.floor(bytes / CHUNK_BYTES)
        if (kind !== 'backing' || whole === 0) break
        device.next += whole
        await nextTurn()
        this.#hooks.check()
      }
    }
    return device.next < chunks ? device.next++ : -1
  }

  async #sendChunk(f: QEMUFileWriter, { name, backend, log }: Tracked, chunk: number): Promise<void> {
    const offset = chunk * CHUNK_BYTES
    const bytes = Math.min(CHUNK_BYTES, backend.capacityBytes - offset)
    // Before it is read: what is written from now on is sent again.
    log.clear(chunk)
    const data = new Uint8Array(CHUNK_BYTES)
    try {
      await backend.read(offset, data.subarray(0, bytes))
    } catch (error) {
      trace.migration_block_save_device_dirty({ sector: offset / SECTOR_BYTES })
      throw error
    }
    const zero = this.#options.zeroBlocks && isZeroFilled(data)
    putWord(f, offset / SECTOR_BYTES, BLOCK_DEVICE | (zero ? BLOCK_ZERO : 0))
    f.putStr8(name)
    if (!zero) f.putBufferAsync(data)
    this.#sentBytes += bytes
    await f.flush()
    trace.migration_block_flush_blks({ action: 'sent', submitted: 0, read_done: 0, transferred: this.#sentChunks })
  }

  #bulkPercent(): number {
    const chunks = this.#tracked.reduce((sum, device) => sum + device.chunks, 0)
    const done = this.#tracked.reduce((sum, { next }) => sum + next, 0)
    return Math.floor((done * 100) / chunks)
  }

  /** When it changed, or the receiver has to hear it. */
  #putProgress(f: QEMUFileWriter, percent: number, always = false): void {
    if (percent === this.#percent && !always) return
    this.#percent = percent
    trace.migration_block_progression({ percent })
    putWord(f, percent, BLOCK_PROGRESS)
  }
}

const putWord = (f: QEMUFileWriter, value: number, flags: number): void =>
  f.putBe64((BigInt(value) << BigInt(SECTOR_BITS)) | BigInt(flags))
