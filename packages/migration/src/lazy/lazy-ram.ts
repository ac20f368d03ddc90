/**
 * A guest that runs before its memory is read: a mapped-ram file keeps the pages, and each comes when somebody touches it
 * (`MissingPages`, as in postcopy). A file that cannot be read any more loses nothing: who needs a page waits, until `recover`
 * brings a file with the same contents. docs/decisions/2026-11-28-lazy-resume.md
 */
import { isSeekable, PAGE_BYTES, type SeekableChannel, type Transport } from '@ferryvm/core'
import { type MigrationContext, uriOf } from '../context.ts'
import { MigrationStateError } from '../errors.ts'
import { trace } from '../migration-trace.ts'
import { type MappedBlock, mappedBlockField } from '../ram/mapped/mapped-block.ts'
import type { RamLoadSession } from '../ram/page-decoding.ts'
import { LazySourceError } from './errors.ts'
import { type FetchStats, PageFetcher } from './page-fetcher.ts'

export interface LazyRamParts {
  readonly context: MigrationContext
  /** Where the file is, as it was asked for. */
  readonly uri: string
  /** Pages that nobody waits for come too, in the background. */
  readonly prefetch: boolean
  readonly signal: AbortSignal
}

export class LazyRam {
  readonly stats: FetchStats = { bytes: 0 }
  readonly #parts: LazyRamParts
  readonly #blocks: MappedBlock[] = []
  #file: SeekableChannel | undefined
  #fetcher: PageFetcher | undefined
  #recovery: PromiseWithResolvers<void> | undefined

  constructor(parts: LazyRamParts) {
    this.#parts = parts
  }

  /** Loads the `ram` section: bitmaps, and no page. */
  session(file: SeekableChannel): RamLoadSession {
    const { memory, cpu } = this.#parts.context.machine
    memory.missing.begin((page) => this.#demand(page), cpu.harts.length)
    this.#open(file)
    return { pagesElsewhere: true, blockFields: [mappedBlockField(file, (mapped) => this.#take(mapped))] }
  }

  /** All bitmaps are known. @throws why a page could not be read that the devices wait for; the guest has not run */
  async whileLoading<T>(loading: Promise<T>): Promise<T> {
    const fetcher = this.#fetcher!
    const failed = fetcher.ended.then(() => new Promise<never>(() => {}))
    return await Promise.race([loading, failed])
  }

  /**
   * The guest runs. Resolves when all of its memory is here.
   * @throws the reason for which it was given up
   */
  async finish(): Promise<void> {
    const { context, signal, prefetch } = this.#parts
    const { missing } = context.machine.memory
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason))
      if (signal.aborted) reject(signal.reason)
    })
    aborted.catch(() => {})
    while (missing.count > 0) {
      const fetcher = this.#fetcher!
      if (prefetch) void fetcher.ahead()
      try {
        await Promise.race([fetcher.ended, aborted])
      } catch (error) {
        fetcher.stop(error)
        signal.throwIfAborted()
        await Promise.race([this.#paused(error), aborted])
      }
    }
    await this.#file?.close().catch(() => {})
  }

  /** Breaks the connection to the file; the guest waits for what it misses until {@link recover}. @throws MigrationStateError */
  pause(reason: Error = new MigrationStateError('paused by migrate-pause')): void {
    if (this.#parts.context.status() !== 'postcopy-active')
      throw new MigrationStateError('only a migration in postcopy-active can be paused')
    this.#fetcher!.stop(reason)
  }

  /** Goes on with another file, or the same. @throws MigrationStateError, LazySourceError it is another guest's, the transport's error */
  async recover(transport: Transport<any>, address: unknown, uri: string): Promise<string> {
    const { context, signal } = this.#parts
    const recovery = this.#recovery
    if (!recovery) throw new MigrationStateError('migrate-recover: no lazily resumed guest waits here')
    const listener = await transport.listen(address, { signal, log: context.log })
    const { value: file } = await listener[Symbol.asyncIterator]().next()
    try {
      if (!file || !isSeekable(file)) throw new LazySourceError(`${uri}: no file whose pages could be read one by one`)
      await this.#mustBeTheSame(file, uri)
    } catch (error) {
      await file?.close()
      throw error
    } finally {
      await listener[Symbol.asyncDispose]()
    }
    this.#open(file)
    context.setStatus('postcopy-active')
    recovery.resolve()
    return uriOf(transport, listener.address, uri)
  }

  async close(reason?: Error): Promise<void> {
    this.#fetcher?.stop(reason)
    await this.#file?.close(reason).catch(() => {})
  }

  #take(mapped: MappedBlock): void {
    const { memory } = this.#parts.context.machine
    const { block, bitmap } = mapped
    const first = block.offset / PAGE_BYTES
    for (let page = 0; page < block.sizeBytes / PAGE_BYTES; page++) {
      if (bitmap[page >>> 3]! & (1 << (page & 7))) memory.missing.add(first + page, 1)
      // Of a boot that did not happen; the sender's memory had zeros there.
      else if (memory.hostWrote(first + page)) block.bytes.fill(0, page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
    }
    this.#blocks.push(mapped)
    this.#fetcher!.add(mapped)
  }

  #open(file: SeekableChannel): void {
    const { machine, parameters } = this.#parts.context
    const { missing } = machine.memory
    this.#file = file
    const limit = () => parameters.values['max-postcopy-bandwidth']
    this.#fetcher = new PageFetcher(file, { missing, limit, stats: this.stats })
    for (const mapped of this.#blocks) this.#fetcher.add(mapped)
    for (const page of missing.wanted) this.#fetcher.demand(page)
  }

  #demand(page: number): void {
    const { missing } = this.#parts.context.machine.memory
    trace.postcopy_page_req_add({ addr: page * PAGE_BYTES, count: missing.count })
    this.#fetcher!.demand(page)
  }

  async #paused(error: unknown): Promise<void> {
    const { context } = this.#parts
    context.log.warn(`the guest waits for pages that have not come: ${(error as Error).message}`)
    this.#recovery = Promise.withResolvers()
    await this.#file?.close(error instanceof Error ? error : undefined).catch(() => {})
    context.note(error)
    context.setStatus('postcopy-paused')
    try {
      await this.#recovery.promise
    } finally {
      this.#recovery = undefined
    }
  }

  /** Pages of another guest, or of another moment, would be the guest's end. */
  async #mustBeTheSame(file: SeekableChannel, uri: string): Promise<void> {
    const version = this.#file?.version
    if (uri === this.#parts.uri && file.version !== version) {
      throw new LazySourceError(`${uri} was written to since the guest was started from it`)
    }
    for (const { block, bitmapAt, bitmap } of this.#blocks) {
      const other = new Uint8Array(bitmap.length)
      const count = await file.readAt(other, bitmapAt)
      if (count < other.length || bitmap.some((byte, i) => byte !== other[i])) {
        throw new LazySourceError(
          `${uri} is not the file that the guest was started from: its pages of ${block.idstr} are others`,
          bitmapAt,
        )
      }
    }
  }
}
