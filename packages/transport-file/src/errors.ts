import { FerryError } from '@ferryvm/core'

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
    super(`cannot ${what} ${path}: ${reasonOf(cause)}`, { cause })
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
    super(`cannot ${what} ${path} at offset ${offset}: ${reasonOf(cause)}`, { cause })
    this.path = path
    this.offset = offset
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
  ENOTDIR: 'part of the path is not a directory',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file would become too large',
  EIO: 'input/output error',
}

function reasonOf(cause: unknown): string {
  const code = (cause as { code?: unknown } | undefined)?.code
  if (typeof code === 'string' && REASONS[code]) return REASONS[code]
  return cause instanceof Error ? cause.message : String(cause)
}
