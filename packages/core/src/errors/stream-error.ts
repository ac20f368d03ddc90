import { FerryError } from './ferry-error.ts'

/** The bytes are not what the format allows at this place. */
export class StreamFormatError extends FerryError {
  readonly code: `FERRY_${string}` = 'FERRY_STREAM_FORMAT'
  /** Bytes from the start of the stream. */
  readonly offset: number
  /** The message without the place. */
  readonly detail: string
  constructor(offset: number, message: string, options?: ErrorOptions) {
    super(`${message} (stream offset 0x${offset.toString(16)})`, options)
    this.offset = offset
    this.detail = message
  }
}

/** The stream ended where bytes were still due. */
export class StreamTruncatedError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_TRUNCATED'
  readonly wanted: number
  readonly available: number
  constructor(offset: number, wanted: number, available: number, options?: ErrorOptions) {
    super(offset, `the stream ended: ${wanted} bytes wanted, ${available} there`, options)
    this.wanted = wanted
    this.available = available
  }
}
