import { FerryError } from '@ferryvm/core'

/** The text after `ws:` is no address. Nothing was opened. */
export class WebSocketAddressError extends FerryError {
  readonly code = 'FERRY_ACME_WEBSOCKET_ADDRESS'
}

/** Nobody answered there, or somebody who speaks no WebSocket, or the attempt was given up. */
export class WebSocketConnectError extends FerryError {
  readonly code = 'FERRY_ACME_WEBSOCKET_CONNECT'
}

/** The address cannot be listened on. */
export class WebSocketListenError extends FerryError {
  readonly code = 'FERRY_ACME_WEBSOCKET_LISTEN'
}
