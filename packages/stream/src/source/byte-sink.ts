/** Where a rewritten stream goes. */
export interface ByteSink {
  /** The bytes are borrowed until this returns or its promise settles. */
  write(bytes: Uint8Array): void | Promise<void>
}

/** Collects a stream in memory. */
export class BytesSink implements ByteSink {
  readonly #chunks: Uint8Array[] = []
  write(bytes: Uint8Array): void {
    this.#chunks.push(bytes.slice())
  }
  bytes(): Uint8Array {
    const all = new Uint8Array(this.#chunks.reduce((sum, c) => sum + c.length, 0))
    let at = 0
    for (const chunk of this.#chunks) {
      all.set(chunk, at)
      at += chunk.length
    }
    return all
  }
}

/** Growing big-endian output; emptied into a sink from time to time. */
export class ByteBuilder {
  #bytes = new Uint8Array(1 << 16)
  #view = new DataView(this.#bytes.buffer)
  #length = 0

  get length(): number {
    return this.#length
  }
  // `#room` may replace the buffer: it is asked first, in a statement of its own.
  u8(v: number): void {
    const at = this.#room(1)
    this.#bytes[at] = v
  }
  u16(v: number): void {
    const at = this.#room(2)
    this.#view.setUint16(at, v)
  }
  u32(v: number): void {
    const at = this.#room(4)
    this.#view.setUint32(at, v)
  }
  u64(v: bigint): void {
    const at = this.#room(8)
    this.#view.setBigUint64(at, v)
  }
  put(v: Uint8Array): void {
    const at = this.#room(v.length)
    this.#bytes.set(v, at)
  }
  /** One length byte, then the bytes as they came. */
  str8(v: Uint8Array): void {
    this.u8(v.length)
    this.put(v)
  }
  bytes(): Uint8Array {
    return this.#bytes.slice(0, this.#length)
  }
  flush(sink: ByteSink): void | Promise<void> {
    if (this.#length === 0) return
    const written = sink.write(this.#bytes.subarray(0, this.#length))
    this.#length = 0
    return written
  }

  #room(count: number): number {
    const at = this.#length
    if (at + count > this.#bytes.length) {
      let size = this.#bytes.length
      while (size < at + count) size *= 2
      const larger = new Uint8Array(size)
      larger.set(this.#bytes.subarray(0, at))
      this.#bytes = larger
      this.#view = new DataView(larger.buffer)
    }
    this.#length = at + count
    return at
  }
}
