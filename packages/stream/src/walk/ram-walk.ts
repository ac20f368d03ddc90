import type { StreamCursor } from '../source/stream-cursor.ts'
import type { WalkBounds } from './bounds.ts'
import { countPages, type PageCounts } from './page-counts.ts'
import type { MappedRam, RamBlockEntry, RamRecord, SectionHeader, StreamVisitor } from './visitor.ts'

/** Spec: ram.md section 1. */
export const RamFlag = {
  ZERO: 0x002,
  MEM_SIZE: 0x004,
  PAGE: 0x008,
  EOS: 0x010,
  CONTINUE: 0x020,
  XBZRLE: 0x040,
  HOOK: 0x080,
  COMPRESS: 0x100,
  MULTIFD_FLUSH: 0x200,
} as const
const FLAG_MASK = 0x3ff
/** Word, name, length word; what comes before a page. */
const RECORD_HEAD_BYTES = 8 + 256 + 4
/** Of a stream in memory: its visitor settles this often. */
const PAUSE_BYTES = 1 << 20
const latin1 = new TextDecoder('latin1')
const utf8 = new TextDecoder()

/** Stops the walk; the caller tells the visitor. */
export class WalkStop extends Error {
  readonly offset: number
  readonly expected: string | undefined
  constructor(offset: number, message: string, expected?: string) {
    super(message)
    this.offset = offset
    this.expected = expected
  }
}

/** Most visitors look at no page, and there are hundreds of thousands: a view of each would cost more than all the rest. */
class WindowRecord implements RamRecord {
  kind: RamRecord['kind'] = 'eos'
  offset = 0
  block = -1
  pageOffset = 0
  size = 0
  payloadAt = 0
  window = new Uint8Array(0)
  at = 0
  get bytes(): Uint8Array {
    return this.window.subarray(this.at, this.at + this.size)
  }
}

/** RAM of one stream: what is remembered from section to section. */
export class RamWalk {
  readonly #cursor: StreamCursor
  readonly #visitor: StreamVisitor
  readonly #bounds: WalkBounds
  readonly #record = new WindowRecord()
  blocks: RamBlockEntry[] = []
  readonly #index = new Map<string, number>()
  #last = -1
  /** Of block `#last`, where the visitor wants no more. */
  #counts: PageCounts | undefined
  pageBytes = 4096
  /** From the configuration's capabilities. */
  ignoreShared = false
  mappedRam = false
  /** Nothing may be asked for that need not come. */
  live = false
  #outside = false
  #pauseAt = 0

  constructor(cursor: StreamCursor, visitor: StreamVisitor, bounds: WalkBounds) {
    this.#cursor = cursor
    this.#visitor = visitor
    this.#bounds = bounds
  }

  /** Reads records up to and including EOS. */
  *section(header: SectionHeader, progress: (position: number) => void): Generator<number, void> {
    const cursor = this.#cursor
    const record = this.#record
    const visit = this.#visitor.ram
    for (;;) {
      if (this.#counts) cursor.start = countPages(cursor.view, cursor.start, cursor.end, this.pageBytes, this.#counts)
      if (cursor.available < RECORD_HEAD_BYTES + this.pageBytes || cursor.position >= this.#pauseAt) {
        this.#pauseAt = cursor.position + PAUSE_BYTES
        progress(cursor.position)
        if (this.live) yield* this.#wholeRecord()
        else yield RECORD_HEAD_BYTES + this.pageBytes
        if (cursor.available < 8) this.#truncated('a RAM record', 8)
      }
      const at = cursor.start
      const { bytes } = cursor
      const low = cursor.view.getUint32(at + 4)
      const flags = low & FLAG_MASK
      const kind = flags & ~RamFlag.CONTINUE
      if (kind === RamFlag.MEM_SIZE) {
        yield* this.#blockList(header)
        continue
      }
      const position = cursor.position
      record.offset = position
      if (kind === RamFlag.EOS || kind === RamFlag.MULTIFD_FLUSH || kind === RamFlag.HOOK) {
        record.kind = kind === RamFlag.EOS ? 'eos' : kind === RamFlag.HOOK ? 'hook' : 'flush'
        record.block = -1
        record.payloadAt = 8
        record.size = 8
        record.window = bytes
        record.at = at
        cursor.start = at + 8
        visit?.call(this.#visitor, record)
        if (kind === RamFlag.EOS) return
        continue
      }
      let head = 8
      let block = this.#last
      if (!(flags & RamFlag.CONTINUE)) {
        const length = bytes[at + 8]!
        head = 9 + length
        if (cursor.available < head) this.#truncated('the name of a RAM block', head)
        const name = latin1.decode(bytes.subarray(at + 9, at + head))
        const found = this.#index.get(name)
        if (found === undefined)
          throw new WalkStop(position, `RAM block "${printable(name)}" is not in the block list`, this.#blockNames())
        this.#last = block = found
        this.#counts = this.#visitor.counts?.(block, this.pageBytes)
      } else if (block < 0) throw new WalkStop(position, 'a RAM record continues a block before any was named')
      const room = cursor.available - head
      const payload = this.#payloadBytes(kind, at + head, room, position)
      if (payload < 0) {
        yield head - payload
        if (cursor.available < head - payload) this.#truncated('the payload of a RAM record', head - payload)
        continue
      }
      if (room < payload) {
        if (cursor.ended) this.#truncated('a RAM page', head + payload)
        yield head + payload
        if (cursor.available < head + payload) this.#truncated('a RAM page', head + payload)
        // The window may have moved: the record is looked at again.
        continue
      }
      const pageOffset = cursor.view.getUint32(at) * 0x1_0000_0000 + (low - flags)
      if (pageOffset >= this.blocks[block]!.usedLength && !this.#outside) {
        this.#outside = true
        const { idstr, usedLength } = this.blocks[block]!
        this.#visitor.problem?.({
          offset: position,
          message: `page 0x${pageOffset.toString(16)} lies outside of RAM block ${idstr}`,
          expected: `an offset below 0x${usedLength.toString(16)}`,
          section: `${header.idstr}/${header.instanceId}`,
          fatal: false,
        })
      }
      record.kind =
        kind === RamFlag.ZERO
          ? 'zero'
          : kind === RamFlag.PAGE
            ? 'page'
            : kind === RamFlag.XBZRLE
              ? 'xbzrle'
              : 'compressed'
      record.block = block
      record.pageOffset = pageOffset
      record.payloadAt = head
      record.size = head + payload
      record.window = bytes
      record.at = at
      cursor.start = at + head + payload
      visit?.call(this.#visitor, record)
    }
  }

  /** Until the record that begins here is all there. */
  *#wholeRecord(): Generator<number, void> {
    const cursor = this.#cursor
    yield 8
    if (cursor.available < 8) return
    const flags = cursor.u32(4) & FLAG_MASK
    const kind = flags & ~RamFlag.CONTINUE
    if (!(kind & (RamFlag.ZERO | RamFlag.PAGE | RamFlag.XBZRLE | RamFlag.COMPRESS))) return
    let head = 8
    if (!(flags & RamFlag.CONTINUE)) {
      yield 9
      if (cursor.available < 9) return
      head += 1 + cursor.u8(8)
    }
    for (let payload = 0; ; ) {
      yield head + payload
      if (cursor.available < head + payload) return
      const wanted = Math.abs(this.#payloadBytes(kind, cursor.start + head, cursor.available - head, cursor.position))
      if (wanted <= payload) return
      payload = wanted
    }
  }

  /** Payload of a page record; negative: minus the bytes that must be there to tell. */
  #payloadBytes(kind: number, at: number, room: number, position: number): number {
    const { view } = this.#cursor
    switch (kind) {
      case RamFlag.ZERO:
        return 1
      case RamFlag.PAGE:
        return this.pageBytes
      case RamFlag.XBZRLE: {
        if (room < 3) return -3
        const length = view.getUint16(at + 1)
        if (length > this.pageBytes)
          throw new WalkStop(position, `an XBZRLE record of ${length} bytes`, `at most ${this.pageBytes}`)
        return 3 + length
      }
      case RamFlag.COMPRESS: {
        if (room < 4) return -4
        const length = view.getUint32(at)
        // A generous compressBound.
        const most = this.pageBytes + (this.pageBytes >> 8) + 64
        if (length > most) throw new WalkStop(position, `a compressed page of ${length} bytes`, `at most ${most}`)
        return 4 + length
      }
      default:
        throw new WalkStop(
          position,
          `a RAM record with flags 0x${kind.toString(16)}`,
          'one of zero 0x2, page 0x8, end 0x10, xbzrle 0x40, compressed 0x100, flush 0x200',
        )
    }
  }

  *#blockList(header: SectionHeader): Generator<number, void> {
    const cursor = this.#cursor
    const total = cursor.u64() - RamFlag.MEM_SIZE
    const raw: Uint8Array[] = [cursor.peek(8).slice()]
    cursor.start += 8
    const blocks: RamBlockEntry[] = []
    this.#index.clear()
    let left = total
    while (left > 0) {
      if (blocks.length >= this.#bounds.ramBlocks)
        throw new WalkStop(cursor.position, `more than ${this.#bounds.ramBlocks} RAM blocks`)
      yield RECORD_HEAD_BYTES + 64
      if (cursor.available < 1 || cursor.available < 1 + cursor.u8() + 8)
        this.#truncated(`the list of RAM blocks (${left} of ${total} bytes are still to be listed)`, 9)
      const length = cursor.u8()
      const start = cursor.position
      const name = latin1.decode(cursor.peek(length, 1))
      const usedLength = cursor.u64(1 + length)
      let size = 9 + length
      if (usedLength > left)
        throw new WalkStop(
          start,
          `RAM block "${printable(name)}" of ${usedLength} bytes`,
          `at most ${left}, what is left of the total`,
        )
      // A host page size is at least 4096; the next name is at most 255 long, the next word at most 0x200.
      const word = cursor.available >= size + 8 ? cursor.u64(size) : 0
      const hostPage = word >= 4096 && word <= 0x4_0000_0000 && Number.isInteger(Math.log2(word)) && !this.mappedRam
      let entry: { -readonly [K in keyof RamBlockEntry]: RamBlockEntry[K] } = { idstr: name, usedLength }
      if (hostPage && !this.ignoreShared) {
        entry = { ...entry, hostPageBytes: word }
        size += 8
      }
      if (this.ignoreShared) {
        if (cursor.available < size + 8) this.#truncated('the address of a RAM block', size + 8)
        entry = { ...entry, gpa: cursor.u64(size) }
        size += 8
      }
      raw.push(cursor.peek(size).slice())
      cursor.start += size
      if (this.mappedRam) {
        entry.mapped = yield* this.#mapped(usedLength, (piece) => {
          if (raw.length > 0) this.#visitor.mappedBytes?.(concat(raw.splice(0)))
          this.#visitor.mappedBytes?.(piece)
        })
      }
      if (!this.#index.has(name)) this.#index.set(name, blocks.length)
      blocks.push(entry)
      left -= usedLength
    }
    this.blocks = blocks
    this.#last = -1
    this.#counts = undefined
    this.#visitor.ramBlocks?.({ totalBytes: total, blocks }, header, concat(raw))
  }

  /** Header, bitmap, gap and pages of one block of a mapped-ram file. */
  *#mapped(usedLength: number, give: (bytes: Uint8Array) => void): Generator<number, MappedRam> {
    const cursor = this.#cursor
    yield 28
    if (cursor.available < 28) this.#truncated('the header of a mapped RAM block', 28)
    const at = cursor.position
    const version = cursor.u32()
    const pageBytes = cursor.u64(4)
    const bitmapOffset = cursor.u64(12)
    const pagesOffset = cursor.u64(20)
    if (version > 1) throw new WalkStop(at, `version ${version} of a mapped RAM block`, 'version 1')
    if (pageBytes < 1024 || !Number.isInteger(Math.log2(pageBytes)))
      throw new WalkStop(at + 4, `a page size of ${pageBytes}`, 'a power of two')
    const bitmapBytes = Math.ceil(usedLength / pageBytes / 64) * 8
    if (bitmapOffset !== at + 28)
      throw new WalkStop(at + 12, `a bitmap at 0x${bitmapOffset.toString(16)}`, `0x${(at + 28).toString(16)}`)
    if (pagesOffset < bitmapOffset + bitmapBytes)
      throw new WalkStop(at + 20, `pages at 0x${pagesOffset.toString(16)}`, 'an offset behind the bitmap')
    give(cursor.peek(28))
    cursor.start += 28
    let pageCount = 0
    yield* this.#stretch(bitmapBytes, (bytes) => {
      for (const byte of bytes) pageCount += BITS[byte]!
      give(bytes)
    })
    yield* this.#stretch(
      pagesOffset - bitmapOffset - bitmapBytes + usedLength,
      this.#visitor.mappedBytes ? give : undefined,
    )
    return { version, pageBytes, bitmapOffset, pagesOffset, pageCount }
  }

  /** Many bytes, a window at a time; nobody wants them: the source may seek. */
  *#stretch(bytes: number, give: ((bytes: Uint8Array) => void) | undefined): Generator<number, void> {
    const cursor = this.#cursor
    for (let left = bytes; left > 0; ) {
      if (!give && cursor.jump(left)) return
      yield 1
      const take = Math.min(left, cursor.available)
      if (take === 0) this.#truncated('a mapped RAM block', left)
      give?.(cursor.peek(take))
      cursor.start += take
      left -= take
    }
  }

  #truncated(what: string, wanted: number): never {
    const { position, available } = this.#cursor
    throw new WalkStop(position, `the stream ends inside of ${what}`, `${wanted} bytes, ${available} are there`)
  }
  #blockNames(): string {
    const names = this.blocks.slice(0, 12).map((b) => b.idstr)
    return names.length > 0 ? `one of ${names.join(', ')}` : 'a list of blocks first'
  }
}

const BITS = Uint8Array.from({ length: 256 }, (_, n) => n.toString(2).replaceAll('0', '').length)

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

/** Names come from the stream: no control characters, no kilobytes. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?').slice(0, 80)
}
export const decodeName = (bytes: Uint8Array): string => utf8.decode(bytes)
