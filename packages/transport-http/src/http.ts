import {
  ChannelClosedError,
  type ChannelFeature,
  defineTransport,
  type SeekableChannel,
  singleChannelListener,
  type Transport,
  type TransportContext,
  UnsupportedFeatureError,
} from '@ferryvm/core'
import { HttpAddressError, HttpRequestError } from './errors.ts'
import { type FileFacts, type RangeRequestOptions, requestRange } from './range-request.ts'

/** One direction only: nothing is written to a server. */
const FEATURES: ReadonlySet<ChannelFeature> = new Set<ChannelFeature>(['seekable'])
/** Read at once for the stream, which is read in small pieces. */
const AHEAD_BYTES = 128 * 1024
/** A request that failed in a way that may pass is made again after these times. */
const RETRY_AFTER_MS = [100, 300, 1000, 3000]

export interface HttpOptions {
  /** `http:` from other hosts too: whoever is on the way could give another guest. Default false. */
  readonly allowPlaintext?: boolean
  /** Default: the host's. For credentials, say. */
  readonly fetch?: typeof globalThis.fetch
  /** A request that brings no byte for so long has failed. Default 30000 ms. */
  readonly silenceTimeoutMs?: number
}

/** `https://host/path`: a guest comes out of a file on a server that answers range requests. Runs in browsers. */
export const https = (options: HttpOptions = {}): Transport<string> => overHttp('https', options)

/** {@link https} without encryption: from this host only, unless `allowPlaintext`. */
export const http = (options: HttpOptions = {}): Transport<string> => overHttp('http', options)

function overHttp(scheme: 'http' | 'https', options: HttpOptions): Transport<string> {
  const { allowPlaintext = false, fetch = globalThis.fetch, silenceTimeoutMs = 30_000 } = options
  return defineTransport<string>({
    scheme,
    features: FEATURES,
    parseAddress(text) {
      const url = `${scheme}:${text}`
      const parsed = text.startsWith('//') && URL.canParse(url) ? new URL(url) : undefined
      if (!parsed) throw new HttpAddressError(url, `expected ${scheme}://host/path`)
      if (scheme === 'http' && !allowPlaintext && !isLoopback(parsed.hostname)) {
        throw new HttpAddressError(
          url,
          'a guest from another host comes over https:, or plaintext has to be allowed here',
        )
      }
      return text
    },
    formatAddress: (text) => text,
    async connect() {
      throw new UnsupportedFeatureError('writing', `${scheme}:`)
    },
    async listen(text, context) {
      const file = new HttpFile(`${scheme}:${text}`, { fetch, silenceTimeoutMs }, context)
      await file.open()
      return singleChannelListener(text, file, context.signal)
    },
  })
}

const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host)

class HttpFile implements SeekableChannel {
  readonly features = FEATURES
  position = 0
  readonly #url: string
  readonly #options: RangeRequestOptions
  readonly #abort = new AbortController()
  #facts: FileFacts | undefined
  /** What was read last for the stream. */
  #ahead = { at: 0, bytes: new Uint8Array(0) }
  #reading = false
  #closed: ChannelClosedError | undefined

  constructor(url: string, options: Omit<RangeRequestOptions, 'signal'>, { signal }: TransportContext) {
    this.#url = url
    this.#options = { ...options, signal: this.#abort.signal }
    signal.addEventListener('abort', () => void this.close(signal.reason), { once: true })
    if (signal.aborted) void this.close(signal.reason)
  }

  /** @throws the server refuses */
  async open(): Promise<void> {
    await this.#readAhead(0)
  }

  get version(): string | undefined {
    return this.#facts?.version ?? (this.#facts?.sizeBytes === undefined ? undefined : `${this.#facts.sizeBytes} bytes`)
  }

  seek(position: number): void {
    this.position = position
  }

  async read(into: Uint8Array): Promise<number> {
    if (into.length === 0) throw new RangeError('a read needs room for one byte')
    if (this.#reading) throw new TypeError('a read of this channel is already waiting')
    this.#reading = true
    try {
      if (this.#closed) throw this.#closed
      if (!this.#isAhead(this.position, 1)) {
        if (this.position >= (this.#facts?.sizeBytes ?? Number.POSITIVE_INFINITY)) return 0
        await this.#readAhead(this.position)
      }
      const { at, bytes } = this.#ahead
      const part = bytes.subarray(this.position - at, this.position - at + into.length)
      into.set(part)
      this.position += part.length
      return part.length
    } finally {
      this.#reading = false
    }
  }

  async readAt(into: Uint8Array, position: number): Promise<number> {
    if (this.#closed) throw this.#closed
    if (this.#isAhead(position, into.length)) {
      const from = position - this.#ahead.at
      into.set(this.#ahead.bytes.subarray(from, from + into.length))
      return into.length
    }
    if (into.length === 0 || position >= (this.#facts?.sizeBytes ?? Number.POSITIVE_INFINITY)) return 0
    return this.#request(into, position)
  }

  write(): Promise<void> {
    return Promise.reject(this.#closed ?? new UnsupportedFeatureError('writing', this.#url))
  }

  writeAt(): Promise<void> {
    return this.write()
  }

  shutdown(): Promise<void> {
    return Promise.reject(this.#closed ?? new UnsupportedFeatureError('shutdown', this.#url))
  }

  async close(reason?: Error): Promise<void> {
    this.#closed ??= reason
      ? new ChannelClosedError(`the channel is closed: ${reason.message}`, { cause: reason })
      : new ChannelClosedError()
    this.#abort.abort(this.#closed)
  }

  #isAhead(position: number, bytes: number): boolean {
    const { at, bytes: ahead } = this.#ahead
    return position >= at && position + bytes <= at + ahead.length
  }

  async #readAhead(at: number): Promise<void> {
    const bytes = new Uint8Array(AHEAD_BYTES)
    this.#ahead = { at, bytes: bytes.subarray(0, await this.#request(bytes, at)) }
  }

  async #request(into: Uint8Array, at: number): Promise<number> {
    for (let tries = 0; ; tries++) {
      try {
        const { filled, facts } = await requestRange(this.#url, at, into, this.#facts, this.#options)
        this.#facts ??= facts
        return filled
      } catch (error) {
        const waitMs = RETRY_AFTER_MS[tries]
        const mayPass = error instanceof HttpRequestError && error.retryable
        // Whoever opens it is there to hear of a failure at once.
        if (!mayPass || waitMs === undefined || !this.#facts) throw error
        await new Promise((resolve) => setTimeout(resolve, waitMs))
        if (this.#closed) throw this.#closed
      }
    }
  }
}
