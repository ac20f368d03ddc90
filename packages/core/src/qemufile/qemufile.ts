/** Buffering over one Channel, big-endian. Never flushes by itself in the middle of a device section. */
export interface QEMUFileWriter {
  putByte(v: number): void
  putBe16(v: number): void
  putBe32(v: number): void
  putBe64(v: bigint): void
  /** Copies. */
  putBuffer(v: Uint8Array): void
  /** Queues a reference, not a copy: guest pages go from RAM to the channel untouched. */
  putBufferAsync(page: Uint8Array): void
  /** One length byte, then UTF-8. */
  putStr8(text: string): void
  /** Bytes put so far. */
  readonly position: number
  /** Bytes put and not yet accepted by the channel. */
  readonly buffered: number
  flush(): void | Promise<void>
}
export interface QEMUFileReader {
  /** Bytes that can be taken without waiting. */
  readonly available: number
  /** Bytes taken so far. */
  readonly position: number
  readonly ended: boolean
  getByte(): number
  getBe16(): number
  getBe32(): number
  getBe64(): bigint
  getBuffer(into: Uint8Array): void
  skip(bytes: number): void
  /** -1 when that byte is not there (yet, or ever). */
  peekByte(offset?: number): number
  /**
   * Resolves once that many bytes are available or the stream has ended. Taking more than is there throws
   * StreamTruncatedError; peeking returns -1 (looking for a subsection is a peek, and may meet the end).
   */
  fill(bytes: number): void | Promise<void>
  /** The channel was set to another place: what is buffered is forgotten, what comes next is that position of the stream. */
  restart(position: number): void
}
