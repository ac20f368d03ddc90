import { setTimeout as sleep } from 'node:timers/promises'
import type { BlockBackend, DiskRun, DiskSnapshots } from '@ferryvm/core'
import { ImageLockedError, ImageOpenError } from '../errors.ts'
import { type OpenImage, type OpenImageOptions, openImage } from './open-image.ts'

/** How long one waits for a machine that is about to give a disk up. */
const HANDOVER_MS = 10_000

export interface OpenDriveOptions extends Pick<OpenImageOptions, 'format' | 'readOnly' | 'unlocked' | 'warn'> {
  /** Somebody else uses it until {@link Drive.activate}. */
  readonly inactive?: boolean
}

/** A disk in a file that one machine can hand over to another, which has the same file. */
export class Drive implements BlockBackend {
  readonly path: string
  readonly format: string
  readonly capacityBytes: number
  readonly readOnly: boolean
  readonly #options: OpenImageOptions
  #image: OpenImage | undefined

  private constructor(image: OpenImage, options: OpenImageOptions) {
    this.path = image.path
    this.format = image.format
    this.capacityBytes = image.backend.capacityBytes
    this.readOnly = options.readOnly ?? false
    this.#options = options
    this.#image = image
  }

  /** @throws ImageError */
  static async open(path: string, { inactive, ...options }: OpenDriveOptions = {}): Promise<Drive> {
    if (!inactive) return new Drive(await openImage(path, options), options)
    // Only to know how large it is; the one who uses it now may change anything.
    const drive = new Drive(await openImage(path, { ...options, readOnly: true, unlocked: true }), options)
    await drive.inactivate()
    return drive
  }

  get snapshots(): DiskSnapshots | undefined {
    return this.#image?.backend.snapshots
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    return this.#active.read(offset, into)
  }

  async runAt(offset: number, bytes: number): Promise<DiskRun> {
    const backend = this.#active
    return backend.runAt ? backend.runAt(offset, bytes) : { bytes, kind: 'data' }
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    return this.#active.write(offset, from)
  }

  async flush(): Promise<void> {
    return this.#active.flush()
  }

  async discard(offset: number, bytes: number): Promise<void> {
    await this.#active.discard?.(offset, bytes)
  }

  async writeZeroes(offset: number, bytes: number): Promise<void> {
    const backend = this.#active
    if (backend.writeZeroes) return backend.writeZeroes(offset, bytes)
    const zeros = new Uint8Array(Math.min(bytes, 1 << 20))
    for (let done = 0; done < bytes; done += zeros.length) {
      await backend.write(offset + done, zeros.subarray(0, Math.min(zeros.length, bytes - done)))
    }
  }

  async inactivate(): Promise<void> {
    const image = this.#image
    // If that fails, nothing is lost: it is still ours.
    if (image && !this.readOnly) await image.backend.flush()
    this.#image = undefined
    await image?.backend.close?.()
  }

  /** @throws ImageLockedError whoever had it does not let go @throws ImageError */
  async activate(): Promise<void> {
    if (this.#image) return
    const end = performance.now() + HANDOVER_MS
    for (;;) {
      try {
        const image = await openImage(this.path, this.#options)
        if (image.backend.capacityBytes !== this.capacityBytes) {
          await image.backend.close?.()
          throw new ImageOpenError(
            this.path,
            `it had ${this.capacityBytes} bytes and has ${image.backend.capacityBytes} now`,
          )
        }
        this.#image = image
        return
      } catch (error) {
        if (!(error instanceof ImageLockedError) || performance.now() > end) throw error
        await sleep(20)
      }
    }
  }

  async close(): Promise<void> {
    await this.inactivate()
  }

  get #active(): BlockBackend {
    if (!this.#image) throw new ImageOpenError(this.path, 'another machine has the disk now')
    return this.#image.backend
  }
}
