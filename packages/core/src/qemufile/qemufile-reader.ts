import type { Channel } from '../channel/channel.ts'
import { StreamTruncatedError } from '../errors/stream-error.ts'
import type { QEMUFileReader } from './qemufile.ts'

const BUFFER_BYTES = 64 * 1024

class BufferedReader implements QEMUFileReader {
  readonly #channel: Channel | undefined
  #bytes: Uint8Array
  #view: DataView
  /** First byte not taken, and the end of what was read. */
  #start: number
  #end: number
  /** Stream offset of byte 0 of the buffer. */
  #base: number
  #ended: boolean

  constructor(channel: Channel | undefined, bytes: Uint8Array, end: number, base: number) {
    this.#channel = channel
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    this.#start = 0
    this.#end = end
    this.#base = base
    this.#ended = channel === undefined
  }

  get available(): number {
    return this.#end - this.#start
  }

  get position(): number {
    return this.#base + this.#start
  }

  get ended(): boolean {
    return this.#ended
  }

  getByte(): number {
    const at = this.#start
    if (at >= this.#end) this.#truncated(1)
    this.#start = at + 1
    return this.#bytes[at]!
  }

  getBe16(): number {
    const at = this.#take(2)
    return this.#view.getUint16(at)
  }

  getBe32(): number {
    const at = this.#take(4)
    return this.#view.getUint32(at)
  }

  getBe64(): bigint {
    const at = this.#take(8)
    return this.#view.getBigUint64(at)
  }

  getBuffer(into: Uint8Array): void {
    const at = this.#take(into.length)
    into.set(this.#bytes.subarray(at, at + into.length))
  }

  skip(bytes: number): void {
    this.#take(bytes)
  }

  /** Back to bytes that are still in the buffer. */
  rewind(position: number): void {
    const start = position - this.#base
    if (start < 0 || start > this.#end) throw new RangeError(`position ${position} is not in the buffer`)
    this.#start = start
  }

  restart(position: number): void {
    this.#start = 0
    this.#end = 0
    this.#base = position
    this.#ended = false
  }

  peekByte(offset = 0): number {
    const at = this.#start + offset
    return at < this.#end ? this.#bytes[at]! : -1
  }

  fill(bytes: number): void | Promise<void> {
    while (this.available < bytes && !this.#ended) {
      const count = this.#channel!.read(this.#room(bytes))
      if (typeof count !== 'number') return this.#fillLater(count, bytes)
      this.#received(count)
    }
  }

  async #fillLater(first: Promise<number>, bytes: number): Promise<void> {
    this.#received(await first)
    while (this.available < bytes && !this.#ended) {
      const count = this.#channel!.read(this.#room(bytes))
      this.#received(typeof count === 'number' ? count : await count)
    }
  }

  #received(count: number): void {
    if (count === 0) this.#ended = true
    else this.#end += count
  }

  /** Free space behind what is buffered, enough for `bytes` in all. */
  #room(bytes: number): Uint8Array {
    if (this.#start === this.#end) this.#shift(this.#bytes)
    else if (this.#start + bytes > this.#bytes.length || this.#end === this.#bytes.length) {
      const size = Math.max(this.#bytes.length, 2 ** Math.ceil(Math.log2(bytes)))
      this.#shift(size === this.#bytes.length ? this.#bytes : new Uint8Array(size))
    }
    if (bytes > this.#bytes.length) this.#shift(new Uint8Array(2 ** Math.ceil(Math.log2(bytes))))
    return this.#bytes.subarray(this.#end)
  }

  #shift(into: Uint8Array): void {
    const length = this.#end - this.#start
    if (into === this.#bytes) into.copyWithin(0, this.#start, this.#end)
    else {
      into.set(this.#bytes.subarray(this.#start, this.#end))
      this.#bytes = into
      this.#view = new DataView(into.buffer, into.byteOffset, into.length)
    }
    this.#base += this.#start
    this.#start = 0
    this.#end = length
  }

  #take(bytes: number): number {
    const at = this.#start
    if (at + bytes > this.#end) this.#truncated(bytes)
    this.#start = at + bytes
    return at
  }

  #truncated(wanted: number): never {
    throw new StreamTruncatedError(this.position, wanted, this.available)
  }
}

/** Buffers the incoming side of one channel. Only one `fill` at a time. */
export const createQEMUFileReader = (channel: Channel): QEMUFileReader =>
  new BufferedReader(channel, new Uint8Array(BUFFER_BYTES), 0, 0)

/**
 * A reader of bytes that are all here: packaged device state, tests.
 * @param position stream offset of the first byte, for error messages
 */
export const bufferReader = (
  bytes: Uint8Array,
  position = 0,
): QEMUFileReader & {
  /** To an earlier position. */
  rewind(position: number): void
} => new BufferedReader(undefined, bytes, bytes.length, position)

/**
 * Runs a load coroutine: whenever it yields n, waits until n bytes are available or the stream has ended; whenever it yields
 * a promise, waits for that. Returns without a promise when everything was here already.
 */
export function drive<T>(reader: QEMUFileReader, coroutine: Generator<number | Promise<void>, T>): T | Promise<T> {
  for (;;) {
    const step = coroutine.next()
    if (step.done) return step.value
    let filled: void | Promise<void>
    try {
      filled = typeof step.value === 'number' ? reader.fill(step.value) : step.value
    } catch (error) {
      coroutine.throw(error)
      throw error
    }
    if (filled !== undefined) return driveLater(reader, coroutine, filled)
  }
}

async function driveLater<T>(
  reader: QEMUFileReader,
  coroutine: Generator<number | Promise<void>, T>,
  first: Promise<void>,
): Promise<T> {
  let waiting: void | Promise<void> = first
  for (;;) {
    let step: IteratorResult<number | Promise<void>, T>
    try {
      if (waiting !== undefined) await waiting
      step = coroutine.next()
    } catch (error) {
      // Lets the coroutine clean up; an error thrown by itself has ended it already.
      step = coroutine.throw(error)
    }
    if (step.done) return step.value
    waiting = typeof step.value === 'number' ? reader.fill(step.value) : step.value
  }
}
