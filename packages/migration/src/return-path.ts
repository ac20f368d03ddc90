import type { QEMUFileReader, QEMUFileWriter } from '@ferryvm/core'
import { DestinationFailedError, ReturnPathError } from './errors.ts'

/** Messages from the destination to the source, on the reverse direction of the main channel. Spec: ram.md section 10. */
const SHUT = 1
const PONG = 2
const SWITCHOVER_ACK = 7
const KNOWN: Readonly<Record<number, { name: string; length: number }>> = {
  [SHUT]: { name: 'SHUT', length: 4 },
  [PONG]: { name: 'PONG', length: 4 },
  3: { name: 'REQ_PAGES_ID', length: -1 },
  4: { name: 'REQ_PAGES', length: 12 },
  5: { name: 'RECV_BITMAP', length: -1 },
  6: { name: 'RESUME_ACK', length: 4 },
  [SWITCHOVER_ACK]: { name: 'SWITCHOVER_ACK', length: 0 },
}

/** Destination's end. */
export class ReturnPathSender {
  readonly #f: QEMUFileWriter
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
  async #message(type: number, value: number): Promise<void> {
    this.#f.putBe16(type)
    this.#f.putBe16(4)
    this.#f.putBe32(value)
    await this.#f.flush()
  }
}

/**
 * Source's end: reads until SHUT.
 * @returns when the destination said that it has loaded everything
 * @throws DestinationFailedError it said that it has not, or went away without a word
 * @throws ReturnPathError
 */
export async function receiveReturnPath(f: QEMUFileReader, onPong: (value: number) => void): Promise<void> {
  for (;;) {
    await f.fill(4)
    if (f.available < 4) {
      throw new DestinationFailedError('the destination went away before it had loaded everything')
    }
    const at = f.position
    const type = f.getBe16()
    const length = f.getBe16()
    const known = KNOWN[type]
    if (!known) throw new ReturnPathError(`unknown message ${type} on the return path (offset ${at})`)
    if (known.length >= 0 && length !== known.length) {
      throw new ReturnPathError(`${known.name} with ${length} bytes on the return path (offset ${at})`)
    }
    if (type !== SHUT && type !== PONG && type !== SWITCHOVER_ACK) {
      throw new ReturnPathError(`${known.name} on the return path of a migration without postcopy (offset ${at})`)
    }
    await f.fill(length)
    if (type === SWITCHOVER_ACK) continue
    const value = f.getBe32()
    if (type === PONG) onPong(value)
    else if (value === 0) return
    else throw new DestinationFailedError(`the destination failed to load the stream (status ${value})`)
  }
}
