import { type GuestMemory, nextTurn, PAGE_BYTES, type QEMUFileWriter, type RamBlock } from '@ferryvm/core'
import type { MigrationInfo } from '../info.ts'
import { trace } from '../migration-trace.ts'
import { type PageEncoder, RamRecordWriter, type RamSaveSession } from './page-encoding.ts'
import { rawPages, zeroPages } from './plain-pages.ts'
import { RAM_EOS, RAM_MEM_SIZE } from './ram-records.ts'
import { createZeroPageTest, type IsZeroPage } from './zero-page.ts'

/** Work on the device thread between two turns of the event loop: harts wait that long for a device access at worst. */
const TURN_MS = 1
/** The same while every first write of a hart waits for this thread. */
const GUARDED_TURN_MS = 0.25
/** Pages between two looks at the clock. */
const PAGES_PER_LOOK = 16
/** A pass over dirty pages ends after this long, so that the engine can look at its rates. Spec: ram.md section 3. */
const PASS_MS = 50
/** Bytes handed to the channel at once. */
const FLUSH_BYTES = 256 * 1024
/** Pages after which a search for the next dirty page gives way; a word of the bitmap is 32 pages. */
const PAGES_PER_SCAN = 1 << 16

export interface RamSource {
  readonly memory: GuestMemory
  migratableBlocks(): readonly RamBlock[]
  /** See `Cpu.flushWriteTlb`. */
  flushWriteTlb(): Promise<void>
}

export interface RamSaveStats {
  zeroPages: number
  normalPages: number
  /** Bytes of all records. */
  bytes: number
  syncCount: number
  /** Pages per second, updated at syncs at least a second apart. */
  dirtyPagesRate: number
  dirtyPages: number
}

export interface TrackedBlock {
  readonly block: RamBlock
  readonly pages: number
  /** One bit per page, bit 0 of word 0 first. */
  readonly dirty: Int32Array
}

export interface RamSaverHooks {
  /**
   * A sync of the dirty log has been done; `count` starts at 1. `written`: pages that were in it, `dirtied`: of them, those that
   * did not wait to be sent anyway.
   */
  onSync?(count: number, dirtied: number, written: number): void
  /** True once the current window's budget is used up. Not asked while the guest is stopped. */
  limited?(): boolean
  /** How long one pass may take before its section ends, ms. Default 50. */
  readonly passMs?: number
  /** Asked between batches of pages; throws when the migration is to be given up. */
  check?(): void
}

/** Sending half of the `ram` handler: knows which pages the peer does not have yet. Spec: ram.md sections 1 to 3. */
export class RamSaver {
  readonly stats: RamSaveStats
  readonly #source: RamSource
  readonly #hooks: RamSaverHooks
  readonly #isZero: IsZeroPage
  #encoders: readonly PageEncoder[]
  #out: RamRecordWriter | undefined
  #beside: (block: RamBlock) => boolean = () => false
  /** Pages are sent as often as the guest writes them; otherwise once. */
  #logged = true
  /** Pages that go before the others. */
  #soon: { readonly tracked: TrackedBlock; readonly page: number }[] = []
  #completing = false
  #blocks: TrackedBlock[] = []
  #totalBytes = 0
  /** Where the search for dirty pages goes on. */
  #blockIndex = 0
  #page = 0
  #turnBegan = 0
  #rateSince = 0
  #rateFresh = 0

  constructor(source: RamSource, hooks: RamSaverHooks = {}, isZero: IsZeroPage = createZeroPageTest(source.memory)) {
    this.#source = source
    this.#hooks = hooks
    this.#isZero = isZero
    this.#encoders = [zeroPages(isZero), rawPages()]
    this.stats = { zeroPages: 0, normalPages: 0, bytes: 0, syncCount: 0, dirtyPagesRate: 0, dirtyPages: 0 }
  }

  /**
   * How the next migration's pages travel; without it, as ZERO and PAGE records. In the order in which they are asked.
   * @param logged false: every page is sent once, whatever the guest writes meanwhile
   * @param beside blocks whose pages do not count as the migration's
   */
  use(
    encoders: readonly PageEncoder[],
    { logged = true, beside = () => false }: { logged?: boolean; beside?: (block: RamBlock) => boolean } = {},
  ): void {
    this.#encoders = encoders
    this.#logged = logged
    this.#beside = beside
  }

  /** The page goes next, if it has not been sent. @param page index in the whole of guest memory @returns whether it waits */
  sendSoon(page: number): boolean {
    const at = page * PAGE_BYTES
    const tracked = this.#blocks.find(({ block }) => at >= block.offset && at < block.offset + block.sizeBytes)
    if (!tracked) return false
    const own = page - tracked.block.offset / PAGE_BYTES
    if (!(tracked.dirty[own >>> 5]! & (1 << (own & 31)))) return false
    this.#soon.push({ tracked, page: own })
    return true
  }

  /** Counters of the encodings for `query-migrate`. */
  report(): Partial<MigrationInfo> {
    return Object.assign({}, ...this.#encoders.map((encoder) => encoder.report?.()))
  }

  /** Bytes of pages that did not go through the stream. */
  get bytesBeside(): number {
    return this.#encoders.reduce((sum, { bytesBeside = 0 }) => sum + bytesBeside, 0)
  }

  /** Of all blocks; stays known after the end. */
  get totalBytes(): number {
    return this.#totalBytes
  }

  /** As far as known since the last sync. */
  get remainingBytes(): number {
    return this.stats.dirtyPages * PAGE_BYTES
  }

  /** Pages that the guest has written since the last sync, whether they have been sent since or not. */
  get written(): number {
    return this.#blocks.reduce((sum, { block }) => sum + this.#source.memory.dirtyLog.count(block), 0)
  }

  /** Of the unsent pages, the part that is zero, 0 to 1: by some `samples` of them. */
  zeroShare(samples: number): number {
    const stride = Math.max(1, Math.floor(this.#totalBytes / PAGE_BYTES / samples))
    let zero = 0
    let looked = 0
    for (const { block, dirty, pages } of this.#blocks) {
      for (let page = nextDirty(dirty, 0, pages); page < pages; page = nextDirty(dirty, page + stride, pages)) {
        looked++
        if (this.#isZero(block.offset + page * PAGE_BYTES)) zero++
      }
    }
    return looked === 0 ? 0 : zero / looked
  }

  /** Starts the dirty log; every page counts as dirty. The block list becomes the payload of START. */
  async setup(f: QEMUFileWriter): Promise<void> {
    this.#blocks = this.#source.migratableBlocks().map((block) => {
      if (block.sizeBytes % PAGE_BYTES !== 0)
        throw new RangeError(`${block.idstr} ends within a page: ${block.sizeBytes} bytes`)
      const pages = block.sizeBytes / PAGE_BYTES
      const dirty = new Int32Array(Math.ceil(pages / 32)).fill(-1)
      if (pages % 32 !== 0) dirty[dirty.length - 1] = (1 << (pages % 32)) - 1
      return { block, pages, dirty }
    })
    this.#blockIndex = 0
    this.#page = 0
    this.#completing = false
    this.#out = new RamRecordWriter(f)
    Object.assign(this.stats, { zeroPages: 0, normalPages: 0, bytes: 0, syncCount: 0, dirtyPagesRate: 0 })
    this.stats.dirtyPages = this.#blocks.reduce((sum, { pages }) => sum + pages, 0)
    this.#soon = []
    if (this.#logged) {
      this.#source.memory.dirtyLog.enabled = true
      this.#rateSince = performance.now()
      await this.sync()
      this.#rateFresh = 0
    }
    const saver = this
    const session: RamSaveSession = {
      blocks: this.blocks,
      stats: this.stats,
      get completing() {
        return saver.#completing
      },
    }
    for (const encoder of this.#encoders) await encoder.begin?.(session)

    const listed = this.#blocks.reduce((sum, { block }) => sum + block.sizeBytes, 0)
    this.#totalBytes =
      listed - this.#blocks.reduce((sum, { block }) => sum + (this.#beside(block) ? block.sizeBytes : 0), 0)
    f.putBe64(BigInt(listed) | BigInt(RAM_MEM_SIZE))
    for (const { block } of this.#blocks) {
      f.putStr8(block.idstr)
      f.putBe64(BigInt(block.sizeBytes))
      for (const encoder of this.#encoders) await encoder.blockEntry?.(block, f)
    }
    await this.#endOfSection(f, 'start')
  }

  /** Moves what was written since the last sync into our bitmaps; afterwards page contents may be read. */
  async sync(): Promise<void> {
    const { dirtyLog } = this.#source.memory
    trace.migration_bitmap_sync_start({})
    const { written } = this
    let fresh = 0
    for (const { block, dirty } of this.#blocks) fresh += dirtyLog.take(block, dirty)
    await this.#source.flushWriteTlb()
    this.stats.dirtyPages += fresh
    this.#rateFresh += fresh
    const now = performance.now()
    if (now - this.#rateSince > 1000) {
      this.stats.dirtyPagesRate = Math.round((this.#rateFresh * 1000) / (now - this.#rateSince))
      this.#rateSince = now
      this.#rateFresh = 0
    }
    trace.migration_bitmap_sync_end({ dirty_pages: fresh })
    this.#hooks.onSync?.(++this.stats.syncCount, fresh, written)
  }

  /** One pass. @returns true when no page is dirty as far as known */
  async iterate(f: QEMUFileWriter): Promise<boolean> {
    const finished = await this.#send(
      f,
      performance.now() + (this.#hooks.passMs ?? PASS_MS),
      () => this.#hooks.limited?.() ?? false,
    )
    await this.#endOfSection(f, 'part')
    return finished
  }

  /** The guest is stopped: everything that is left, without limits. */
  async complete(f: QEMUFileWriter): Promise<void> {
    this.#completing = true
    await this.sync()
    await this.#send(f, Number.POSITIVE_INFINITY, () => false)
    await this.#endOfSection(f, 'end')
  }

  /** Every page was sent, each once: encoders write what they hold. No section is open. */
  async end(): Promise<void> {
    for (const encoder of this.#encoders) await encoder.sectionEnds?.('end', this.#out!)
  }

  get blocks(): readonly RamBlock[] {
    return this.#blocks.map(({ block }) => block)
  }

  /**
   * The guest is stopped, and the rest goes another way (postcopy): a last look at the dirty log.
   * @returns every block with the pages that the peer lacks, and encoders that send a page as it is
   */
  async handOver(): Promise<{ blocks: readonly TrackedBlock[]; encoders: readonly PageEncoder[] }> {
    await this.sync()
    const blocks = this.#blocks
    const encoders = [zeroPages(this.#isZero), rawPages()]
    const session = { blocks: blocks.map(({ block }) => block), stats: this.stats, completing: true }
    for (const encoder of encoders) await encoder.begin?.(session)
    return { blocks, encoders }
  }

  /** Stops the dirty log and forgets which pages were sent. */
  cleanup(): void {
    if (this.#logged) this.#source.memory.dirtyLog.enabled = false
    this.#blocks = []
    this.#soon = []
    this.#out = undefined
    for (const encoder of this.#encoders) encoder.cleanup?.()
  }

  async #send(f: QEMUFileWriter, until: number, stop: () => boolean): Promise<boolean> {
    this.#turnBegan = performance.now()
    while (this.stats.dirtyPages > 0) {
      this.#hooks.check?.()
      const some = this.#sendSome()
      const sent = typeof some === 'boolean' ? some : await some
      if (f.buffered >= FLUSH_BYTES) {
        const pending = f.flush()
        if (pending) await pending
      }
      const now = performance.now()
      if (now - this.#turnBegan > (this.#logged ? TURN_MS : GUARDED_TURN_MS)) {
        await nextTurn()
        this.#turnBegan = performance.now()
      }
      if (sent && (now > until || stop())) break
    }
    return this.stats.dirtyPages === 0
  }

  /** Up to a handful of pages. @returns false when it only searched */
  #sendSome(): boolean | Promise<boolean> {
    let sent = 0
    for (let searched = 0; sent < PAGES_PER_LOOK && searched < PAGES_PER_SCAN && this.stats.dirtyPages > 0; ) {
      const soon = this.#soon.pop()
      if (soon) {
        sent++
        const pending = this.#takeAndSend(soon.tracked, soon.page)
        if (pending) return pending.then(() => true)
        continue
      }
      const tracked = this.#blocks[this.#blockIndex]!
      const page = nextDirty(tracked.dirty, this.#page, Math.min(tracked.pages, this.#page + PAGES_PER_SCAN))
      searched += page - this.#page
      this.#page = page
      if (page >= tracked.pages) {
        this.#page = 0
        this.#blockIndex = (this.#blockIndex + 1) % this.#blocks.length
        searched++
        const pending = this.#blockIndex === 0 ? this.#wrapped() : undefined
        if (pending) return pending.then(() => sent > 0)
      } else if (tracked.dirty[page >>> 5]! & (1 << (page & 31))) {
        this.#page++
        sent++
        const pending = this.#takeAndSend(tracked, page)
        if (pending) return pending.then(() => true)
      }
    }
    return sent > 0
  }

  #takeAndSend(tracked: TrackedBlock, page: number): void | Promise<void> {
    const bit = 1 << (page & 31)
    if (!(tracked.dirty[page >>> 5]! & bit)) return
    // The bit goes first: a write from now on sets it again in the log.
    tracked.dirty[page >>> 5]! &= ~bit
    this.stats.dirtyPages--
    return this.#sendPage(tracked.block, page * PAGE_BYTES)
  }

  #sendPage(block: RamBlock, offset: number): void | Promise<void> {
    const out = this.#out!
    const before = out.f.position
    for (let i = 0; i < this.#encoders.length; i++) {
      const taken = this.#encoders[i]!.encode(block, offset, out)
      if (typeof taken !== 'boolean') return this.#sendPageLater(block, offset, taken, i + 1)
      if (taken) break
    }
    this.stats.bytes += out.f.position - before
  }

  async #sendPageLater(block: RamBlock, offset: number, first: Promise<boolean>, next: number): Promise<void> {
    let taken = await first
    for (let i = next; !taken; i++) taken = await this.#encoders[i]!.encode(block, offset, this.#out!)
  }

  #wrapped(): Promise<void> | undefined {
    if (!this.#encoders.some(({ wrapped }) => wrapped)) return undefined
    return (async () => {
      for (const encoder of this.#encoders) await encoder.wrapped?.(this.#out!)
    })()
  }

  async #endOfSection(f: QEMUFileWriter, section: 'start' | 'part' | 'end'): Promise<void> {
    for (const encoder of this.#encoders) await encoder.sectionEnds?.(section, this.#out!)
    f.putBe64(BigInt(RAM_EOS))
    this.stats.bytes += 8
    // With multifd the peer may take nothing more from the other channels until it has seen this.
    await f.flush()
  }
}

/** First set bit from `from` on, or `end`. */
function nextDirty(bitmap: Int32Array, from: number, end: number): number {
  for (let page = from; page < end; ) {
    const bits = bitmap[page >>> 5]! >>> (page & 31)
    if (bits !== 0) return Math.min(page + 31 - Math.clz32(bits & -bits), end)
    page = (page | 31) + 1
  }
  return end
}
