import { FerryError } from '@ferryvm/core'

/** A page journal is none, is damaged, or does not have what it takes to put the guest together. Nothing was written. */
export class JournalError extends FerryError {
  readonly code = 'FERRY_JOURNAL'
}
