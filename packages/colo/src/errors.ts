import { FerryError } from '@ferryvm/core'

/** The peer sent something that the protocol does not have at this place. */
export class ColoProtocolError extends FerryError {
  readonly code = 'FERRY_COLO_PROTOCOL'
}

/** Not now: there is no COLO, or a failover has been asked for already. */
export class ColoStateError extends FerryError {
  readonly code = 'FERRY_COLO_STATE'
}

/** The other side has the right to go on with the guest, or may have it; this side has stopped it. */
export class ColoFencedError extends FerryError {
  readonly code = 'FERRY_COLO_FENCED'
}

/** The state of a checkpoint could not be loaded; this machine cannot take over any more. */
export class ColoCheckpointError extends FerryError {
  readonly code = 'FERRY_COLO_CHECKPOINT'
}

/** What watches over the peer cannot be set up: an address, a session id, the lock file. */
export class ColoGuardError extends FerryError {
  readonly code = 'FERRY_COLO_GUARD'
}
