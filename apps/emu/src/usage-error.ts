import { FerryError } from '@ferryvm/core'

/** The command line is wrong; nothing was started. */
export class UsageError extends FerryError {
  readonly code = 'FERRY_EMU_USAGE'
}
