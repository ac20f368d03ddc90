import { FerryError } from '@ferryvm/core'

/** The text after `fd:` is not the number of a descriptor. */
export class FdAddressError extends FerryError {
  readonly code = 'FERRY_FD_ADDRESS'
  /** What was given, without the scheme. */
  readonly text: string
  constructor(text: string, problem: string) {
    super(`"fd:${text}": ${problem}`)
    this.text = text
  }
}

/** This process has no such descriptor, or it cannot carry a stream in this direction. */
export class FdOpenError extends FerryError {
  readonly code = 'FERRY_FD_OPEN'
  readonly fd: number
  constructor(fd: number, problem: string, cause?: unknown) {
    super(`cannot use descriptor ${fd}: ${problem}`, { cause })
    this.fd = fd
  }
}
