import { FerryError } from '@ferryvm/core'

/** Not now: another migration runs, or the machine or the migration is not in a state where this makes sense. */
export class MigrationStateError extends FerryError {
  readonly code = 'FERRY_MIGRATION_STATE'
}

/** Something in the machine cannot be migrated; `reasons` says what. */
export class MigrationBlockedError extends FerryError {
  readonly code = 'FERRY_MIGRATION_BLOCKED'
  readonly reasons: readonly string[]
  constructor(reasons: readonly string[]) {
    super(`this machine cannot be migrated: ${reasons.join('; ')}`)
    this.reasons = reasons
  }
}

/** Its channels were shut because somebody said so (`yank`): the other end had stopped answering. */
export class MigrationYankedError extends FerryError {
  readonly code = 'FERRY_MIGRATION_YANKED'
  constructor() {
    super('the channels of the migration were shut by yank')
  }
}

/** A snapshot cannot be made, loaded or deleted as asked: nothing has changed. */
export class SnapshotError extends FerryError {
  readonly code = 'FERRY_SNAPSHOT'
}

/** A further channel of a multifd migration is not what it should be. `channel`: its number, if it has one. */
export class MultifdError extends FerryError {
  readonly code = 'FERRY_MIGRATION_MULTIFD'
  readonly channel: number | undefined
  /** In that channel, bytes. */
  readonly offset: number
  constructor(channel: number | undefined, problem: string, offset: number, options?: ErrorOptions) {
    super(`multifd${channel === undefined ? '' : ` channel ${channel}`}: ${problem} (offset ${offset})`, options)
    this.channel = channel
    this.offset = offset
  }
}

/** The URI names no transport that this process has, or one that lacks what a capability needs. */
export class MigrationUriError extends FerryError {
  readonly code = 'FERRY_MIGRATION_URI'
  readonly uri: string
  constructor(uri: string, problem: string) {
    super(`migration URI "${uri}": ${problem}`)
    this.uri = uri
  }
}

/** `migrate_cancel`, or the machine was shut down meanwhile. The guest runs on here. */
export class MigrationCancelledError extends FerryError {
  readonly code = 'FERRY_MIGRATION_CANCELLED'
  constructor(why = 'the migration was cancelled', options?: ErrorOptions) {
    super(why, options)
  }
}

/** The destination reported that it could not load the stream. Its own log says why. */
export class DestinationFailedError extends FerryError {
  readonly code = 'FERRY_MIGRATION_DESTINATION'
  /** What it said; undefined: it went away without a word. */
  readonly status: number | undefined
  constructor(message: string, { status, ...options }: ErrorOptions & { status?: number } = {}) {
    super(message, options)
    this.status = status
  }
}

/** What arrived on the return path is no message, or one that does not belong there. */
export class ReturnPathError extends FerryError {
  readonly code = 'FERRY_MIGRATION_RETURN_PATH'
}

/** A capability that does not exist, is not implemented, or contradicts another one. */
export class CapabilityError extends FerryError {
  readonly code = 'FERRY_MIGRATION_CAPABILITY'
  readonly capability: string
  /** @param said the whole message, where QEMU has one of its own */
  constructor(capability: string, problem: string, said = `capability "${capability}" ${problem}`) {
    super(said)
    this.capability = capability
  }
}

/** A parameter that does not exist, is not implemented, or is out of range. `parameter` has the name with hyphens. */
export class ParameterError extends FerryError {
  readonly code = 'FERRY_MIGRATION_PARAMETER'
  readonly parameter: string
  /** @param said the whole message, where QEMU has one of its own */
  constructor(parameter: string, problem: string, said = `parameter "${parameter.replaceAll('-', '_')}" ${problem}`) {
    super(said)
    this.parameter = parameter
  }
}

/** Nothing of a guest is taken from that peer: it came unencrypted from another host, or it said nothing. */
export class UnwelcomePeerError extends FerryError {
  readonly code = 'FERRY_UNWELCOME_PEER'
}
