import { FerryError } from '@ferryvm/core'

/** The text after `exec:` is no command. Nothing was started. */
export class ExecAddressError extends FerryError {
  readonly code = 'FERRY_EXEC_ADDRESS'
}

/** The shell could not be started. */
export class ExecStartError extends FerryError {
  readonly code = 'FERRY_EXEC_START'
  readonly command: string
  constructor(command: string, cause: unknown) {
    super(`cannot start "${command}": ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    this.command = command
  }
}

/** The command ended, and its exit status says that it did not do its work. */
export class ExecStatusError extends FerryError {
  readonly code = 'FERRY_EXEC_STATUS'
  readonly command: string
  /** Exit status; null: a signal ended it. */
  readonly status: number | null
  /** Name of the signal, as `SIGKILL`. */
  readonly signal: string | null
  constructor(command: string, status: number | null, signal: string | null) {
    const how = signal ? `was ended by ${signal}` : `ended with status ${status}`
    super(`the command "${command}" ${how}${HINTS[status ?? -1] ?? ''}`)
    this.command = command
    this.status = status
    this.signal = signal
  }
}

/** What a POSIX shell means by these. */
const HINTS: Readonly<Record<number, string>> = {
  126: ' (it is not executable)',
  127: ' (the shell did not find it)',
}
