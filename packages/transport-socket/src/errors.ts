import { FerryError } from '@ferryvm/core'

/** The text after `tcp:` or `unix:` is not an address. Nothing was opened. */
export class SocketAddressError extends FerryError {
  readonly code = 'FERRY_SOCKET_ADDRESS'
  /** What was given, without the scheme. */
  readonly text: string
  constructor(scheme: string, text: string, problem: string) {
    super(`"${scheme}:${text}": ${problem}`)
    this.text = text
  }
}

/** Nobody answered at that address, or the attempt was given up. */
export class SocketConnectError extends FerryError {
  readonly code = 'FERRY_SOCKET_CONNECT'
  readonly address: string
  constructor(address: string, cause: unknown) {
    super(`cannot connect to ${address}: ${reasonOf(cause)}`, { cause })
    this.address = address
  }
}

/** The address cannot be listened on: in use, not ours, or no permission. */
export class SocketListenError extends FerryError {
  readonly code = 'FERRY_SOCKET_LISTEN'
  readonly address: string
  constructor(address: string, cause: unknown) {
    super(`cannot listen on ${address}: ${reasonOf(cause)}`, { cause })
    this.address = address
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused (nothing listens there)',
  EADDRINUSE: 'the address is in use',
  EADDRNOTAVAIL: 'the address does not belong to this host',
  EACCES: 'permission denied',
  ENOENT: 'no such file or directory',
  ENOTFOUND: 'the host name is unknown',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'no route to the network',
  ETIMEDOUT: 'timed out',
  ABORT_ERR: 'given up',
}

function reasonOf(cause: unknown): string {
  // Happy eyeballs reports one error per tried address; the first one is as good as any.
  const first = cause instanceof AggregateError && cause.errors.length > 0 ? cause.errors[0] : cause
  const code = (first as { code?: unknown } | undefined)?.code
  if (typeof code === 'string' && REASONS[code]) return REASONS[code]
  return first instanceof Error ? first.message : String(first)
}
