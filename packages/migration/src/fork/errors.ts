import { FerryError } from '@ferryvm/core'

/** A machine cannot be forked as it is, or what a twin wants of it is gone. The machine itself goes on. */
export class ForkError extends FerryError {
  readonly code = 'FERRY_FORK'
}
