import type { QEMUFileWriter, RamBlock } from '@ferryvm/core'
import type { MigrationInfo } from '../info.ts'
import { RAM_CONTINUE } from './ram-records.ts'

/**
 * One way to bring a dirty page to the peer. A migration has a list of them, and every page goes to the first that takes it.
 *
 * To add one: write a `PageEncoder` in a file of its own below `ram/`, with its `PageDecoder` beside it if the page travels as
 * a record in the stream; add both to `ram/encodings.ts`, which picks them by capabilities and says in which order; an
 * encoding with counters of its own adds them to `query-migrate` in `report`. An encoder never keeps a reference to
 * the caller's state: what it needs is in the session that `begin` hands over.
 *
 * Order of calls: begin, (blockEntry for every block), sectionEnds('start'), then encode any number of times with `wrapped`
 * and sectionEnds in between, sectionEnds('end'), cleanup. After `cleanup` the next call is `begin`, for another migration.
 */
export interface PageEncoder {
  /** A migration starts; nothing has been written. */
  begin?(session: RamSaveSession): void | Promise<void>
  /** Writes its own fields of the block list, after the block's name and length. */
  blockEntry?(block: RamBlock, f: QEMUFileWriter): void | Promise<void>
  /**
   * The page's dirty bit has been cleared already, so a write from now on makes it dirty again.
   * @returns false: not for me, ask the next one. A promise: it is done when that resolves, and no other page is asked for
   *   until then, which is how an encoding with queues of its own holds the sender back.
   */
  encode(block: RamBlock, offset: number, out: RamRecordWriter): boolean | Promise<boolean>
  /** The search for dirty pages came to the end of the block list and begins anew: a page may now be sent a second time. */
  wrapped?(out: RamRecordWriter): void | Promise<void>
  /** Just before the EOS record of that section. `end`: the guest is stopped, and no page follows. */
  sectionEnds?(section: 'start' | 'part' | 'end', out: RamRecordWriter): void | Promise<void>
  /** Its counters in `query-migrate`, while and after it was used. */
  report?(): Partial<MigrationInfo>
  /** Bytes of pages that went elsewhere than into the stream. */
  readonly bytesBeside?: number
  /** Also after a failure, and perhaps without a `begin`. */
  cleanup?(): void
}

export interface RamSaveSession {
  readonly blocks: readonly RamBlock[]
  /** Counters of pages; the encoder that sends a page counts it. */
  readonly stats: { zeroPages: number; normalPages: number; readonly syncCount: number }
  /** The guest is stopped and sends its last pages. */
  readonly completing: boolean
}

/** Page records on the main stream: writes the word, and the block's name where the record before had another block. */
export class RamRecordWriter {
  readonly f: QEMUFileWriter
  #last: RamBlock | undefined

  constructor(f: QEMUFileWriter) {
    this.f = f
  }

  /** The block that the next page record can leave unnamed. */
  get lastBlock(): RamBlock | undefined {
    return this.#last
  }

  /** The payload of that kind of record has to follow. */
  page(flag: number, block: RamBlock, offset: number): void {
    const { f } = this
    f.putBe32(0) // a block is below 4 GiB
    if (block === this.#last) f.putBe32(offset + flag + RAM_CONTINUE)
    else {
      f.putBe32(offset + flag)
      f.putStr8(block.idstr)
      this.#last = block
    }
  }

  /** A record without a page. */
  marker(flag: number): void {
    this.f.putBe64(BigInt(flag))
  }

  /** The next page names its block again: what the peer remembers may be lost. */
  forgetBlock(): void {
    this.#last = undefined
  }
}
