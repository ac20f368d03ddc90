/**
 * The source's side of postcopy: which pages the destination does not have, and in which order they go. What the
 * destination waits for goes first; the rest follows from there. Spec: ram.md section 10.
 */
import { nextTurn, PAGE_BYTES, type QEMUFileWriter, type RamBlock } from '@ferryvm/core'
import { trace } from '../migration-trace.ts'
import { type PageEncoder, RamRecordWriter } from '../ram/page-encoding.ts'
import { RAM_EOS } from '../ram/ram-records.ts'
import type { PageRange } from './postcopy-commands.ts'

/** Work on the device thread between two turns of the event loop. */
const TURN_MS = 1
/** Bytes handed to the channel at once: a page that is asked for waits behind no more than this and what the kernel holds. */
const FLUSH_BYTES = 64 * 1024
const PAGES_PER_LOOK = 16
const PASS_MS = 50

export interface UnsentBlock {
  readonly block: RamBlock
  readonly pages: number
  /** One bit per page, bit 0 of word 0 first. */
  readonly dirty: Int32Array
}

export interface PageSourceStats {
  /** Pages that the destination asked for. */
  requests: number
  /** Bytes of all page records. */
  bytes: number
}

export class PageSource {
  readonly stats: PageSourceStats = { requests: 0, bytes: 0 }
  readonly #blocks: readonly UnsentBlock[]
  readonly #byName: ReadonlyMap<string, UnsentBlock>
  readonly #encoders: readonly PageEncoder[]
  readonly #limited: () => boolean
  #unsent = 0
  #urgent: { entry: UnsentBlock; page: number }[] = []
  #out: RamRecordWriter | undefined
  /** The channel for what is asked for, if there is one. */
  #urgentOut: RamRecordWriter | undefined
  #lastRequested: UnsentBlock | undefined
  #blockIndex = 0
  #page = 0
  #wake: (() => void) | undefined

  /** @param encoders plain ones; they have begun @param limited the current window's budget is used up */
  constructor(blocks: readonly UnsentBlock[], encoders: readonly PageEncoder[], limited: () => boolean) {
    this.#blocks = blocks
    this.#byName = new Map(blocks.map((entry) => [entry.block.idstr, entry]))
    this.#encoders = encoders
    this.#limited = limited
    this.#count()
  }

  get blocks(): readonly RamBlock[] {
    return this.#blocks.map(({ block }) => block)
  }

  get remainingBytes(): number {
    return this.#unsent * PAGE_BYTES
  }

  /** Runs of pages that the destination must not have, per block. */
  *discards(): Generator<{ block: RamBlock; ranges: PageRange[] }> {
    for (const { block, pages, dirty } of this.#blocks) {
      const ranges: PageRange[] = []
      for (let page = nextBit(dirty, 0, pages, true); page < pages; ) {
        const end = nextBit(dirty, page, pages, false)
        ranges.push({ startBytes: page * PAGE_BYTES, lengthBytes: (end - page) * PAGE_BYTES })
        page = nextBit(dirty, end, pages, true)
      }
      for (const { startBytes, lengthBytes } of ranges) {
        trace.postcopy_discard_send_range({
          ramblock: block.idstr,
          start: startBytes / PAGE_BYTES,
          length: lengthBytes / PAGE_BYTES,
        })
      }
      if (ranges.length > 0) yield { block, ranges }
    }
  }

  /** A channel begins: blocks are named again. */
  connect(f: QEMUFileWriter, urgent?: QEMUFileWriter): void {
    this.#out = new RamRecordWriter(f)
    this.#urgentOut = urgent && new RamRecordWriter(urgent)
    this.#lastRequested = undefined
    this.#urgent = []
  }

  /** What the destination has after a break; the rest is sent again. @param received bit i of the bytes: page i */
  received(block: RamBlock, received: Uint8Array): void {
    const entry = this.#byName.get(block.idstr)!
    entry.dirty.fill(0)
    for (let page = 0; page < entry.pages; page++) {
      if (!(received[page >>> 3]! & (1 << (page & 7)))) entry.dirty[page >>> 5]! |= 1 << (page & 31)
    }
    this.#count()
  }

  /**
   * The destination waits for pages. @param idstr undefined: the block of the request before
   * @returns what is wrong with it
   */
  request(idstr: string | undefined, startBytes: number, lengthBytes: number): string | undefined {
    const entry = idstr === undefined ? this.#lastRequested : this.#byName.get(idstr)
    if (!entry) return idstr === undefined ? 'a request without a block, and none before' : `no RAM block "${idstr}"`
    this.#lastRequested = entry
    const { block } = entry
    trace.ram_save_queue_pages({ rbname: block.idstr, start: startBytes, len: lengthBytes })
    if (startBytes % PAGE_BYTES || lengthBytes % PAGE_BYTES || startBytes + lengthBytes > block.sizeBytes) {
      return `${lengthBytes} bytes at 0x${startBytes.toString(16)} are no pages of ${block.idstr}`
    }
    for (let page = startBytes / PAGE_BYTES; page < (startBytes + lengthBytes) / PAGE_BYTES; page++) {
      this.stats.requests++
      this.#urgent.push({ entry, page })
    }
    this.wake()
    if (this.#urgentOut) this.#sendUrgent(this.#urgentOut)
    return undefined
  }

  /** Says on the channel for requested pages that nothing follows there. */
  async endUrgent(): Promise<void> {
    this.#urgentOut?.marker(RAM_EOS)
    await this.#urgentOut?.f.flush()
  }

  /** Ends an {@link idle}. */
  wake(): void {
    this.#wake?.()
  }

  /** Resolves after `ms`, or as soon as the destination waits for a page. */
  async idle(ms: number, signal: AbortSignal): Promise<void> {
    if (this.#urgent.length > 0 || ms <= 0 || signal.aborted) return
    await new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', end)
        this.#wake = undefined
        resolve()
      }
      const timer = setTimeout(end, ms)
      signal.addEventListener('abort', end)
      this.#wake = end
    })
  }

  /** Records of one PART. @returns true when nothing is left */
  async iterate(f: QEMUFileWriter): Promise<boolean> {
    await this.#send(f, performance.now() + PASS_MS)
    return this.#unsent === 0
  }

  /** Records of END: nothing is left. */
  async complete(f: QEMUFileWriter): Promise<void> {
    await this.#send(f, Number.POSITIVE_INFINITY)
  }

  async #send(f: QEMUFileWriter, until: number): Promise<void> {
    const out = this.#out!
    let turnBegan = performance.now()
    while (this.#unsent > 0) {
      if (this.#urgent.length > 0 && !this.#urgentOut) this.#sendUrgent(out)
      else this.#sendSome(out)
      if (f.buffered >= FLUSH_BYTES) {
        const pending = f.flush()
        if (pending) await pending
      }
      const now = performance.now()
      if (now > until || (until !== Number.POSITIVE_INFINITY && this.#limited())) break
      if (now - turnBegan > TURN_MS) {
        await nextTurn()
        turnBegan = performance.now()
      }
    }
    out.marker(RAM_EOS)
    const pending = f.flush()
    if (pending) await pending
  }

  /** Everything that is waited for; the search for the rest goes on behind the last of it. */
  #sendUrgent(out: RamRecordWriter): void {
    const wanted = this.#urgent
    this.#urgent = []
    for (const { entry, page } of wanted) {
      const sent = this.#sendPage(entry, page, out)
      const at = { block_name: entry.block.idstr, tmp_offset: page * PAGE_BYTES, page_abs: page }
      if (sent) trace.get_queued_page(at)
      else trace.get_queued_page_not_dirty(at)
      this.#blockIndex = this.#blocks.indexOf(entry)
      this.#page = page + 1
    }
    if (out !== this.#urgentOut) return
    // Of the other channel; what breaks this one breaks that one too.
    const pending = out.f.flush()
    pending?.catch(() => {})
  }

  #sendSome(out: RamRecordWriter): void {
    for (let sent = 0; sent < PAGES_PER_LOOK && this.#unsent > 0; ) {
      const entry = this.#blocks[this.#blockIndex]!
      this.#page = nextBit(entry.dirty, this.#page, entry.pages, true)
      if (this.#page >= entry.pages) {
        this.#page = 0
        this.#blockIndex = (this.#blockIndex + 1) % this.#blocks.length
      } else if (this.#sendPage(entry, this.#page++, out)) sent++
    }
  }

  /** @returns false: it is on its way already */
  #sendPage({ block, dirty }: UnsentBlock, page: number, out: RamRecordWriter): boolean {
    const bit = 1 << (page & 31)
    if (!(dirty[page >>> 5]! & bit)) return false
    dirty[page >>> 5]! &= ~bit
    this.#unsent--
    const before = out.f.position
    this.#encoders.find((encoder) => encoder.encode(block, page * PAGE_BYTES, out))
    this.stats.bytes += out.f.position - before
    return true
  }

  #count(): void {
    this.#unsent = 0
    for (const { dirty } of this.#blocks) {
      for (let word of dirty) for (; word !== 0; word &= word - 1) this.#unsent++
    }
  }
}

/** First bit of that value from `from` on, or `end`. */
function nextBit(bitmap: Int32Array, from: number, end: number, value: boolean): number {
  for (let page = from; page < end; ) {
    const word = value ? bitmap[page >>> 5]! : ~bitmap[page >>> 5]!
    const bits = word >>> (page & 31)
    if (bits !== 0) return Math.min(page + 31 - Math.clz32(bits & -bits), end)
    page = (page | 31) + 1
  }
  return end
}
