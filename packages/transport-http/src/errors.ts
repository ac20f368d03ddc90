import { FerryError } from '@ferryvm/core'

/** The text is no URL of a file on a server, or one that must not be used. Nothing was asked for. */
export class HttpAddressError extends FerryError {
  readonly code = 'FERRY_HTTP_ADDRESS'
  readonly url: string
  constructor(url: string, problem: string) {
    super(`${url}: ${problem}`)
    this.url = url
  }
}

/** The server cannot be reached, or the connection broke within an answer, or it answered with an error. */
export class HttpRequestError extends FerryError {
  readonly code = 'FERRY_HTTP_REQUEST'
  readonly url: string
  /** Of the answer; undefined: there was none, or not all of it. */
  readonly status: number | undefined
  /** The same request may succeed later. */
  readonly retryable: boolean
  constructor(url: string, problem: string, { status, ...options }: ErrorOptions & { status?: number } = {}) {
    super(`${url}: ${problem}`, options)
    this.url = url
    this.status = status
    this.retryable = status === undefined || status >= 500 || status === 408 || status === 429
  }
}

/** The server does not give a part of the file: it answers with the whole, or with another part. */
export class HttpRangeError extends FerryError {
  readonly code = 'FERRY_HTTP_RANGE'
  readonly url: string
  constructor(url: string, problem: string) {
    super(`${url}: ${problem}`)
    this.url = url
  }
}

/** The file on the server is no longer the one that was opened (its ETag, date or size is another). */
export class HttpChangedError extends FerryError {
  readonly code = 'FERRY_HTTP_CHANGED'
  readonly url: string
  constructor(url: string, problem: string) {
    super(`${url} was changed since it was opened: ${problem}`)
    this.url = url
  }
}
