import type { Socket } from 'node:net'

/** Content types of a TLS record. Spec: RFC 8446, section 5.1. */
const ALERT = 21
const APPLICATION_DATA = 23
const HEADER_BYTES = 5
/** TLS 1.3 hides an alert in application data: level, description, true type, and a tag of 16 bytes. Section 5.2. */
const SEALED_ALERT_BYTES = 2 + 1 + 16

/** Whether a stream that ended was ended on purpose, or cut. To be asked only while no data has arrived. */
export interface StreamTail {
  handshakeIsOver(): void
  readonly endsWithAlert: boolean
}

/**
 * Of a socket whose records nobody sees: what came behind the handshake, and was no data, was an alert. A server of TLS 1.3 may have sent
 * session tickets as well; its end then passes for one on purpose.
 */
export class SocketTail implements StreamTail {
  readonly #socket: Socket
  #handshakeBytes = 0

  constructor(socket: Socket) {
    this.#socket = socket
  }

  handshakeIsOver(): void {
    this.#handshakeBytes = this.#socket.bytesRead
  }

  get endsWithAlert(): boolean {
    return this.#socket.bytesRead > this.#handshakeBytes
  }
}

/**
 * Follows the records that arrive, to know whether the last one was an alert: a stream that ends with close_notify was ended
 * on purpose, one that ends without it was cut. Two bytes of data are as long as a sealed alert, so ask only while no data
 * has arrived.
 */
export class RecordTail implements StreamTail {
  readonly #header = new Uint8Array(HEADER_BYTES)
  #headerBytes = 0
  #bodyLeft = 0
  #length = 0

  handshakeIsOver(): void {}

  get endsWithAlert(): boolean {
    if (this.#bodyLeft > 0 || this.#headerBytes < HEADER_BYTES) return false
    return this.#header[0] === ALERT || (this.#header[0] === APPLICATION_DATA && this.#length === SEALED_ALERT_BYTES)
  }

  push(bytes: Uint8Array): void {
    let at = 0
    while (at < bytes.length) {
      if (this.#bodyLeft > 0) {
        const part = Math.min(this.#bodyLeft, bytes.length - at)
        this.#bodyLeft -= part
        at += part
        continue
      }
      if (this.#headerBytes === HEADER_BYTES) this.#headerBytes = 0
      this.#header[this.#headerBytes++] = bytes[at++]!
      if (this.#headerBytes === HEADER_BYTES) {
        this.#length = (this.#header[3]! << 8) | this.#header[4]!
        this.#bodyLeft = this.#length
      }
    }
  }
}
