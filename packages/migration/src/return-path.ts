import type { QEMUFileReader, QEMUFileWriter } from '@ferryvm/core'
import { DestinationFailedError, ReturnPathError } from './errors.ts'
import { trace } from './migration-trace.ts'

/** Messages from the destination to the source, on the reverse direction of the main channel. Spec: ram.md section 10. */
const SHUT = 1
const PONG = 2
const REQ_PAGES_ID = 3
const REQ_PAGES = 4
const RECV_BITMAP = 5
const RESUME_ACK = 6
const SWITCHOVER_ACK = 7
const KNOWN: Readonly<Record<number, { name: string; length: number }>> = {
  [SHUT]: { name: 'SHUT', length: 4 },
  [PONG]: { name: 'PONG', length: 4 },
  [REQ_PAGES_ID]: { name: 'REQ_PAGES_ID', length: -1 },
  [REQ_PAGES]: { name: 'REQ_PAGES', length: 12 },
  [RECV_BITMAP]: { name: 'RECV_BITMAP', length: -1 },
  [RESUME_ACK]: { name: 'RESUME_ACK', length: 4 },
  [SWITCHOVER_ACK]: { name: 'SWITCHOVER_ACK', length: 0 },
}
const MAX_MESSAGE_BYTES = 512
const RESUME_VALUE = 1
const BITMAP_END = 0x0123456789abcdefn
/** Of a block of 4 GiB, which no block of ours exceeds. */
const MAX_BITMAP_BYTES = 2 ** 20 / 8

/** Destination's end. */
export class ReturnPathSender {
  readonly #f: QEMUFileWriter
  #lastRequested: string | undefined
  constructor(f: QEMUFileWriter) {
    this.#f = f
  }
  pong(value: number): Promise<void> {
    return this.#message(PONG, value)
  }
  /** Last message. @param status 0: loaded */
  shut(status: number): Promise<void> {
    return this.#message(SHUT, status)
  }
  resumeAck(): Promise<void> {
    return this.#message(RESUME_ACK, RESUME_VALUE)
  }
  /** Somebody waits for these pages of that block. */
  async requestPages(idstr: string, startBytes: number, lengthBytes: number): Promise<void> {
    const f = this.#f
    trace.migrate_send_rp_message({ msg_type: idstr === this.#lastRequested ? REQ_PAGES : REQ_PAGES_ID, len: 12 })
    const again = idstr === this.#lastRequested
    const name = new TextEncoder().encode(idstr)
    f.putBe16(again ? REQ_PAGES : REQ_PAGES_ID)
    f.putBe16(again ? 12 : 13 + name.length)
    f.putBe64(BigInt(startBytes))
    f.putBe32(lengthBytes)
    if (!again) f.putStr8(idstr)
    this.#lastRequested = idstr
    await f.flush()
  }
  async recvBitmap(idstr: string, bitmap: Uint8Array): Promise<void> {
    const f = this.#f
    trace.migrate_send_rp_recv_bitmap({ name: idstr, size: bitmap.length })
    f.putBe16(RECV_BITMAP)
    f.putBe16(1 + new TextEncoder().encode(idstr).length)
    f.putStr8(idstr)
    f.putBe64(BigInt(bitmap.length))
    f.putBuffer(bitmap)
    f.putBe64(BITMAP_END)
    await f.flush()
  }
  async #message(type: number, value: number): Promise<void> {
    trace.migrate_send_rp_message({ msg_type: type, len: 4 })
    this.#f.putBe16(type)
    this.#f.putBe16(4)
    this.#f.putBe32(value)
    await this.#f.flush()
  }
}

/** What the source does with messages. What has no handler is refused. */
export interface ReturnPathHandlers {
  pong?(value: number): void
  /** @param idstr undefined: the block of the request before @returns what is wrong with it */
  request?(idstr: string | undefined, startBytes: number, lengthBytes: number): string | undefined
  /** @returns what is wrong with it */
  bitmap?(idstr: string, bitmap: Uint8Array): string | undefined
  resumeAck?(): void
}

/**
 * Source's end: reads until SHUT.
 * @returns when the destination said that it has loaded everything
 * @throws DestinationFailedError it said that it has not, or went away without a word
 * @throws ReturnPathError
 */
export async function receiveReturnPath(f: QEMUFileReader, handlers: ReturnPathHandlers): Promise<void> {
  trace.source_return_path_thread_entry({})
  try {
    await receive(f, handlers)
    trace.source_return_path_thread_end({})
  } catch (error) {
    trace.source_return_path_thread_bad_end({})
    throw error
  }
}

async function receive(f: QEMUFileReader, handlers: ReturnPathHandlers): Promise<void> {
  for (;;) {
    trace.source_return_path_thread_loop_top({})
    await f.fill(4)
    if (f.available < 4) {
      throw new DestinationFailedError('the destination went away before it had loaded everything')
    }
    const at = f.position
    const type = f.getBe16()
    const length = f.getBe16()
    const known = KNOWN[type]
    if (!known) throw new ReturnPathError(`unknown message ${type} on the return path (offset ${at})`)
    const wrong = (problem: string) => new ReturnPathError(`${known.name} ${problem} (offset ${at})`)
    if ((known.length >= 0 && length !== known.length) || length > MAX_MESSAGE_BYTES) {
      throw wrong(`with ${length} bytes on the return path`)
    }
    await fill(f, length)
    switch (type) {
      case SHUT: {
        const status = f.getBe32()
        trace.source_return_path_thread_shut({ val: status })
        if (status === 0) return
        throw new DestinationFailedError(`the destination failed to load the stream (status ${status})`, { status })
      }
      case PONG: {
        const value = f.getBe32()
        trace.source_return_path_thread_pong({ val: value })
        handlers.pong?.(value)
        break
      }
      case SWITCHOVER_ACK:
        trace.source_return_path_thread_switchover_acked({})
        break
      case REQ_PAGES_ID:
      case REQ_PAGES: {
        if (!handlers.request) throw wrong('on the return path of a migration without postcopy')
        if (length < 12) throw wrong(`with ${length} bytes on the return path`)
        const start = f.getBe64()
        const bytes = f.getBe32()
        const idstr = type === REQ_PAGES_ID ? takeName(f, length - 12) : undefined
        if (type === REQ_PAGES_ID && idstr === undefined) throw wrong('without a proper name of a block')
        trace.migrate_handle_rp_req_pages({ rbname: idstr ?? '', start, len: bytes })
        const problem = handlers.request(idstr, Number(start), bytes)
        if (problem) throw wrong(`: ${problem}`)
        break
      }
      case RECV_BITMAP: {
        if (!handlers.bitmap) throw wrong('on the return path, and nobody asked for it')
        const idstr = takeName(f, length)
        if (idstr === undefined) throw wrong('without a proper name of a block')
        const problem = handlers.bitmap(idstr, await takeBitmap(f, wrong))
        if (problem) throw wrong(`: ${problem}`)
        break
      }
      case RESUME_ACK: {
        const value = f.getBe32()
        trace.source_return_path_thread_resume_ack({ v: value })
        if (!handlers.resumeAck || value !== RESUME_VALUE) throw wrong(`with value ${value} on the return path`)
        handlers.resumeAck()
      }
    }
  }
}

async function fill(f: QEMUFileReader, bytes: number): Promise<void> {
  await f.fill(bytes)
  if (f.available < bytes) throw new DestinationFailedError('the destination went away in the middle of a message')
}

/** A str8 that is all of `length` bytes. */
function takeName(f: QEMUFileReader, length: number): string | undefined {
  if (length < 1 || f.getByte() !== length - 1) return undefined
  const name = new Uint8Array(length - 1)
  f.getBuffer(name)
  return new TextDecoder().decode(name)
}

async function takeBitmap(f: QEMUFileReader, wrong: (problem: string) => ReturnPathError): Promise<Uint8Array> {
  await fill(f, 8)
  const size = f.getBe64()
  if (size > MAX_BITMAP_BYTES) throw wrong(`with a bitmap of ${size} bytes`)
  const bitmap = new Uint8Array(Number(size))
  await fill(f, bitmap.length + 8)
  f.getBuffer(bitmap)
  const mark = f.getBe64()
  if (mark !== BITMAP_END) throw wrong(`with a bitmap that ends with 0x${mark.toString(16)}`)
  return bitmap
}
