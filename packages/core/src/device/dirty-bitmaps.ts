import { FerryError } from '../errors/ferry-error.ts'
import { createWriteLog, type WriteLog } from './write-log.ts'

/** A bitmap of a disk cannot be made as it was asked for. The words are the protocol's. */
export class DirtyBitmapError extends FerryError {
  readonly code = 'FERRY_DIRTY_BITMAP'
  readonly bitmap: string
  constructor(bitmap: string, message: string) {
    super(message)
    this.bitmap = bitmap
  }
}

/** What of a disk was written, under a name: for a backup of what has changed. */
export interface DirtyBitmap {
  readonly name: string
  /** Of the disk. */
  readonly capacityBytes: number
  /** Its marks stay until somebody clears them. Sent in a migration, and whoever merges others into it marks here. */
  readonly log: WriteLog
  /** Writes mark it. */
  recording: boolean
  /** Something else, a migration say, works with it. */
  busy: boolean
}

const MIN_GRANULARITY = 512
const MAX_NAME_BYTES = 1023
/** What clients get who do not ask for another. */
const DEFAULT_GRANULARITY = 64 * 1024

/** The bitmaps of one disk. Whoever writes to it says so with {@link written}. */
export class DirtyBitmaps {
  readonly #capacityBytes: number
  #bitmaps: readonly DirtyBitmap[] = []

  constructor(capacityBytes: number) {
    this.#capacityBytes = capacityBytes
  }

  /** The newest first. */
  get all(): readonly DirtyBitmap[] {
    return this.#bitmaps
  }

  find(name: string): DirtyBitmap | undefined {
    return this.#bitmaps.find((bitmap) => bitmap.name === name)
  }

  /** Without a mark. @throws DirtyBitmapError */
  add(name: string, { granularityBytes = DEFAULT_GRANULARITY, recording = true } = {}): DirtyBitmap {
    const refuse = (message: string) => {
      throw new DirtyBitmapError(name, message)
    }
    if (name === '') refuse('Bitmap name cannot be empty')
    if (new TextEncoder().encode(name).length > MAX_NAME_BYTES) refuse(`Bitmap name too long: ${name}`)
    if (granularityBytes < MIN_GRANULARITY || !Number.isInteger(Math.log2(granularityBytes)))
      refuse('Granularity must be power of 2 and at least 512')
    if (this.find(name)) refuse(`Bitmap already exists: ${name}`)
    let log: WriteLog
    try {
      log = createWriteLog(this.#capacityBytes, granularityBytes)
    } catch (error) {
      return refuse(`Bitmap '${name}' would be too large: ${(error as Error).message}`)
    }
    const bitmap: DirtyBitmap = { name, capacityBytes: this.#capacityBytes, log, recording, busy: false }
    this.#bitmaps = [bitmap, ...this.#bitmaps]
    return bitmap
  }

  remove(bitmap: DirtyBitmap): void {
    this.#bitmaps = this.#bitmaps.filter((other) => other !== bitmap)
    bitmap.log[Symbol.dispose]()
  }

  /** Marks in one what is marked in the others, of this disk or of one as large. @throws DirtyBitmapError nothing was marked */
  merge(target: DirtyBitmap, sources: readonly DirtyBitmap[]): void {
    for (const { name, capacityBytes } of sources) {
      if (capacityBytes === target.capacityBytes) continue
      const sizes = `${capacityBytes} and ${target.capacityBytes} bytes`
      throw new DirtyBitmapError(
        name,
        `Bitmaps '${name}' and '${target.name}' are of disks of different sizes: ${sizes}`,
      )
    }
    for (const { log } of sources) {
      for (let chunk = log.next(0); chunk >= 0; chunk = log.next(chunk + 1))
        target.log.mark(chunk * log.granularityBytes, log.granularityBytes)
    }
  }

  /** Marks those that record. */
  written(offset: number, bytes: number): void {
    for (const { recording, log } of this.#bitmaps) if (recording) log.mark(offset, bytes)
  }
}
