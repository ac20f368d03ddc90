import type { GuestMemory, LiveSection, QEMUFileReader, RamBlock } from '@ferryvm/core'
import { trace } from '../migration-trace.ts'
import type { PageDecoder, PageRecord, RamLoadSession } from './page-decoding.ts'
import { plainPageDecoders } from './plain-pages.ts'
import { RamLoadError } from './ram-load-error.ts'
import {
  flagNames,
  RAM_CONTINUE,
  RAM_EOS,
  RAM_FLAGS_MASK,
  RAM_HOOK,
  RAM_MEM_SIZE,
  RAM_MULTIFD_FLUSH,
  RAM_SECTION_VERSION,
} from './ram-records.ts'
import { createXbzrleDecode } from './xbzrle/xbzrle-decode.ts'
import { xbzrleDecoder } from './xbzrle/xbzrle-pages.ts'
import { createZeroPageTest, type IsZeroPage } from './zero-page.ts'

/** Pages between two looks at the clock while loading; a page takes well under a microsecond. */
const PAGES_PER_YIELD = 256

/** Counters of one incoming migration. */
export interface RamLoadStats {
  zeroPages: number
  normalPages: number
}

/** Receiving half of the `ram` handler. Keeps, over all sections of one stream, which block the last page belonged to. */
export class RamLoader {
  readonly stats: RamLoadStats = { zeroPages: 0, normalPages: 0 }
  readonly #blocks: () => readonly RamBlock[]
  readonly #plain: readonly PageDecoder[]
  #session: RamLoadSession = {}
  #decoders = new Map<number, PageDecoder>()
  #byName = new Map<string, RamBlock>()
  #last: RamBlock | undefined
  #sections = 0
  /** In the order of the stream's block list. */
  #listed: readonly RamBlock[] = []
  readonly #name = new Uint8Array(255)
  readonly #text = new TextDecoder()
  /** Of the page being read; one object for all, as there are millions. */
  readonly #record: { -readonly [K in keyof PageRecord]: PageRecord[K] } & { at: number }

  constructor(memory: GuestMemory, blocks: () => readonly RamBlock[], isZero: IsZeroPage = createZeroPageTest(memory)) {
    this.#blocks = blocks
    this.#plain = [
      ...plainPageDecoders(isZero, this.stats),
      xbzrleDecoder(() => createXbzrleDecode(memory), this.stats),
    ]
    const record = {
      block: undefined as unknown as RamBlock,
      offset: 0,
      at: 0,
      fail: (message: string) => new RamLoadError(record.block.idstr, message, record.at),
    }
    this.#record = record
  }

  /** A new stream begins. */
  begin(session: RamLoadSession = {}): void {
    this.#session = session
    const decoders = [...(session.pagesElsewhere ? [] : this.#plain), ...(session.decoders ?? [])]
    this.#decoders = new Map(decoders.map((decoder) => [decoder.flag, decoder]))
    this.#last = undefined
    this.#listed = []
    this.#byName = new Map(this.#blocks().map((block) => [block.idstr, block]))
    this.stats.zeroPages = 0
    this.stats.normalPages = 0
  }

  /** The stream goes on, and its pages elsewhere. */
  redirect(decoders: readonly PageDecoder[]): void {
    this.#decoders = new Map(decoders.map((decoder) => [decoder.flag, decoder]))
  }

  /** The payload of one START, PART or END. Spec: ram.md sections 1 and 2. */
  *load(f: QEMUFileReader, version: number, kind: LiveSection = 'part'): Generator<number | Promise<void>, void> {
    if (version !== RAM_SECTION_VERSION) {
      throw new RamLoadError('', `version ${version} of the section; only ${RAM_SECTION_VERSION} is known`, f.position)
    }
    const section = ++this.#sections
    trace.ram_load_start({})
    const record = this.#record
    for (let pages = 1; ; pages++) {
      if (f.available < 8) yield 8
      const at = f.position
      const high = f.getBe32()
      const low = f.getBe32()
      const flags = low & RAM_FLAGS_MASK
      // Doubles are exact up to 2^53, which is beyond every bound below.
      const offset = high * 2 ** 32 + ((low & ~RAM_FLAGS_MASK) >>> 0)
      const decoder = this.#decoders.get(flags & ~RAM_CONTINUE)
      if (!decoder) {
        const done = yield* this.#marker(f, flags, offset, at, kind)
        if (!done) continue
        trace.ram_load_complete({ ret: 0, seq_iter: section })
        return
      }
      if (!(flags & RAM_CONTINUE)) yield* this.#blockName(f, at)
      const block = this.#last
      if (!block) throw new RamLoadError('', 'a page continues the previous block, but there was none', at)
      if (this.#session.ignores?.(block)) {
        throw new RamLoadError(block.idstr, 'a page of a block that is shared, and so is not sent', at)
      }
      if (offset >= block.sizeBytes) {
        const where = `a page at 0x${offset.toString(16)} of 0x${block.sizeBytes.toString(16)} bytes`
        throw new RamLoadError(block.idstr, where, at)
      }
      record.block = block
      record.offset = offset
      record.at = at
      if (trace.ram_load_loop.enabled)
        trace.ram_load_loop({ rbname: block.idstr, addr: offset, flags, host: block.offset + offset })
      if (f.available < decoder.headerBytes) yield decoder.headerBytes
      const bytes = decoder.payloadBytes(f, record)
      if (f.available < bytes) yield bytes
      decoder.decode(f, bytes, record)
      if (pages % PAGES_PER_YIELD === 0) yield 0
    }
  }

  /** A record without a page. @returns whether it was the last one */
  *#marker(
    f: QEMUFileReader,
    flags: number,
    offset: number,
    at: number,
    kind: LiveSection,
  ): Generator<number | Promise<void>, boolean> {
    const session = this.#session
    const plain = () => {
      if (flags & RAM_CONTINUE) throw new RamLoadError('', `${flagNames(flags)} is no valid combination`, at)
    }
    switch (flags & ~RAM_CONTINUE) {
      case RAM_EOS: {
        plain()
        const pending = session.sectionEnds?.(kind)
        if (pending) yield pending
        return true
      }
      case RAM_MEM_SIZE:
        plain()
        yield* this.#blockList(f, offset)
        return false
      case RAM_HOOK:
        if (session.hook) {
          plain()
          yield session.hook(this.#listed)
          return false
        }
        break
      case RAM_MULTIFD_FLUSH:
        if (session.flush) {
          plain()
          yield session.flush()
          return false
        }
    }
    const what = `a record of kind ${flagNames(flags)} (0x${flags.toString(16)}) is not expected here`
    throw new RamLoadError('', what, at)
  }

  *#blockName(f: QEMUFileReader, at: number): Generator<number, string> {
    if (f.available < 1) yield 1
    const length = f.getByte()
    if (f.available < length) yield length
    const bytes = this.#name.subarray(0, length)
    f.getBuffer(bytes)
    const name = this.#text.decode(bytes)
    const block = this.#byName.get(name)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: names from the wire are shown without them
    const shown = name.replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?')
    if (!block) throw new RamLoadError(shown, 'this machine has no RAM block of that name', at)
    this.#last = block
    return name
  }

  *#blockList(f: QEMUFileReader, totalBytes: number): Generator<number | Promise<void>, void> {
    const seen = new Set<RamBlock>()
    const record = this.#record
    for (let left = totalBytes; left > 0; ) {
      const at = f.position
      const name = yield* this.#blockName(f, at)
      const block = this.#last!
      if (f.available < 8) yield 8
      const used = f.getBe64()
      if (used !== BigInt(block.sizeBytes)) {
        throw new RamLoadError(
          name,
          `the sender's block has 0x${used.toString(16)} bytes, ours 0x${block.sizeBytes.toString(16)}`,
          at,
        )
      }
      if (seen.has(block)) throw new RamLoadError(name, 'the sender lists it twice', at)
      seen.add(block)
      for (const field of this.#session.blockFields ?? []) {
        if (f.available < field.bytes) yield field.bytes
        record.block = block
        record.offset = 0
        record.at = f.position
        const pending = field.load(f, record)
        if (pending) yield pending
      }
      block.onReceived?.()
      left -= block.sizeBytes
      if (left < 0) throw new RamLoadError(name, 'the listed blocks are larger than the announced total', at)
    }
    this.#last = undefined
    this.#listed = [...seen]
  }
}
