import { type BlockBackend, FerryError, isZeroFilled, type WriteLog } from '@ferryvm/core'

/** Copied at a time, and at the same time. */
const COPY_BYTES = 1 << 20
const MAX_IN_FLIGHT = 4
/** A limited copy looks at the clock this often. */
const SLICE_MS = 100

/** A copy was given up before it was complete. */
export class MirrorCancelledError extends FerryError {
  readonly code = 'FERRY_MIRROR_CANCELLED'
  constructor() {
    super('the copy of the disk was cancelled')
  }
}

/** Reading the source or writing the target failed: the copy is not complete, and the source is as it was. */
export class MirrorIoError extends FerryError {
  readonly code = 'FERRY_MIRROR_IO'
  readonly operation: 'read' | 'write'
  /** In the disk, bytes. */
  readonly offset: number
  constructor(operation: 'read' | 'write', offset: number, cause: unknown) {
    const why = cause instanceof Error ? cause.message : String(cause)
    super(`copying a disk: cannot ${operation} at offset ${offset}: ${why}`, { cause })
    this.operation = operation
    this.offset = offset
  }
}

export interface MirrorOptions {
  /** Tracks its writes. */
  readonly source: BlockBackend
  /** As large as the source, or larger. */
  readonly target: BlockBackend
  /** `full`: all of it; `top`: what is in the source's own image; `none`: what is written from now on. */
  readonly sync: 'full' | 'top' | 'none'
  /** Of the log of writes, bytes; default 64 KiB. */
  readonly granularityBytes?: number
  /** 0: as fast as it goes. */
  readonly bytesPerSecond?: number
  /** The target is, for a moment, what the source is. */
  readonly onReady?: () => void
}

/** Copies a disk while it is in use, and goes on copying what is written, until it is told to end. */
export class Mirror {
  /** 0: as fast as it goes. */
  bytesPerSecond: number
  readonly #options: MirrorOptions
  readonly #log: WriteLog
  #read: BlockBackend['read']
  readonly #inFlight = new Map<number, { readonly end: number; readonly done: Promise<void> }>()
  #copiedBytes = 0
  #ready = false
  #ending = false
  #failure: Error | undefined
  #resumed: PromiseWithResolvers<void> | undefined
  #wake = Promise.withResolvers<void>()
  #sliceStartMs = 0
  #sliceBytes = 0

  /** @throws RangeError the target is too small, or the source does not track its writes */
  constructor(options: MirrorOptions) {
    const { source, target, granularityBytes = 64 * 1024, bytesPerSecond = 0 } = options
    if (target.capacityBytes < source.capacityBytes) {
      throw new RangeError(`the target has ${target.capacityBytes} bytes, the disk ${source.capacityBytes}`)
    }
    if (!source.trackWrites) throw new RangeError('a disk that does not track its writes cannot be copied')
    this.#options = options
    this.bytesPerSecond = bytesPerSecond
    this.#read = (offset, into) => source.read(offset, into)
    this.#log = source.trackWrites(granularityBytes)
  }

  get ready(): boolean {
    return this.#ready
  }

  /** Bytes that were copied, and all that have to be as far as known: both grow with every write. */
  get progress(): { readonly copied: number; readonly total: number } {
    let left = this.#log.count * this.#log.granularityBytes
    for (const [start, { end }] of this.#inFlight) left += (end - start) * this.#log.granularityBytes
    return { copied: this.#copiedBytes, total: this.#copiedBytes + left }
  }

  get paused(): boolean {
    return this.#resumed !== undefined
  }

  pause(): void {
    this.#resumed ??= Promise.withResolvers()
  }

  resume(): void {
    this.#resumed?.resolve()
    this.#resumed = undefined
  }

  /** As soon as the target is what the source is, {@link run} resolves. */
  end(): void {
    this.#ending = true
    this.#wakeUp()
  }

  /** {@link run} rejects with MirrorCancelledError, or with the error that is given. */
  cancel(error: Error = new MirrorCancelledError()): void {
    this.#failure ??= error
    this.resume()
    this.#wakeUp()
  }

  /**
   * Copies until {@link end}: all that was written to the source before the last look is then on the target's stable storage.
   * @param atEnd runs, once everything seems copied, with a function that copies what is left and forgets about the source: for who
   *   wants to keep everybody from using it meanwhile, and gives that function another way to read it
   * @throws MirrorIoError, MirrorCancelledError
   */
  async run(
    atEnd: (last: (read?: BlockBackend['read']) => Promise<void>) => Promise<void> = (last) => last(),
  ): Promise<void> {
    try {
      await this.#mark()
      for (;;) {
        await this.#copyAll()
        await this.#flush()
        if (this.#log.count > 0) continue
        if (!this.#ready) {
          this.#ready = true
          this.#options.onReady?.()
        }
        if (this.#ending) break
        await Promise.race([this.#log.marked(), this.#wake.promise])
        this.#throwIfFailed()
      }
      await atEnd(async (read) => {
        if (read) this.#read = read
        while (this.#log.count > 0) await this.#copyAll()
        this.#log[Symbol.dispose]()
        await this.#flush()
      })
    } finally {
      await Promise.allSettled([...this.#inFlight.values()].map(({ done }) => done))
      this.#log[Symbol.dispose]()
    }
  }

  async #mark(): Promise<void> {
    const { source, sync } = this.#options
    const size = source.capacityBytes
    if (sync === 'full') this.#log.mark(0, size)
    if (sync !== 'top') return
    for (let at = 0; at < size; ) {
      const { bytes, kind } = source.runAt ? await source.runAt(at, size - at) : { bytes: size - at, kind: 'data' }
      this.#throwIfFailed()
      if (kind !== 'backing') this.#log.mark(at, bytes)
      at += bytes
    }
  }

  async #copyAll(): Promise<void> {
    for (let from = 0; ; ) {
      this.#throwIfFailed()
      const waiting = this.#resumed?.promise
      if (waiting) {
        await waiting
        continue
      }
      const first = this.#log.next(from)
      if (first < 0 && from > 0) {
        from = 0
        continue
      }
      if (first < 0) {
        if (this.#inFlight.size === 0) return
        await this.#wake.promise
        continue
      }
      const end = this.#runEnd(first)
      const busy = [...this.#inFlight].some(([start, other]) => start < end && first < other.end)
      if (busy || this.#inFlight.size >= MAX_IN_FLIGHT) {
        await this.#wake.promise
        continue
      }
      await this.#limit((end - first) * this.#log.granularityBytes)
      this.#start(first, end)
      from = end
    }
  }

  /** Behind the marked chunks from that one on, as many as go at a time. */
  #runEnd(first: number): number {
    const most = first + Math.max(1, Math.floor(COPY_BYTES / this.#log.granularityBytes))
    let end = first + 1
    while (end < most && this.#log.isMarked(end)) end++
    return end
  }

  #start(first: number, end: number): void {
    const { granularityBytes } = this.#log
    // The marks go first: a write from now on sets them again.
    for (let chunk = first; chunk < end; chunk++) this.#log.clear(chunk)
    const offset = first * granularityBytes
    const bytes = Math.min(end * granularityBytes, this.#options.source.capacityBytes) - offset
    const done = this.#copy(offset, bytes)
      .then(() => void (this.#copiedBytes += bytes))
      .catch((error: Error) => void (this.#failure ??= error))
      .finally(() => {
        this.#inFlight.delete(first)
        this.#wakeUp()
      })
    this.#inFlight.set(first, { end, done })
  }

  async #copy(offset: number, bytes: number): Promise<void> {
    const { target } = this.#options
    const data = new Uint8Array(bytes)
    await this.#read(offset, data).catch((cause) => {
      throw new MirrorIoError('read', offset, cause)
    })
    try {
      if (!isZeroFilled(data)) return await target.write(offset, data)
      const there = await target.runAt?.(offset, bytes)
      if (there?.kind === 'zero' && there.bytes >= bytes) return
      if (target.writeZeroes) await target.writeZeroes(offset, bytes)
      else await target.write(offset, data)
    } catch (cause) {
      throw new MirrorIoError('write', offset, cause)
    }
  }

  async #flush(): Promise<void> {
    await this.#options.target.flush().catch((cause) => {
      throw new MirrorIoError('write', 0, cause)
    })
    this.#throwIfFailed()
  }

  async #limit(bytes: number): Promise<void> {
    while (this.bytesPerSecond > 0) {
      const now = performance.now()
      if (now - this.#sliceStartMs >= SLICE_MS) {
        this.#sliceStartMs = now
        // What went beyond is owed.
        this.#sliceBytes = Math.max(0, this.#sliceBytes - (this.bytesPerSecond * SLICE_MS) / 1000)
      }
      if (this.#sliceBytes <= 0) break
      await new Promise((resolve) => setTimeout(resolve, SLICE_MS - (now - this.#sliceStartMs)))
      this.#throwIfFailed()
    }
    this.#sliceBytes += bytes
  }

  /** A copy is done, or somebody wants something. */
  #wakeUp(): void {
    this.#wake.resolve()
    this.#wake = Promise.withResolvers()
  }

  #throwIfFailed(): void {
    if (this.#failure) throw this.#failure
  }
}
