import { FerryError } from '@ferryvm/core'
import { systemErrorReason } from '@ferryvm/core/node'

/** The text after `file:` is no path with an optional offset. Nothing was opened. */
export class FileAddressError extends FerryError {
  readonly code = 'FERRY_FILE_ADDRESS'
  /** What was given, without the scheme. */
  readonly text: string
  constructor(text: string, problem: string) {
    super(`"file:${text}": ${problem}`)
    this.text = text
  }
}

/** The file cannot be opened, created or cut to its offset. */
export class FileOpenError extends FerryError {
  readonly code = 'FERRY_FILE_OPEN'
  readonly path: string
  constructor(path: string, what: string, cause: unknown) {
    super(`cannot ${what} ${path}: ${systemErrorReason(cause)}`, { cause })
    this.path = path
  }
}

/** Reading or writing failed half-way: a full disk, a medium that broke. */
export class FileIoError extends FerryError {
  readonly code = 'FERRY_FILE_IO'
  readonly path: string
  /** Where in the file, bytes. */
  readonly offset: number
  constructor(path: string, what: string, offset: number, cause: unknown) {
    super(`cannot ${what} ${path} at offset ${offset}: ${systemErrorReason(cause)}`, { cause })
    this.path = path
    this.offset = offset
  }
}

/** Somebody has written to the file since it was opened; what was read of it before belongs to other contents. */
export class FileChangedError extends FerryError {
  readonly code = 'FERRY_FILE_CHANGED'
  readonly path: string
  constructor(path: string) {
    super(`${path} was written to since it was opened`)
    this.path = path
  }
}
