import { type Compression, PAGE_BYTES, type RamBlock } from '@ferryvm/core'
import type { PageDecoder } from '../page-decoding.ts'
import type { PageEncoder, RamRecordWriter } from '../page-encoding.ts'
import { RAM_COMPRESS_PAGE } from '../ram-records.ts'
import type { IsZeroPage } from '../zero-page.ts'

/** What zlib may need at most for a page: `compressBound(4096)`. */
const MAX_COMPRESSED_BYTES = PAGE_BYTES + (PAGE_BYTES >> 12) + 13

/** `compression` of `query-migrate`. */
export interface CompressionInfo {
  pages: number
  /** How often no worker was free. */
  busy: number
  'busy-rate': number
  'compressed-size': number
  /** How many times smaller pages became. */
  'compression-rate': number
}

export interface CompressedPagesOptions {
  readonly zlib: Compression
  readonly isZero: IsZeroPage
  /** Live. */
  readonly parameters: {
    readonly 'compress-level': number
    readonly 'compress-threads': number
    readonly 'compress-wait-thread': boolean
  }
  /** XBZRLE takes over after the first pass. */
  readonly firstPassOnly: boolean
}

/** Each page as a zlib stream of its own, in any order (QEMU up to 9.0). Stands before zero and raw pages. Spec: ram.md section 6. */
export class CompressedPages implements PageEncoder {
  readonly #options: CompressedPagesOptions
  readonly #underWay = new Set<Promise<void>>()
  #done: { readonly offset: number; readonly data: Uint8Array }[] = []
  #failure: { readonly error: unknown } | undefined
  #over = false
  #info = { pages: 0, busy: 0, bytes: 0 }

  constructor(options: CompressedPagesOptions) {
    this.#options = options
  }

  encode(block: RamBlock, offset: number, out: RamRecordWriter): boolean | Promise<boolean> {
    if (this.#over) return false
    // The record that names a block is an ordinary one, and what is under way belongs to the block before.
    if (out.lastBlock !== block)
      return this.#underWay.size + this.#done.length > 0 ? this.#drain(out).then(() => false) : false
    this.#put(out)
    const { zlib, isZero, parameters } = this.#options
    if (isZero(block.offset + offset)) return false
    if (this.#underWay.size >= parameters['compress-threads']) {
      this.#info.busy++
      if (!parameters['compress-wait-thread']) return false
      return Promise.race(this.#underWay).then(() => this.encode(block, offset, out))
    }
    // A copy: the guest writes on.
    const compressing = zlib
      .compressWhole(block.bytes.slice(offset, offset + PAGE_BYTES), parameters['compress-level'])
      .then(
        (data) => void this.#done.push({ offset, data }),
        (error) => void (this.#failure ??= { error }),
      )
      .finally(() => this.#underWay.delete(compressing))
    this.#underWay.add(compressing)
    return true
  }

  async wrapped(out: RamRecordWriter): Promise<void> {
    await this.#drain(out)
    if (this.#options.firstPassOnly) this.#over = true
  }

  sectionEnds(_: 'start' | 'part' | 'end', out: RamRecordWriter): Promise<void> {
    return this.#drain(out)
  }

  report(): { compression: CompressionInfo } {
    const { pages, busy, bytes } = this.#info
    return {
      compression: {
        pages,
        busy,
        'busy-rate': pages > 0 ? busy / pages : 0,
        'compressed-size': bytes,
        'compression-rate': bytes > 0 ? (pages * PAGE_BYTES) / bytes : 0,
      },
    }
  }

  cleanup(): void {
    this.#done = []
  }

  async #drain(out: RamRecordWriter): Promise<void> {
    await Promise.all(this.#underWay)
    this.#put(out)
  }

  #put(out: RamRecordWriter): void {
    if (this.#failure) throw this.#failure.error
    for (const { offset, data } of this.#done.splice(0)) {
      out.page(RAM_COMPRESS_PAGE, out.lastBlock!, offset)
      out.f.putBe32(data.length)
      out.f.putBuffer(data)
      this.#info.pages++
      this.#info.bytes += data.length
    }
  }
}

/** Taken in only with the capability, as stock receivers do. */
export function compressedPageDecoder(zlib: Compression, pages: { normalPages: number }): PageDecoder {
  return {
    flag: RAM_COMPRESS_PAGE,
    headerBytes: 4,
    payloadBytes(f, { fail }) {
      const length = f.getBe32()
      if (length === 0 || length > MAX_COMPRESSED_BYTES) throw fail(`a compressed page of ${length} bytes`)
      return length
    },
    decode(f, length, { block, offset, fail }) {
      const data = new Uint8Array(length)
      f.getBuffer(data)
      try {
        zlib.decompressWhole(data, block.bytes.subarray(offset, offset + PAGE_BYTES))
      } catch (error) {
        throw fail(`a compressed page cannot be taken apart: ${(error as Error).message}`)
      }
      pages.normalPages++
    },
  }
}
