import { HttpChangedError, HttpRangeError, HttpRequestError } from './errors.ts'

export interface RangeRequestOptions {
  readonly fetch: typeof globalThis.fetch
  /** ms without a byte after which a request is given up. */
  readonly silenceTimeoutMs: number
  readonly signal: AbortSignal
}

/** What a server says of a file, so far as it says anything. */
export interface FileFacts {
  readonly sizeBytes: number | undefined
  /** Its strong ETag, or when it was changed. */
  readonly version: string | undefined
}

/**
 * Fills `into` from a position of the file on.
 *
 * @param expected what an earlier answer said
 * @returns how much was filled: less only at the file's end; and what the server says
 * @throws HttpRequestError HttpRangeError HttpChangedError
 */
export async function requestRange(
  url: string,
  at: number,
  into: Uint8Array,
  expected: FileFacts | undefined,
  options: RangeRequestOptions,
): Promise<{ filled: number; facts: FileFacts }> {
  const abort = new AbortController()
  const giveUp = () => abort.abort(options.signal.reason)
  options.signal.addEventListener('abort', giveUp)
  let timer: ReturnType<typeof setTimeout> | undefined
  const stillAlive = () => {
    clearTimeout(timer)
    timer = setTimeout(
      () => abort.abort(new Error(`nothing came for ${options.silenceTimeoutMs} ms`)),
      options.silenceTimeoutMs,
    )
  }
  try {
    options.signal.throwIfAborted()
    stillAlive()
    const headers = { range: `bytes=${at}-${at + into.length - 1}` }
    // The browser's cache would keep gigabytes, page by page.
    const response = await options.fetch(url, { headers, signal: abort.signal, cache: 'no-store' })
    const facts = checkAnswer(url, response, at, expected)
    const wanted = facts.sizeBytes === undefined ? into.length : Math.min(into.length, facts.sizeBytes - at)
    let filled = 0
    for await (const chunk of chunksOf(response)) {
      stillAlive()
      if (filled + chunk.length > into.length)
        throw new HttpRangeError(url, `more than the ${into.length} bytes asked for came`)
      into.set(chunk, filled)
      filled += chunk.length
    }
    if (filled < wanted && facts.sizeBytes !== undefined) {
      throw new HttpRequestError(url, `the answer ended ${wanted - filled} bytes too early (at ${at + filled})`)
    }
    return { filled, facts }
  } catch (error) {
    options.signal.throwIfAborted()
    if (error instanceof HttpRangeError || error instanceof HttpRequestError || error instanceof HttpChangedError)
      throw error
    throw new HttpRequestError(url, reasonOf(abort.signal.aborted ? abort.signal.reason : error), { cause: error })
  } finally {
    clearTimeout(timer)
    options.signal.removeEventListener('abort', giveUp)
    // What of the answer was not read is not waited for.
    abort.abort()
  }
}

function checkAnswer(url: string, response: Response, at: number, expected: FileFacts | undefined): FileFacts {
  const { status, headers } = response
  if (new URL(url).protocol === 'https:' && response.url && new URL(response.url).protocol !== 'https:') {
    throw new HttpRangeError(url, `it leads to ${response.url}, which is not encrypted`)
  }
  const range = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/i.exec(headers.get('content-range') ?? '')
  const sizeBytes = range?.[2] && range[2] !== '*' ? Number(range[2]) : undefined
  if (status === 200)
    throw new HttpRangeError(url, 'the server does not answer range requests: it sends the whole file')
  if (status === 416) {
    const changed = expected?.sizeBytes !== undefined && at < expected.sizeBytes
    const problem = `the file has ${sizeBytes ?? 'fewer'} bytes, and byte ${at} was asked for`
    throw changed ? new HttpChangedError(url, problem) : new HttpRangeError(url, problem)
  }
  if (status !== 206)
    throw new HttpRequestError(url, `the server answers ${status} ${response.statusText}`.trim(), { status })
  if (range?.[1] !== undefined && Number(range[1]) !== at) {
    throw new HttpRangeError(url, `the server sends from byte ${range[1]} on, ${at} was asked for`)
  }
  const encoding = headers.get('content-encoding')
  if (encoding && encoding !== 'identity') throw new HttpRangeError(url, `the server sends parts of it in ${encoding}`)
  const etag = headers.get('etag')
  const version = etag && !etag.startsWith('W/') ? etag : (headers.get('last-modified') ?? undefined)
  const facts = { sizeBytes, version }
  for (const name of ['version', 'sizeBytes'] as const) {
    const was = expected?.[name]
    if (was !== undefined && was !== facts[name]) {
      throw new HttpChangedError(
        url,
        `its ${name === 'version' ? 'ETag or date' : 'size'} was ${was}, and is ${facts[name]}`,
      )
    }
  }
  return facts
}

async function* chunksOf({ body }: Response): AsyncGenerator<Uint8Array> {
  if (!body) return
  const reader = body.getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    yield value
  }
}

/** `fetch failed` says nothing; what caused it does. */
function reasonOf(error: unknown): string {
  const { message, cause } = error as Error
  const inner = cause instanceof Error ? cause.message || String((cause as NodeJS.ErrnoException).code) : undefined
  return inner ? `${message}: ${inner}` : message
}
