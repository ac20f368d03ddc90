import { setTimeout as sleep } from 'node:timers/promises'
import {
  type BlockBackend,
  createWriteLog,
  DirtyBitmaps,
  type DiskRun,
  type DiskSnapshots,
  type WriteLog,
} from '@ferryvm/core'
import { ImageLockedError, ImageOpenError } from '../errors.ts'
import { SharedLock } from '../shared-lock.ts'
import { type OpenImage, type OpenImageOptions, openImage } from './open-image.ts'

/** How long one waits for a machine that is about to give a disk up. */
const HANDOVER_MS = 10_000

export interface OpenDriveOptions extends Pick<OpenImageOptions, 'format' | 'readOnly' | 'unlocked' | 'warn'> {
  /** Somebody else uses it until {@link Drive.activate}. */
  readonly inactive?: boolean
}

/** What a drive goes over to, see {@link Drive.replace}. */
export interface DriveReplacement {
  readonly backend: BlockBackend
  /** For people. */
  readonly path: string
  readonly format: string
  /** It is an image in a file at that path, which another machine can have meanwhile. */
  readonly inFile: boolean
}

/** A disk in a file that one machine can hand over to another, which has the same file. */
export class Drive implements BlockBackend {
  readonly capacityBytes: number
  readonly readOnly: boolean
  readonly bitmaps: DirtyBitmaps
  #options: OpenImageOptions
  #path: string
  #format: string
  #backend: BlockBackend | undefined
  /** Is in no file that could be opened again: kept while it is inactive. */
  #kept: BlockBackend | undefined
  readonly #logs = new Set<WriteLog>()
  /** Requests run together; only a replacement is alone. */
  readonly #requests = new SharedLock()

  private constructor(image: OpenImage, options: OpenImageOptions) {
    this.#path = image.path
    this.#format = image.format
    this.capacityBytes = image.backend.capacityBytes
    this.readOnly = options.readOnly ?? false
    this.bitmaps = new DirtyBitmaps(this.capacityBytes)
    this.#options = options
    this.#backend = image.backend
  }

  /** @throws ImageError */
  static async open(path: string, { inactive, ...options }: OpenDriveOptions = {}): Promise<Drive> {
    if (!inactive) return new Drive(await openImage(path, options), options)
    // Only to know how large it is; the one who uses it now may change anything.
    const drive = new Drive(await openImage(path, { ...options, readOnly: true, unlocked: true }), options)
    await drive.inactivate()
    return drive
  }

  get path(): string {
    return this.#path
  }

  get format(): string {
    return this.#format
  }

  get snapshots(): DiskSnapshots | undefined {
    const snapshots = this.#backend?.snapshots
    if (!snapshots || (this.#logs.size === 0 && this.bitmaps.all.length === 0)) return snapshots
    // Going back to one changes everything.
    const apply = async (id: string) => {
      await snapshots.apply(id)
      this.#changed(0, this.capacityBytes)
    }
    return Object.assign(Object.create(snapshots) as DiskSnapshots, { apply })
  }

  read(offset: number, into: Uint8Array): Promise<void> {
    return this.#requests.shared(() => this.#active.read(offset, into))
  }

  runAt(offset: number, bytes: number): Promise<DiskRun> {
    return this.#requests.shared(async () => {
      const backend = this.#active
      return backend.runAt ? backend.runAt(offset, bytes) : { bytes, kind: 'data' }
    })
  }

  write(offset: number, from: Uint8Array): Promise<void> {
    return this.#writing(offset, from.length, () => this.#active.write(offset, from))
  }

  flush(): Promise<void> {
    return this.#requests.shared(() => this.#active.flush())
  }

  discard(offset: number, bytes: number): Promise<void> {
    return this.#writing(offset, bytes, async () => this.#active.discard?.(offset, bytes))
  }

  writeZeroes(offset: number, bytes: number): Promise<void> {
    return this.#writing(offset, bytes, async () => {
      const backend = this.#active
      if (backend.writeZeroes) return backend.writeZeroes(offset, bytes)
      const zeros = new Uint8Array(Math.min(bytes, 1 << 20))
      for (let done = 0; done < bytes; done += zeros.length) {
        await backend.write(offset + done, zeros.subarray(0, Math.min(zeros.length, bytes - done)))
      }
    })
  }

  trackWrites(granularityBytes: number): WriteLog {
    const log = createWriteLog(this.capacityBytes, granularityBytes, () => void this.#logs.delete(log))
    this.#logs.add(log)
    return log
  }

  /**
   * The disk is another one from now on, with the same contents; what it was is closed.
   * @param prepare runs when no request is on its way, and none begins before it is over; rejecting leaves everything as it is
   */
  async replace(prepare: () => Promise<DriveReplacement>): Promise<void> {
    await this.#requests.exclusive(async () => {
      const { backend, path, format, inFile } = await prepare()
      const before = this.#backend
      this.#backend = backend
      this.#path = path
      this.#format = format
      this.#options = { ...this.#options, format }
      this.#kept = inFile ? undefined : backend
      await before?.close?.()
    })
  }

  /** For who prepares {@link replace}: past the requests that wait for its end. */
  readNow(offset: number, into: Uint8Array): Promise<void> {
    return this.#active.read(offset, into)
  }

  async inactivate(): Promise<void> {
    if (this.#logs.size > 0) {
      throw new ImageOpenError(this.#path, 'the disk is being copied: complete or cancel that before it is given up')
    }
    const backend = this.#backend
    // If that fails, nothing is lost: it is still ours.
    if (backend && !this.readOnly) await backend.flush()
    this.#backend = undefined
    if (!this.#kept) await backend?.close?.()
  }

  /** @throws ImageLockedError whoever had it does not let go @throws ImageError */
  async activate(): Promise<void> {
    if (this.#backend) return
    if (this.#kept) {
      this.#backend = this.#kept
      return
    }
    const end = performance.now() + HANDOVER_MS
    for (;;) {
      try {
        const { backend } = await openImage(this.#path, this.#options)
        if (backend.capacityBytes !== this.capacityBytes) {
          await backend.close?.()
          throw new ImageOpenError(
            this.#path,
            `it had ${this.capacityBytes} bytes and has ${backend.capacityBytes} now`,
          )
        }
        this.#backend = backend
        return
      } catch (error) {
        if (!(error instanceof ImageLockedError) || performance.now() > end) throw error
        await sleep(20)
      }
    }
  }

  async close(): Promise<void> {
    const backend = this.#backend ?? this.#kept
    this.#backend = undefined
    this.#kept = undefined
    if (backend && !this.readOnly) await backend.flush()
    await backend?.close?.()
  }

  /** Marks what was touched also where it failed: nobody knows what is there then. */
  async #writing(offset: number, bytes: number, run: () => Promise<void>): Promise<void> {
    await this.#requests.shared(async () => {
      try {
        await run()
      } finally {
        this.#changed(offset, bytes)
      }
    })
  }

  #changed(offset: number, bytes: number): void {
    for (const log of this.#logs) log.mark(offset, bytes)
    this.bitmaps.written(offset, bytes)
  }

  get #active(): BlockBackend {
    if (!this.#backend) throw new ImageOpenError(this.#path, 'another machine has the disk now')
    return this.#backend
  }
}
