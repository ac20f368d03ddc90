import { PAGE_BYTES, type RamBlock } from '@ferryvm/core'
import { trace } from '../../migration-trace.ts'
import type { PageDecoder } from '../page-decoding.ts'
import type { PageEncoder, RamRecordWriter, RamSaveSession } from '../page-encoding.ts'
import { RAM_PAGE, RAM_XBZRLE } from '../ram-records.ts'
import type { IsZeroPage } from '../zero-page.ts'
import { PageCache } from './page-cache.ts'
import type { XbzrleDecode } from './xbzrle-decode.ts'
import { XBZRLE_OVERFLOW } from './xbzrle-encode.ts'

/** The only encoding byte there is. */
const ENCODING = 1
const HEADER_BYTES = 3
const RATE_PERIOD_MS = 1000

/** `xbzrle-cache` of `query-migrate`. */
export interface XbzrleCacheInfo {
  'cache-size': number
  /** Of all records, without their words. */
  bytes: number
  pages: number
  'cache-miss': number
  /** Misses per page, in the last period of a second. */
  'cache-miss-rate': number
  /** How many times smaller pages became in that period. */
  'encoding-rate': number
  overflow: number
}

/** A page that was sent before travels as its difference to that. Stands before the encoder of zero pages. Spec: ram.md section 4. */
export class XbzrlePages implements PageEncoder {
  readonly #isZero: IsZeroPage
  readonly #cacheBytes: () => number
  readonly #info: XbzrleCacheInfo
  #session: RamSaveSession | undefined
  #cache: PageCache | undefined
  #configuredBytes = 0
  /** Pages beyond those of the guest would never be used. */
  #usefulSlots = 0
  /** Only once every page has been sent: before that a cache would not see a page twice. */
  #active = false
  #period = { began: 0, syncCount: 0, sent: 0, misses: 0, pages: 0, bytes: 0 }

  /** @param cacheBytes asked again and again: the size may change while the migration runs */
  constructor(isZero: IsZeroPage, cacheBytes: () => number) {
    this.#isZero = isZero
    this.#cacheBytes = cacheBytes
    this.#info = {
      'cache-size': 0,
      bytes: 0,
      pages: 0,
      'cache-miss': 0,
      'cache-miss-rate': 0,
      'encoding-rate': 0,
      overflow: 0,
    }
  }

  begin(session: RamSaveSession): void {
    this.#session = session
    const top = Math.max(...session.blocks.map(({ offset, sizeBytes }) => offset + sizeBytes))
    this.#usefulSlots = 2 ** Math.ceil(Math.log2(top / PAGE_BYTES))
    this.#period = { began: performance.now(), syncCount: 0, sent: 0, misses: 0, pages: 0, bytes: 0 }
    this.#resize()
  }

  encode(block: RamBlock, offset: number, out: RamRecordWriter): boolean {
    const cache = this.#cache
    if (!this.#active || !cache) return false
    const { stats, completing } = this.#session!
    const address = block.offset + offset
    const page = address / PAGE_BYTES
    const slot = cache.slotOf(page)
    if (this.#isZero(address)) {
      if (!cache.refuses(slot, page, stats.syncCount)) cache.claim(slot, page, stats.syncCount).fill(0)
      return false
    }
    const bytes = block.bytes.subarray(offset, offset + PAGE_BYTES)
    if (!cache.holds(slot, page)) {
      this.#info['cache-miss']++
      if (completing || cache.refuses(slot, page, stats.syncCount)) return false
      const copy = cache.claim(slot, page, stats.syncCount)
      copy.set(bytes)
      return this.#raw(copy, block, offset, out)
    }
    cache.used(slot, stats.syncCount)
    const length = cache.encode(slot, bytes)
    if (length === 0) {
      trace.save_xbzrle_page_skipping({})
      return true
    }
    if (!completing) cache.update(slot)
    if (length === XBZRLE_OVERFLOW) {
      this.#info.overflow++
      trace.save_xbzrle_page_overflow({})
      // What the cache holds and what is sent must be the same.
      return completing ? false : this.#raw(cache.contents(slot), block, offset, out)
    }
    const before = out.f.position
    out.page(RAM_XBZRLE, block, offset)
    out.f.putByte(ENCODING)
    out.f.putBe16(length)
    out.f.putBuffer(cache.encoded(length))
    this.#info.pages++
    this.#info.bytes += out.f.position - before - 8
    return true
  }

  /** The cache's copy stays as it is until the next pass, by when it has left. */
  #raw(copy: Uint8Array, block: RamBlock, offset: number, out: RamRecordWriter): boolean {
    out.page(RAM_PAGE, block, offset)
    out.f.putBufferAsync(copy)
    this.#session!.stats.normalPages++
    return true
  }

  wrapped(): void {
    this.#active = true
  }

  sectionEnds(): void {
    if (this.#cacheBytes() !== this.#configuredBytes) this.#resize()
    const { stats } = this.#session!
    const period = this.#period
    const now = performance.now()
    if (stats.syncCount === period.syncCount || now - period.began < RATE_PERIOD_MS) return
    const info = this.#info
    const sent = stats.normalPages + stats.zeroPages + info.pages
    const pages = info.pages - period.pages
    const bytes = info.bytes - period.bytes
    if (sent > period.sent) info['cache-miss-rate'] = (info['cache-miss'] - period.misses) / (sent - period.sent)
    info['encoding-rate'] = bytes > 0 ? (pages * PAGE_BYTES) / bytes : 0
    this.#period = {
      began: now,
      syncCount: stats.syncCount,
      sent,
      misses: info['cache-miss'],
      pages: info.pages,
      bytes: info.bytes,
    }
  }

  report(): { 'xbzrle-cache': XbzrleCacheInfo } {
    return { 'xbzrle-cache': { ...this.#info } }
  }

  cleanup(): void {
    this.#cache = undefined
    this.#active = false
  }

  #resize(): void {
    this.#configuredBytes = this.#cacheBytes()
    this.#info['cache-size'] = this.#configuredBytes
    const cache = new PageCache(Math.min(this.#configuredBytes / PAGE_BYTES, this.#usefulSlots))
    if (this.#cache) cache.adopt(this.#cache)
    this.#cache = cache
  }
}

/** Taken in whether or not the capability is on, as stock receivers do. */
export function xbzrleDecoder(decode: () => XbzrleDecode, pages: { normalPages: number }): PageDecoder {
  let apply: XbzrleDecode | undefined
  const encoded = new Uint8Array(PAGE_BYTES)
  return {
    flag: RAM_XBZRLE,
    headerBytes: HEADER_BYTES,
    payloadBytes(f, { fail }) {
      const encoding = f.getByte()
      if (encoding !== ENCODING) throw fail(`an XBZRLE page in encoding ${encoding}; only ${ENCODING} is known`)
      const length = f.getBe16()
      if (length > PAGE_BYTES) throw fail(`an XBZRLE page of ${length} bytes`)
      return length
    },
    decode(f, length, { block, offset, fail }) {
      apply ??= decode()
      const bytes = encoded.subarray(0, length)
      f.getBuffer(bytes)
      const problem = apply(bytes, block.offset + offset)
      if (problem) throw fail(`an XBZRLE page cannot be applied: ${problem}`)
      pages.normalPages++
    },
  }
}
