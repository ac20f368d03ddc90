import { type GuestMemory, type QEMUFileReader, type RamBlock, StreamFormatError } from '@ferryvm/core'
import {
  flagNames,
  RAM_CONTINUE,
  RAM_EOS,
  RAM_FLAGS_MASK,
  RAM_MEM_SIZE,
  RAM_PAGE,
  RAM_SECTION_VERSION,
  RAM_ZERO,
} from './ram-records.ts'
import { createZeroPageTest, type IsZeroPage } from './zero-page.ts'

/** The RAM section is broken or does not fit this machine's memory. `block` is the block in question, if one was named. */
export class RamLoadError extends StreamFormatError {
  override readonly code = 'FERRY_RAM_LOAD'
  readonly block: string
  constructor(block: string, message: string, offset: number) {
    super(offset, block === '' ? message : `${block}: ${message}`)
    this.block = block
  }
}

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
  readonly #isZero: IsZeroPage
  #byName = new Map<string, RamBlock>()
  #last: RamBlock | undefined
  readonly #name = new Uint8Array(255)
  readonly #decoder = new TextDecoder()

  constructor(memory: GuestMemory, blocks: () => readonly RamBlock[], isZero: IsZeroPage = createZeroPageTest(memory)) {
    this.#blocks = blocks
    this.#isZero = isZero
  }

  /** A new stream begins. */
  begin(): void {
    this.#last = undefined
    this.#byName = new Map(this.#blocks().map((block) => [block.idstr, block]))
    this.stats.zeroPages = 0
    this.stats.normalPages = 0
  }

  /** The payload of one START, PART or END. Spec: ram.md sections 1 and 2. */
  *load(f: QEMUFileReader, version: number): Generator<number, void> {
    if (version !== RAM_SECTION_VERSION) {
      throw new RamLoadError('', `version ${version} of the section; only ${RAM_SECTION_VERSION} is known`, f.position)
    }
    for (let pages = 1; ; pages++) {
      if (f.available < 8) yield 8
      const at = f.position
      const high = f.getBe32()
      const low = f.getBe32()
      const flags = low & RAM_FLAGS_MASK
      // Doubles are exact up to 2^53, which is beyond every bound below.
      const offset = high * 2 ** 32 + ((low & ~RAM_FLAGS_MASK) >>> 0)
      switch (flags & ~RAM_CONTINUE) {
        case RAM_EOS:
          this.#plain(flags, at)
          return
        case RAM_MEM_SIZE:
          this.#plain(flags, at)
          yield* this.#blockList(f, offset)
          break
        case RAM_ZERO:
        case RAM_PAGE: {
          if (!(flags & RAM_CONTINUE)) yield* this.#blockName(f, at)
          const block = this.#last
          if (!block) throw new RamLoadError('', 'a page continues the previous block, but there was none', at)
          if (offset >= block.sizeBytes) {
            throw new RamLoadError(
              block.idstr,
              `a page at 0x${offset.toString(16)} of 0x${block.sizeBytes.toString(16)} bytes`,
              at,
            )
          }
          if (flags & RAM_ZERO) {
            if (f.available < 1) yield 1
            const fill = f.getByte()
            // Known senders write 0 only; the older one would fill the page with anything, the newer one refuses.
            if (fill !== 0) throw new RamLoadError(block.idstr, `a zero page is filled with 0x${fill.toString(16)}`, at)
            if (!this.#isZero(block.offset + offset)) block.bytes.fill(0, offset, offset + block.pageBytes)
            this.stats.zeroPages++
          } else {
            if (f.available < block.pageBytes) yield block.pageBytes
            f.getBuffer(block.bytes.subarray(offset, offset + block.pageBytes))
            this.stats.normalPages++
          }
          if (pages % PAGES_PER_YIELD === 0) yield 0
          break
        }
        default:
          throw new RamLoadError(
            '',
            `a record of kind ${flagNames(flags)} (0x${flags.toString(16)}) is not expected here`,
            at,
          )
      }
    }
  }

  #plain(flags: number, at: number): void {
    if (flags & RAM_CONTINUE) throw new RamLoadError('', `${flagNames(flags)} is no valid combination`, at)
  }

  *#blockName(f: QEMUFileReader, at: number): Generator<number, string> {
    if (f.available < 1) yield 1
    const length = f.getByte()
    if (f.available < length) yield length
    const bytes = this.#name.subarray(0, length)
    f.getBuffer(bytes)
    const name = this.#decoder.decode(bytes)
    const block = this.#byName.get(name)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: names from the wire are shown without them
    const shown = name.replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?')
    if (!block) throw new RamLoadError(shown, 'this machine has no RAM block of that name', at)
    this.#last = block
    return name
  }

  *#blockList(f: QEMUFileReader, totalBytes: number): Generator<number, void> {
    const seen = new Set<RamBlock>()
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
      block.onReceived?.()
      left -= block.sizeBytes
      if (left < 0) throw new RamLoadError(name, 'the listed blocks are larger than the announced total', at)
    }
    this.#last = undefined
  }
}
