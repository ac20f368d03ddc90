/**
 * Brings pages out of a mapped-ram file while the guest runs: first those that somebody waits for, with their neighbours, and
 * between them, if that is wanted, all others.
 */
import { type MissingPages, PAGE_BYTES, type SeekableChannel } from '@ferryvm/core'
import type { MappedBlock } from '../ram/mapped/mapped-block.ts'
import { LazySourceError } from './errors.ts'

/** A page that is waited for brings along what of its neighbourhood of so many pages is missing. */
const NEIGHBOURHOOD_PAGES = 16
/** What is read at once without being asked for: so much that a page that is asked for waits behind it for a moment only. */
const [MIN_AHEAD_PAGES, MAX_AHEAD_PAGES] = [16, 256]
const [SHORT_READ_MS, LONG_READ_MS] = [20, 80]
/** Reads without being asked that may be under way at once, so that the way to a server is used while its answer comes. */
const READS_AHEAD = 2
/** So long only what is asked for is read at first: a guest that has just begun to run, on few cores, is slowed down by anything else. */
const HEAD_START_MS = 150
/** Of which a limit on bytes per second gives shares. */
const WINDOW_MS = 100

export interface FetchStats {
  /** Bytes that were read. */
  bytes: number
}

export interface PageFetcherOptions {
  readonly missing: MissingPages
  /** Bytes per second for what nobody waits for; 0: no limit. */
  readonly limit: () => number
  readonly stats: FetchStats
}

/** Of one opened file. When it fails, another one goes on. */
export class PageFetcher {
  readonly #file: SeekableChannel
  readonly #options: PageFetcherOptions
  /** Pages that are being read, by block. */
  readonly #claimed = new Map<MappedBlock, Uint8Array>()
  readonly #blocks: MappedBlock[] = []
  readonly #ended = Promise.withResolvers<void>()
  #stopped = false
  #demands = 0
  #aheadPages = MIN_AHEAD_PAGES
  /** Where reading ahead goes on. */
  #next = { index: 0, page: 0 }

  constructor(file: SeekableChannel, options: PageFetcherOptions) {
    this.#file = file
    this.#options = options
    this.#ended.promise.catch(() => {})
  }

  /** Its pages can be asked for. */
  add(mapped: MappedBlock): void {
    this.#blocks.push(mapped)
    this.#claimed.set(mapped, new Uint8Array(pagesOf(mapped)))
  }

  /** Resolves when nothing is missing any more. @throws why pages could not be read; those stay missing */
  get ended(): Promise<void> {
    return this.#ended.promise
  }

  /** Nothing is read any more. */
  stop(reason: unknown): void {
    this.#stopped = true
    this.#ended.reject(reason)
  }

  /** Somebody waits for the page, by its index in the whole of guest memory. */
  demand(page: number): void {
    const blocks = this.#blocks
    const index = blocks.findIndex((mapped) => page >= firstOf(mapped) && page < firstOf(mapped) + pagesOf(mapped))
    const mapped = blocks[index]!
    const at = page - firstOf(mapped)
    if (this.#stopped || this.#claimed.get(mapped)![at]) return
    const begin = at & -NEIGHBOURHOOD_PAGES
    let from = at
    while (from > begin && this.#free(mapped, from - 1)) from--
    const end = this.#runEnd(mapped, at, begin + NEIGHBOURHOOD_PAGES)
    this.#next = { index, page: end }
    this.#demands++
    void this.#read(mapped, from, end).finally(() => this.#demands--)
  }

  /**
   * Reads everything that is missing, in order from where somebody waited last, and after a moment in which only that is read.
   * Resolves when it ended, for whatever reason.
   */
  async ahead(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, HEAD_START_MS))
    const budget = createBudget(this.#options.limit)
    await Promise.all(Array.from({ length: READS_AHEAD }, () => this.#readAhead(budget)))
  }

  async #readAhead(budget: (bytes: number) => Promise<void>): Promise<void> {
    for (;;) {
      const run = this.#nextRun()
      if (!run) return
      const { mapped, begin, end } = run
      const began = performance.now()
      await this.#read(mapped, begin, end)
      if (this.#stopped) return
      const ms = performance.now() - began
      if (ms < SHORT_READ_MS && this.#demands === 0) this.#aheadPages = Math.min(this.#aheadPages * 2, MAX_AHEAD_PAGES)
      else if (ms > LONG_READ_MS) this.#aheadPages = Math.max(this.#aheadPages / 2, MIN_AHEAD_PAGES)
      await budget((end - begin) * PAGE_BYTES)
    }
  }

  #nextRun(): { mapped: MappedBlock; begin: number; end: number } | undefined {
    const blocks = this.#blocks
    if (this.#stopped) return undefined
    let { index, page } = this.#next
    // Once around, and the first block again for what lies before the place.
    for (let looked = 0; looked <= blocks.length; looked++) {
      const mapped = blocks[index]!
      const pages = pagesOf(mapped)
      while (page < pages && !this.#free(mapped, page)) page++
      if (page < pages) {
        const end = this.#runEnd(mapped, page, page + this.#aheadPages)
        this.#next = { index, page: end }
        return { mapped, begin: page, end }
      }
      index = (index + 1) % blocks.length
      page = 0
    }
    return undefined
  }

  #free(mapped: MappedBlock, page: number): boolean {
    return !this.#claimed.get(mapped)![page] && this.#options.missing.has(firstOf(mapped) + page)
  }

  #runEnd(mapped: MappedBlock, begin: number, limit: number): number {
    const last = Math.min(limit, pagesOf(mapped))
    let end = begin + 1
    while (end < last && this.#free(mapped, end)) end++
    return end
  }

  /** Straight into guest memory: until a page has arrived nobody looks there. */
  async #read(mapped: MappedBlock, begin: number, end: number): Promise<void> {
    const { missing, stats } = this.#options
    const claimed = this.#claimed.get(mapped)!.fill(1, begin, end)
    const into = mapped.block.bytes.subarray(begin * PAGE_BYTES, end * PAGE_BYTES)
    try {
      await this.#readAll(into, mapped.pagesAt + begin * PAGE_BYTES)
      if (this.#stopped) return
      stats.bytes += into.length
      for (let page = firstOf(mapped) + begin; page < firstOf(mapped) + end; page++) missing.arrived(page)
      if (missing.count === 0) this.#ended.resolve()
    } catch (error) {
      this.stop(error)
    } finally {
      claimed.fill(0, begin, end)
    }
  }

  async #readAll(into: Uint8Array, at: number): Promise<void> {
    const count = await this.#file.readAt(into, at)
    if (count < into.length) {
      throw new LazySourceError(`the file ends at ${at + count}, within its pages: it was cut`, at + count)
    }
    await this.#file.unchanged?.()
  }
}

const firstOf = ({ block }: MappedBlock): number => block.offset / PAGE_BYTES
const pagesOf = ({ block }: MappedBlock): number => block.sizeBytes / PAGE_BYTES

/** Waits as long as a limit on bytes per second asks for. */
function createBudget(limit: () => number): (bytes: number) => Promise<void> {
  let [since, used] = [performance.now(), 0]
  return async (bytes) => {
    used += bytes
    for (;;) {
      const perSecond = limit()
      const dueMs = perSecond > 0 ? since + (used * 1000) / perSecond - performance.now() : 0
      if (dueMs <= 0) break
      await new Promise((resolve) => setTimeout(resolve, Math.min(dueMs, WINDOW_MS)))
    }
    if (performance.now() - since > WINDOW_MS) [since, used] = [performance.now(), 0]
  }
}
