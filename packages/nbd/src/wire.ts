import { type Channel, createQEMUFileReader, createQEMUFileWriter, type QEMUFileWriter } from '@ferryvm/core'
import { NbdProtocolError } from './errors.ts'

/** Taken out of the buffer of the channel at a time, so that this never has to hold a whole request. */
const PIECE_BYTES = 256 * 1024

/** What comes from the other end, in the protocol's types. A stream that ends in the middle is a StreamTruncatedError. */
export class WireReader {
  readonly #f: ReturnType<typeof createQEMUFileReader>

  constructor(channel: Channel) {
    this.#f = createQEMUFileReader(channel)
  }

  /** Bytes taken so far. */
  get position(): number {
    return this.#f.position
  }

  /** Bytes that are here already. */
  get available(): number {
    return this.#f.available
  }

  /** Whether the other end is gone, and in order: between two messages. */
  async atEnd(): Promise<boolean> {
    await this.#f.fill(1)
    return this.#f.available === 0
  }

  async u16(): Promise<number> {
    await this.#f.fill(2)
    return this.#f.getBe16()
  }

  async u32(): Promise<number> {
    await this.#f.fill(4)
    return this.#f.getBe32()
  }

  async u64(): Promise<bigint> {
    await this.#f.fill(8)
    return this.#f.getBe64()
  }

  async into(target: Uint8Array): Promise<void> {
    for (let at = 0; at < target.length; at += PIECE_BYTES) {
      const piece = target.subarray(at, at + PIECE_BYTES)
      await this.#f.fill(piece.length)
      this.#f.getBuffer(piece)
    }
  }

  /** @param most what a length of this field may be: it comes from the other end @throws NbdProtocolError it is more */
  async bytes(field: string, length: number, most: number): Promise<Uint8Array> {
    if (length > most) throw this.wrong(field, `${length} bytes, where at most ${most} are possible`)
    const bytes = new Uint8Array(length)
    await this.into(bytes)
    return bytes
  }

  async skip(bytes: number): Promise<void> {
    for (let left = bytes; left > 0; ) {
      const piece = Math.min(left, PIECE_BYTES)
      await this.#f.fill(piece)
      this.#f.skip(piece)
      left -= piece
    }
  }

  /** @throws NbdProtocolError what comes is something else */
  async expect(field: string, wanted: bigint): Promise<void> {
    const found = await this.u64()
    if (found !== wanted) throw this.wrong(field, `0x${found.toString(16)} instead of 0x${wanted.toString(16)}`, 8)
  }

  /** @param back where the field began, bytes before the position */
  wrong(field: string, problem: string, back = 0): NbdProtocolError {
    return new NbdProtocolError(field, problem, this.position - back)
  }
}

/** Messages go out one after the other, whoever sends them. */
export class WireWriter {
  readonly #channel: Channel
  #last: Promise<void> = Promise.resolve()

  constructor(channel: Channel) {
    this.#channel = channel
  }

  /** The buffers are borrowed until this settles. @throws ChannelClosedError */
  send(buffers: readonly Uint8Array[]): Promise<void> {
    const sent = this.#last.then(() => this.#channel.write(buffers))
    // Whoever comes next finds out by itself.
    this.#last = sent.catch(() => {})
    return sent
  }

  /** While negotiating: put together as QEMU puts its own streams together. */
  async message(put: (f: QEMUFileWriter) => void): Promise<void> {
    const f = createQEMUFileWriter(this.#channel)
    put(f)
    await f.flush()
  }
}

const decoder = new TextDecoder('utf-8', { fatal: true })
const encoder = new TextEncoder()
export const encodeText = (text: string): Uint8Array => encoder.encode(text)

/** Text that the other end sent, for messages and names. @returns undefined it is none */
export function decodeText(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes)
  } catch {
    return undefined
  }
}

/** As text that may be printed. */
export const shown = (bytes: Uint8Array): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is looked for
  new TextDecoder().decode(bytes).replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?')
