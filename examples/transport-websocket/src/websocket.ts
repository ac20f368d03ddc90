import type { AddressInfo } from 'node:net'
import { type Channel, defineTransport, type Listener, type Transport, type TransportContext } from '@ferryvm/core'
import { fromDuplex } from '@ferryvm/core/node'
import { WebSocket, WebSocketServer } from 'ws'
import { formatWebSocketAddress, parseWebSocketAddress, type WebSocketAddress } from './address.ts'
import { WebSocketConnectError, WebSocketListenError } from './errors.ts'
import { MAX_MESSAGE_BYTES, toDuplex } from './websocket-duplex.ts'

/** Guest pages do not shrink enough to pay for it, and a peer could make us unpack gigabytes. */
const OPTIONS = { maxPayload: MAX_MESSAGE_BYTES, perMessageDeflate: false } as const
/** Connections that wait to be taken; more are hung up on. */
const MAX_WAITING = 16

/** `ws://host:port/path`: binary messages, an empty one ends a direction. Node only. */
export function websocket(): Transport<WebSocketAddress> {
  return defineTransport<WebSocketAddress>({
    scheme: 'ws',
    features: new Set(['shutdown']),
    parseAddress: parseWebSocketAddress,
    formatAddress: formatWebSocketAddress,
    connect,
    listen,
  })
}

async function connect(address: WebSocketAddress, { signal }: TransportContext): Promise<Channel> {
  const name = `ws:${formatWebSocketAddress(address)}`
  if (signal.aborted) throw new WebSocketConnectError(`${name}: given up`, { cause: signal.reason })
  const socket = new WebSocket(name, OPTIONS)
  return new Promise((resolve, reject) => {
    const settle = () => {
      socket.off('error', fail)
      signal.removeEventListener('abort', giveUp)
    }
    const fail = (cause: unknown) => {
      settle()
      socket.on('error', () => {})
      socket.terminate()
      reject(new WebSocketConnectError(`cannot connect to ${name}: ${messageOf(cause)}`, { cause }))
    }
    const giveUp = () => fail(signal.reason)
    socket.on('error', fail)
    signal.addEventListener('abort', giveUp)
    socket.once('open', () => {
      settle()
      resolve(fromDuplex(toDuplex(socket)))
    })
  })
}

async function listen(address: WebSocketAddress, { signal }: TransportContext): Promise<Listener<WebSocketAddress>> {
  const name = `ws:${formatWebSocketAddress(address)}`
  if (signal.aborted) throw new WebSocketListenError(`${name}: given up`, { cause: signal.reason })
  const { host, port, path } = address
  const server = new WebSocketServer({
    ...OPTIONS,
    host,
    port,
    path,
    // A browser says whose page it is. None has a guest to bring, and any page may connect to this host.
    verifyClient: ({ origin }: { origin: string | undefined }) => origin === undefined,
  })
  const waiting: Channel[] = []
  let wake = () => {}
  let closed = false
  server.on('connection', (socket, request) => {
    const { remoteAddress } = request.socket
    const channel = fromDuplex(toDuplex(socket))
    if (waiting.length >= MAX_WAITING) void channel.close(new Error('too many connections wait'))
    // Who receives a guest decides by it who may come unencrypted.
    else waiting.push(Object.assign(channel, { remoteAddress }))
    wake()
  })
  await new Promise<void>((resolve, reject) => {
    server.once('listening', resolve)
    server.once('error', (cause) =>
      reject(new WebSocketListenError(`cannot listen on ${name}: ${messageOf(cause)}`, { cause })),
    )
  })
  server.on('error', () => {})
  const close = async () => {
    closed = true
    signal.removeEventListener('abort', close)
    server.close() // channels that were accepted live on
    for (const channel of waiting.splice(0)) await channel.close(new Error('the listener was closed'))
    wake()
  }
  signal.addEventListener('abort', close)
  return {
    address: { ...address, port: (server.address() as AddressInfo).port },
    async *[Symbol.asyncIterator]() {
      while (!closed) {
        const channel = waiting.shift()
        if (channel) yield channel
        else await new Promise<void>((resolve) => (wake = resolve))
      }
    },
    [Symbol.asyncDispose]: close,
  }
}

const messageOf = (cause: unknown): string => (cause instanceof Error ? cause.message || cause.name : String(cause))
