import { existsSync } from 'node:fs'
import { lstat, unlink } from 'node:fs/promises'
import {
  type AddressInfo,
  createServer,
  connect as netConnect,
  type Server,
  type Socket,
  type SocketConnectOpts,
} from 'node:net'
import { dirname } from 'node:path'
import {
  type Channel,
  type ChannelFeature,
  defineTraceEvents,
  defineTransport,
  type Listener,
  type Transport,
  type TransportContext,
} from '@ferryvm/core'
import { fromDuplex } from '@ferryvm/core/node'
import {
  familyOf,
  formatAddress,
  parseTcpAddress,
  parseUnixAddress,
  type SocketAddress,
  type TcpAddress,
  type UnixAddress,
} from './address.ts'
import { SocketConnectError, SocketListenError } from './errors.ts'

const FEATURES: ReadonlySet<ChannelFeature> = new Set<ChannelFeature>(['shutdown', 'multi-channel'])
const READ_CHUNK_BYTES = 256 * 1024

const trace = defineTraceEvents({
  migration_socket_incoming_accepted: {},
  migration_socket_outgoing_connected: { hostname: 'str' },
  migration_socket_outgoing_error: { err: 'str' },
})

export interface SocketOptions {
  /** Connections that may wait to be accepted. Default 16. */
  readonly backlog?: number
}

/** `tcp:host:port`. Half-close is a TCP FIN; Nagle's algorithm is off. Spec: protocol.md section 7. */
export function tcp(options: SocketOptions = {}): Transport<TcpAddress> {
  return defineTransport<TcpAddress>({
    scheme: 'tcp',
    features: FEATURES,
    parseAddress: parseTcpAddress,
    formatAddress,
    connect: (address, { signal }) => dial(address, signal),
    listen: (address, context) => listenTcp(address, options, context),
  })
}

/** `unix:path`. A socket file that nobody listens on any more is replaced; any other file is left alone. */
export function unix(options: SocketOptions = {}): Transport<UnixAddress> {
  return defineTransport<UnixAddress>({
    scheme: 'unix',
    features: FEATURES,
    parseAddress: parseUnixAddress,
    formatAddress,
    connect: (address, { signal }) => dial(address, signal),
    async listen(address, context) {
      await removeStaleSocket(address.path, context.signal)
      return acceptor(address, await bind({ path: address.path }, address, options, context.signal), context.signal)
    },
  })
}

async function dial(address: SocketAddress, signal: AbortSignal): Promise<Channel> {
  const name = `${address.kind}:${formatAddress(address)}`
  if (signal.aborted) throw new SocketConnectError(name, signal.reason)
  if (address.kind === 'tcp' && address.host === '') throw new SocketConnectError(name, new Error('no host is named'))
  if (address.kind === 'tcp' && address.port === 0)
    throw new SocketConnectError(name, new Error('port 0 is only for listening'))
  const target: SocketConnectOpts =
    address.kind === 'unix'
      ? { path: address.path }
      : {
          host: address.host,
          port: address.port,
          family: familyOf(address),
          noDelay: true,
          keepAlive: address.keepAlive === true,
        }
  // Stream options that net.connect passes on, although its types do not say so.
  const stream = { readableHighWaterMark: READ_CHUNK_BYTES, allowHalfOpen: true }
  const socket = netConnect({ ...target, ...stream } as SocketConnectOpts)
  return new Promise<Channel>((resolve, reject) => {
    const onAbort = () => fail(signal.reason)
    const fail = (cause: unknown) => {
      trace.migration_socket_outgoing_error({ err: String(cause) })
      settle()
      socket.on('error', () => {})
      socket.destroy()
      reject(new SocketConnectError(name, cause))
    }
    const onConnect = () => {
      trace.migration_socket_outgoing_connected({ hostname: address.kind === 'tcp' ? address.host : '' })
      settle()
      resolve(fromDuplex(socket))
    }
    const settle = () => {
      socket.off('error', fail)
      socket.off('connect', onConnect)
      signal.removeEventListener('abort', onAbort)
    }
    socket.on('error', fail)
    socket.on('connect', onConnect)
    signal.addEventListener('abort', onAbort)
  })
}

async function listenTcp(
  address: TcpAddress,
  options: SocketOptions,
  context: TransportContext,
): Promise<Listener<TcpAddress>> {
  const family = familyOf(address)
  // Who names no address has not said that other hosts may come. To take them all is 0.0.0.0 or [::].
  const host = address.host || (family === 6 ? '::1' : '127.0.0.1')
  if (address.host === '') {
    context.log.warn(
      `tcp::${address.port} listens for this host only; to let others in, name an address (0.0.0.0 for all)`,
    )
  }
  const last = address.to ?? address.port
  for (let port = address.port; ; port++) {
    try {
      const where = { host, port, ipv6Only: family === 6 }
      const server = await bind(where, { ...address, port }, options, context.signal)
      const actual = server.address() as AddressInfo
      const { to: _, ...rest } = address
      return acceptor({ ...rest, host: address.host || actual.address, port: actual.port }, server, context.signal)
    } catch (error) {
      const inUse = error instanceof SocketListenError && (error.cause as { code?: string }).code === 'EADDRINUSE'
      if (!inUse || port >= last) throw error
    }
  }
}

function bind(
  where: { host?: string; port?: number; path?: string; ipv6Only?: boolean },
  address: SocketAddress,
  options: SocketOptions,
  signal: AbortSignal,
): Promise<Server> {
  const name = `${address.kind}:${formatAddress(address)}`
  return new Promise<Server>((resolve, reject) => {
    if (signal.aborted) {
      reject(new SocketListenError(name, signal.reason))
      return
    }
    const server = createServer({
      pauseOnConnect: true,
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: address.kind === 'tcp' && address.keepAlive === true,
      highWaterMark: READ_CHUNK_BYTES,
    })
    server.once('error', (cause) => reject(new SocketListenError(name, whyNot(cause, where.path))))
    server.listen({ ...where, backlog: options.backlog ?? 16 }, () => resolve(server))
  })
}

/** libuv says EACCES, too, where the folder of a unix socket is not there. */
function whyNot(cause: Error, path: string | undefined): Error {
  if (path === undefined || (cause as { code?: string }).code !== 'EACCES' || existsSync(dirname(path))) return cause
  return Object.assign(new Error(`there is no folder ${dirname(path)}`, { cause }), { code: 'ENOENT' })
}

function acceptor<A extends SocketAddress>(address: A, server: Server, signal: AbortSignal): Listener<A> {
  const arrived: Socket[] = []
  let closing: Promise<void> | undefined
  let wake: () => void = () => {}
  server.on('connection', (socket) => {
    socket.on('error', () => {}) // a peer that resets before anybody accepted it
    trace.migration_socket_incoming_accepted({})
    arrived.push(socket)
    wake()
  })
  server.on('error', () => {})
  const close = (): Promise<void> => {
    closing ??= new Promise<void>((resolve) => {
      signal.removeEventListener('abort', close)
      for (const socket of arrived.splice(0)) socket.destroy()
      // Not awaited by way of its callback: that waits for accepted connections, which belong to others by now.
      server.close()
      setImmediate(resolve)
      wake()
    })
    return closing
  }
  signal.addEventListener('abort', close)
  return {
    address,
    async *[Symbol.asyncIterator]() {
      while (!closing) {
        const socket = arrived.shift()
        if (socket) yield fromDuplex(socket)
        else await new Promise<void>((resolve) => (wake = resolve))
      }
    },
    [Symbol.asyncDispose]: close,
  }
}

async function removeStaleSocket(path: string, signal: AbortSignal): Promise<void> {
  const kind = await lstat(path).catch(() => undefined)
  if (!kind) return
  const refuse = (message: string, code: string): never => {
    throw new SocketListenError(`unix:${path}`, Object.assign(new Error(message), { code }))
  }
  if (!kind.isSocket()) refuse('a file that is not a socket is in the way', 'EEXIST')
  const alive = await dial({ kind: 'unix', path }, signal).catch(() => undefined)
  if (alive) {
    await alive.close()
    refuse('the address is in use', 'EADDRINUSE')
  }
  await unlink(path).catch(() => {})
}
