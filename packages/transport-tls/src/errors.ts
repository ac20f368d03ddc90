import { FerryError } from '@ferryvm/core'

/** The credentials cannot be used: a file is missing, unreadable or no good, or they are for the other end. Nothing was sent. */
export class TlsCredentialsError extends FerryError {
  readonly code = 'FERRY_TLS_CREDENTIALS'
}

/** The handshake failed, or one end did not accept what the other showed. The connection is closed; nothing was sent on it. */
export class TlsHandshakeError extends FerryError {
  readonly code = 'FERRY_TLS_HANDSHAKE'
  /** What OpenSSL or Node calls it, if it has a name: `CERT_HAS_EXPIRED`. */
  readonly reason: string | undefined
  constructor(problem: string, cause?: unknown) {
    super(`TLS: ${problem}`, { cause })
    const reason = (cause as { code?: unknown } | undefined)?.code
    this.reason = typeof reason === 'string' ? reason : undefined
  }
}

/** An object of `-object`, `object-add` or `object-del` is not to be had: no such type, property or id. Nothing was changed. */
export class UserObjectError extends FerryError {
  readonly code = 'FERRY_USER_OBJECT'
}
