/**
 * A transport package as somebody outside the ferryvm project writes it: it knows `@ferryvm/core`, and the library `ws`.
 *
 * ```sh
 * emu run --plugin transport-websocket -incoming ws://127.0.0.1:4444/guest …
 * ```
 */
import { definePlugin } from '@ferryvm/core'
import { websocket } from './websocket.ts'

export { parseWebSocketAddress, type WebSocketAddress } from './address.ts'
export { WebSocketAddressError, WebSocketConnectError, WebSocketListenError } from './errors.ts'
export { websocket } from './websocket.ts'
export default definePlugin({ name: 'transport-websocket', contract: 1, transports: [websocket()] })
