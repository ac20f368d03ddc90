import type { Channel } from '../channel/channel.ts'
import type { QEMUFileWriter } from './qemufile.ts'

const CHUNK_BYTES = 32 * 1024
/** A `putBuffer` of this size or more is copied into a chunk of its own. */
const BIG_BYTES = 16 * 1024
const SPARE_CHUNKS = 8

const text = new TextEncoder()
type Bytes = Uint8Array<ArrayBuffer>

/** Collects bytes in chunks; guest pages are kept as references between them. */
abstract class ChunkedWriter implements QEMUFileWriter {
  #chunk: Bytes = new Uint8Array(CHUNK_BYTES)
  #view = new DataView(this.#chunk.buffer)
  /** First byte of the chunk that is not in `queue` yet, and the first free one. */
  #start = 0
  #end = 0
  #queue: Uint8Array[] = []
  #queued = 0
  #flushed = 0
  #full: Bytes[] = []
  readonly #spare: Bytes[] = []

  get position(): number {
    return this.#flushed + this.#queued + (this.#end - this.#start)
  }

  get buffered(): number {
    return this.#queued + (this.#end - this.#start)
  }

  putByte(v: number): void {
    if (this.#end === CHUNK_BYTES) this.#nextChunk()
    this.#chunk[this.#end++] = v
  }

  putBe16(v: number): void {
    if (this.#end + 2 > CHUNK_BYTES) this.#nextChunk()
    this.#view.setUint16(this.#end, v)
    this.#end += 2
  }

  putBe32(v: number): void {
    if (this.#end + 4 > CHUNK_BYTES) this.#nextChunk()
    this.#view.setUint32(this.#end, v)
    this.#end += 4
  }

  putBe64(v: bigint): void {
    if (this.#end + 8 > CHUNK_BYTES) this.#nextChunk()
    this.#view.setBigUint64(this.#end, v)
    this.#end += 8
  }

  putBuffer(v: Uint8Array): void {
    if (v.length >= BIG_BYTES) {
      this.putBufferAsync(v.slice())
      return
    }
    if (this.#end + v.length > CHUNK_BYTES) this.#nextChunk()
    this.#chunk.set(v, this.#end)
    this.#end += v.length
  }

  putBufferAsync(page: Uint8Array): void {
    this.#seal()
    this.#queue.push(page)
    this.#queued += page.length
  }

  putStr8(string: string): void {
    const bytes = text.encode(string)
    if (bytes.length > 255) throw new RangeError(`'${string}' is longer than 255 bytes`)
    this.putByte(bytes.length)
    this.putBuffer(bytes)
  }

  abstract flush(): void | Promise<void>

  /** What is buffered, in order; the caller gives the chunks back when nobody reads the buffers any more. */
  protected takeQueue(): { buffers: Uint8Array[]; bytes: number; release: () => void } {
    this.#seal()
    const buffers = this.#queue
    const bytes = this.#queued
    const chunks = this.#full
    this.#queue = []
    this.#full = []
    this.#queued = 0
    this.#flushed += bytes
    const sharesCurrent = this.#start > 0
    if (sharesCurrent) {
      chunks.push(this.#chunk)
      this.#useChunk(this.#spare.pop() ?? new Uint8Array(CHUNK_BYTES))
    }
    return {
      buffers,
      bytes,
      release: () => {
        for (const chunk of chunks) if (this.#spare.length < SPARE_CHUNKS) this.#spare.push(chunk)
      },
    }
  }

  #seal(): void {
    if (this.#end === this.#start) return
    this.#queue.push(this.#chunk.subarray(this.#start, this.#end))
    this.#queued += this.#end - this.#start
    this.#start = this.#end
  }

  #nextChunk(): void {
    this.#seal()
    this.#full.push(this.#chunk)
    this.#useChunk(this.#spare.pop() ?? new Uint8Array(CHUNK_BYTES))
  }

  #useChunk(chunk: Bytes): void {
    this.#chunk = chunk
    this.#view = new DataView(chunk.buffer)
    this.#start = 0
    this.#end = 0
  }
}

class ChannelWriter extends ChunkedWriter {
  readonly #channel: Channel
  #inFlight: Promise<void> | undefined
  #inFlightBytes = 0
  #failure: { error: unknown } | undefined

  constructor(channel: Channel) {
    super()
    this.#channel = channel
  }

  override get buffered(): number {
    return super.buffered + this.#inFlightBytes
  }

  flush(): void | Promise<void> {
    if (this.#failure) throw this.#failure.error
    if (this.#inFlight) return this.#inFlight.then(() => this.flush())
    const { buffers, bytes, release } = this.takeQueue()
    if (bytes === 0) return
    const done = this.#channel.write(buffers)
    if (done === undefined) {
      release()
      return
    }
    this.#inFlightBytes = bytes
    this.#inFlight = done.then(
      () => {
        this.#inFlight = undefined
        this.#inFlightBytes = 0
        release()
      },
      (error: unknown) => {
        this.#inFlight = undefined
        this.#failure = { error }
        throw error
      },
    )
    return this.#inFlight
  }
}

/**
 * Buffers for one channel, until `flush`. After a failed flush every later one fails with the same error.
 * The pages of `putBufferAsync` must stay readable until the flush after it settled.
 */
export const createQEMUFileWriter = (channel: Channel): QEMUFileWriter => new ChannelWriter(channel)

class BufferWriter extends ChunkedWriter {
  flush(): void {}

  bytes(): Uint8Array<ArrayBuffer> {
    const { buffers, bytes, release } = this.takeQueue()
    const all = new Uint8Array(bytes)
    let at = 0
    for (const buffer of buffers) {
      all.set(buffer, at)
      at += buffer.length
    }
    release()
    return all
  }
}

/** A writer into memory. `bytes()` hands over everything put since it was last called. */
export const bufferWriter = (): QEMUFileWriter & { bytes(): Uint8Array<ArrayBuffer> } => new BufferWriter()
