/**
 * `tcp:` and `unix:` transports for ferryvm. Node only.
 *
 * ```ts
 * import { createMigration } from '@ferryvm/migration'
 * import { tcp, unix } from '@ferryvm/transport-socket'
 *
 * const migration = createMigration({ machine, transports: [tcp(), unix()] })
 * await migration.migrate('tcp:192.0.2.7:4444')
 * ```
 */

export type { SocketAddress, TcpAddress, UnixAddress } from './address.ts'
export { formatAddress, parseTcpAddress, parseUnixAddress } from './address.ts'
export { SocketAddressError, SocketConnectError, SocketListenError } from './errors.ts'
export type { SocketOptions } from './socket.ts'
export { tcp, unix } from './socket.ts'
