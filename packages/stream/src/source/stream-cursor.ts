import type { ByteSource } from './byte-source.ts'

/** Stays in a core's cache, so that what was read is looked at there. */
const BUFFER_BYTES = 1 << 18

/**
 * A window on a source. What is `available` can be taken without waiting; `bytes` and `view` are open to hot loops,
 * which move `start` themselves. A `fill` may replace them.
 */
export class StreamCursor {
  readonly #source: ByteSource
  bytes: Uint8Array<ArrayBuffer>
  view: DataView
  /** First byte not taken, and the end of what was read, in `bytes`. */
  start = 0
  end = 0
  ended = false
  /** Stream offset of `bytes[0]`. */
  #base = 0

  constructor(source: ByteSource) {
    this.#source = source
    const { size = BUFFER_BYTES, bytes } = source
    if (bytes) {
      this.end = bytes.length
      this.ended = true
    }
    this.bytes = bytes ?? new Uint8Array(Math.min(BUFFER_BYTES, Math.max(4096, size + 1)))
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length)
  }

  get available(): number {
    return this.end - this.start
  }
  /** Stream offset of the next byte. */
  get position(): number {
    return this.#base + this.start
  }

  /** Until that many bytes are available, or the stream has ended. */
  fill(count: number): void | Promise<void> {
    while (this.available < count && !this.ended) {
      const read = this.#source.read(this.#room(count))
      if (typeof read !== 'number') return this.#fillLater(read, count)
      this.#received(read)
    }
  }
  async #fillLater(first: Promise<number>, count: number): Promise<void> {
    this.#received(await first)
    while (this.available < count && !this.ended) this.#received(await this.#source.read(this.#room(count)))
  }
  #received(count: number): void {
    if (count === 0) this.ended = true
    else this.end += count
  }
  #room(count: number): Uint8Array {
    if (this.start + count > this.bytes.length || this.end === this.bytes.length) {
      let size = this.bytes.length
      while (size < count) size *= 2
      const length = this.available
      if (size === this.bytes.length) this.bytes.copyWithin(0, this.start, this.end)
      else {
        const larger = new Uint8Array(size)
        larger.set(this.bytes.subarray(this.start, this.end))
        this.bytes = larger
        this.view = new DataView(larger.buffer)
      }
      this.#base += this.start
      this.start = 0
      this.end = length
    }
    return this.bytes.subarray(this.end)
  }

  /** Moves past bytes that nobody looks at; cheap where the source can seek. Needs a `fill` afterwards. */
  jump(count: number): boolean {
    if (count <= this.available) {
      this.start += count
      return true
    }
    if (!this.#source.skip || this.ended) return false
    this.#source.skip(count - this.available)
    this.#base += this.end + (count - this.available)
    this.start = 0
    this.end = 0
    return true
  }

  /** A look at bytes that are available; valid until the next `fill`. */
  peek(count: number, offset = 0): Uint8Array {
    return this.bytes.subarray(this.start + offset, this.start + offset + count)
  }
  u8(offset = 0): number {
    return this.bytes[this.start + offset]!
  }
  u16(offset = 0): number {
    return this.view.getUint16(this.start + offset)
  }
  u32(offset = 0): number {
    return this.view.getUint32(this.start + offset)
  }
  /** Exact up to 2^53; what is larger is out of every bound anyway. */
  u64(offset = 0): number {
    return this.u32(offset) * 0x1_0000_0000 + this.u32(offset + 4)
  }
}
