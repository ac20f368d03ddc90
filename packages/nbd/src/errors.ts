import { FerryError } from '@ferryvm/core'

/** The other end sent what the protocol does not allow there; the connection is over. */
export class NbdProtocolError extends FerryError {
  readonly code = 'FERRY_NBD_PROTOCOL'
  /** As the protocol's document calls it. */
  readonly field: string
  /** Of the field in what that end sent, bytes. */
  readonly offset: number
  constructor(field: string, problem: string, offset: number, options?: ErrorOptions) {
    super(`NBD ${field}: ${problem} (offset ${offset})`, options)
    this.field = field
    this.offset = offset
  }
}

/** The server does not have that export, or not for us: what it said is in the message. */
export class NbdRefusedError extends FerryError {
  readonly code = 'FERRY_NBD_REFUSED'
  readonly exportName: string
  constructor(exportName: string, problem: string, options?: ErrorOptions) {
    super(`NBD export "${exportName}": ${problem}`, options)
    this.exportName = exportName
  }
}

/** The server answered one request with an error; others go on. */
export class NbdRequestError extends FerryError {
  readonly code = 'FERRY_NBD_REQUEST'
  /** The protocol's number, that of errno(3). */
  readonly errno: number
  constructor(message: string, errno: number) {
    super(message)
    this.errno = errno
  }
}
