import { asChannelClosed, type CloseState } from './close-state.ts'

/** The reading side of a channel that is pushed to: chunks wait here for `read`. */
export class Inbox {
  readonly #state: CloseState
  readonly #drained: () => void
  readonly #consumed: ((chunk: Uint8Array) => void) | undefined
  readonly #chunks: Uint8Array[] = []
  /** How much of the first chunk was read. */
  #headRead = 0
  #bytes = 0
  #reader: { into: Uint8Array; resolve(count: number): void; reject(error: Error): void } | undefined
  #ended = false
  #failure: Error | undefined

  /**
   * @param drained all chunks were read: time to ask for more
   * @param consumed gets a chunk as it was pushed, once all of it was read
   */
  constructor(state: CloseState, drained: () => void, consumed?: (chunk: Uint8Array) => void) {
    this.#state = state
    this.#drained = drained
    this.#consumed = consumed
  }

  /** Bytes that wait. */
  get bytes(): number {
    return this.#bytes
  }

  push(chunk: Uint8Array): void {
    if (chunk.length === 0 || this.#ended) return
    this.#chunks.push(chunk)
    this.#bytes += chunk.length
    this.#serve()
  }

  end(): void {
    this.#ended = true
    this.#serve()
  }

  /** Reads that find no bytes reject from now on. */
  fail(error: unknown): void {
    this.#failure ??= asChannelClosed(error)
    this.#serve()
  }

  /** The channel was closed here: what waits is dropped. */
  drop(error: Error): void {
    this.#chunks.length = 0
    this.#headRead = 0
    this.#bytes = 0
    this.#failure = error
    this.#serve()
  }

  /** Everything that waits, for somebody else; undefined: a part was read already, or somebody waits. */
  takeAll(): Uint8Array[] | undefined {
    if (this.#reader || this.#headRead > 0 || this.#ended || this.#failure) return undefined
    this.#bytes = 0
    return this.#chunks.splice(0)
  }

  read(into: Uint8Array): number | Promise<number> {
    if (into.length === 0) throw new RangeError('a read needs room for one byte')
    if (this.#reader) throw new TypeError('a read of this channel is already waiting')
    if (this.#state.closed) return Promise.reject(this.#state.error())
    if (this.#bytes > 0) return this.#take(into)
    if (this.#failure) return Promise.reject(this.#failure)
    if (this.#ended) return 0
    return new Promise((resolve, reject) => {
      this.#reader = { into, resolve, reject }
      this.#drained()
    })
  }

  #serve(): void {
    const reader = this.#reader
    if (!reader) return
    if (this.#bytes === 0 && !this.#failure && !this.#ended) return
    this.#reader = undefined
    if (this.#bytes > 0) reader.resolve(this.#take(reader.into))
    else if (this.#failure) reader.reject(this.#failure)
    else reader.resolve(0)
  }

  #take(into: Uint8Array): number {
    let filled = 0
    while (filled < into.length && this.#chunks.length > 0) {
      const head = this.#chunks[0]!
      const part = head.subarray(this.#headRead, this.#headRead + into.length - filled)
      into.set(part, filled)
      filled += part.length
      this.#headRead += part.length
      if (this.#headRead === head.length) {
        this.#chunks.shift()
        this.#headRead = 0
        this.#consumed?.(head)
      }
    }
    this.#bytes -= filled
    if (this.#bytes === 0) this.#drained()
    return filled
  }
}
