import type { LiveSection, QEMUFileReader, RamBlock } from '@ferryvm/core'
import type { RamLoadError } from './ram-load-error.ts'

/** Where the page of a record belongs. Valid during the call it was handed to. */
export interface PageRecord {
  readonly block: RamBlock
  /** Bytes within the block; the page fits. */
  readonly offset: number
  /** The error to throw, which names block and position. */
  fail(message: string): RamLoadError
}

/**
 * Reads one kind of page record; the word and the block's name have been taken. How encodings are added: see `PageEncoder`.
 * Nothing in it waits: the loader brings the announced bytes first.
 */
export interface PageDecoder {
  /** The record's flag, without CONTINUE. */
  readonly flag: number
  /** Bytes before the payload that tell its length. */
  readonly headerBytes: number
  /** Takes the header. @returns bytes of the payload, checked against a bound */
  payloadBytes(f: QEMUFileReader, record: PageRecord): number
  /** Takes the payload and changes the page. */
  decode(f: QEMUFileReader, payloadBytes: number, record: PageRecord): void
}

/** What a migration's capabilities add to the loading of the `ram` section. */
export interface RamLoadSession {
  /** Beside ZERO, PAGE and XBZRLE. */
  readonly decoders?: readonly PageDecoder[]
  /** Pages beside the stream: page records are refused. */
  readonly pagesElsewhere?: boolean
  /** Fields that follow a block's name and length in the block list, in order. */
  readonly blockFields?: readonly BlockField[]
  /** A MULTIFD_FLUSH record; absent: refused. */
  flush?(): Promise<void>
  /** A HOOK record: pages move beside the stream now. Absent: refused. @param blocks as the stream listed them */
  hook?(blocks: readonly RamBlock[]): Promise<void>
  /** Blocks that are listed, and whose pages do not come. */
  ignores?(block: RamBlock): boolean
  /** EOS of any section. */
  sectionEnds?(section: LiveSection): void | Promise<void>
}

/** A field of the block list. The loader brings its bytes, then waits for what `load` returns. */
export interface BlockField {
  readonly bytes: number
  load(f: QEMUFileReader, record: PageRecord): void | Promise<void>
}
