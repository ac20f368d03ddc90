import { FerryError } from '@ferryvm/core'
import { systemErrorReason } from '@ferryvm/core/node'

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
    super(`cannot connect to ${address}: ${systemErrorReason(cause)}`, { cause })
    this.address = address
  }
}

/** The address cannot be listened on: in use, not ours, or no permission. */
export class SocketListenError extends FerryError {
  readonly code = 'FERRY_SOCKET_LISTEN'
  readonly address: string
  constructor(address: string, cause: unknown) {
    super(`cannot listen on ${address}: ${systemErrorReason(cause)}`, { cause })
    this.address = address
  }
}
