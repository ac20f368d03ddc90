import { isIP, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { checkServerIdentity, connect, createServer, type DetailedPeerCertificate, type TLSSocket } from 'node:tls'
import { type Channel, ChannelClosedError, type ChannelLayer, defineTraceEvents } from '@ferryvm/core'
import { fromDuplex } from '@ferryvm/core/node'
import type { Authorization } from './authz/authorization.ts'
import { toDuplex } from './channel-duplex.ts'
import type { TlsCredentials, TlsEndpoint } from './credentials.ts'
import { distinguishedName } from './distinguished-name.ts'
import { TlsCredentialsError, TlsHandshakeError } from './errors.ts'
import { RecordTail, SocketTail, type StreamTail } from './record-tail.ts'
import { handshakeError, hostNameError } from './refusal.ts'

const trace = defineTraceEvents({
  migration_tls_outgoing_handshake_start: { hostname: 'str' },
  migration_tls_outgoing_handshake_error: { err: 'str' },
  migration_tls_outgoing_handshake_complete: {},
  migration_tls_incoming_handshake_start: {},
  migration_tls_incoming_handshake_error: { err: 'str' },
  migration_tls_incoming_handshake_complete: {},
})

export interface TlsOptions {
  /** Of one end, or of both. */
  readonly credentials: TlsCredentials | readonly TlsCredentials[]
  /** Client with x509: the name or IP address that the server's certificate must be for. */
  readonly hostname?: string
  /** Server with x509: which of the clients whose certificate is good may come. Default: all. */
  readonly authorization?: Authorization
  /** The handshake is over by then or has failed, milliseconds. Default 30000. */
  readonly handshakeTimeoutMs?: number
}

/**
 * TLS 1.2 and 1.3 over any channel; the handshake comes before every other byte. A stream that ends without close_notify is
 * taken as ended: what is inside has an end of its own. Spec: protocol.md section 8.
 */
export function tls(options: TlsOptions): ChannelLayer {
  const { hostname, authorization, handshakeTimeoutMs = 30_000 } = options
  return {
    name: 'tls',
    async wrap(channel, role, { signal }) {
      const credentials = credentialsFor(options.credentials, role)
      if (needsHostname(credentials) && !hostname) {
        throw new TlsCredentialsError(
          "no host name to compare with the server's certificate; set tls-hostname to the name it was issued for",
        )
      }
      if (authorization && role === 'server') checkNamesAreShown(credentials)
      signal.throwIfAborted()
      const { duplex, tail } = wireOf(channel)
      const start = role === 'client' ? startClient : startServer
      const ended = () => handshakeError({ code: 'ECONNRESET' }, credentials)
      const told = traced(role, hostname ?? '')
      const secure = await handshake(duplex, signal, handshakeTimeoutMs, ended, (done, fail) =>
        start(duplex, credentials, { hostname: hostname ?? '', authorization }, done, fail),
      ).then(...told)
      tail.handshakeIsOver()
      return new TlsChannel(secure, channel, tail, role)
    },
  }
}

/** @returns what to do when the handshake is over, and when it has failed */
function traced(role: TlsEndpoint, hostname: string): [(secure: Channel) => Channel, (error: Error) => never] {
  const client = role === 'client'
  if (client) trace.migration_tls_outgoing_handshake_start({ hostname })
  else trace.migration_tls_incoming_handshake_start({})
  return [
    (secure) => {
      if (client) trace.migration_tls_outgoing_handshake_complete({})
      else trace.migration_tls_incoming_handshake_complete({})
      return secure
    },
    (error) => {
      if (client) trace.migration_tls_outgoing_handshake_error({ err: error.message })
      else trace.migration_tls_incoming_handshake_error({ err: error.message })
      throw error
    },
  ]
}

/** A socket of Node itself where there is one: encryption works on it without JavaScript for each record. */
function wireOf(channel: Channel): { duplex: Duplex; tail: StreamTail } {
  const socket = channel.detach?.()
  if (socket instanceof Socket) {
    // An end in the handshake is an end; see `handshake` for after it.
    socket.allowHalfOpen = false
    return { duplex: socket, tail: new SocketTail(socket) }
  }
  const tail = new RecordTail()
  return { duplex: (socket as Duplex | undefined) ?? toDuplex(channel, (bytes) => tail.push(bytes)), tail }
}

/** The credentials for that role. @throws TlsCredentialsError there are only some for the other one */
export function credentialsFor(
  credentials: TlsCredentials | readonly TlsCredentials[],
  role: TlsEndpoint,
): TlsCredentials {
  const all = 'length' in credentials ? credentials : [credentials]
  const found = all.find(({ endpoint }) => endpoint === role)
  if (found) return found
  const has = all[0]?.endpoint ?? 'nothing'
  throw new TlsCredentialsError(
    `the TLS credentials are for endpoint=${has}, and this end is the ${role}: the sender of a migration is the client, the receiver the server`,
  )
}

const needsHostname = ({ kind, endpoint, verifyPeer }: TlsCredentials): boolean =>
  kind === 'x509' && endpoint === 'client' && verifyPeer

/** @throws TlsCredentialsError there would be no name to ask an authorization object for */
export function checkNamesAreShown(credentials: TlsCredentials): void {
  if (demandsCertificate(credentials)) return
  throw new TlsCredentialsError(
    'an authorization object looks at the names of client certificates, and these credentials ask for none; use tls-creds-x509 with verify-peer=on, or leave tls-authz empty',
  )
}

const demandsCertificate = ({ kind, verifyPeer }: TlsCredentials): boolean => kind === 'x509' && verifyPeer

type Start = (
  duplex: Duplex,
  credentials: TlsCredentials,
  expected: { readonly hostname: string; readonly authorization: Authorization | undefined },
  done: (socket: TLSSocket) => void,
  fail: (error: Error) => void,
) => void

const startClient: Start = (duplex, credentials, { hostname }, done, fail) => {
  const { kind, username, keys, context } = credentials
  const socket = connect({
    socket: duplex,
    ...context,
    ...(kind === 'psk' && { pskCallback: () => ({ psk: keys.get(username)!, identity: username }) }),
    // The name as server name indication; an IP address must not be one.
    ...(kind === 'x509' && hostname && isIP(hostname) === 0 && { servername: hostname }),
    // Looked at below, for a better sentence than the error's.
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  })
  // Not once: what `fail` does to the socket below comes back as another one.
  socket.on('error', (error) => fail(handshakeError(error, credentials)))
  socket.once('secureConnect', () => {
    if (!needsHostname(credentials)) {
      done(socket)
      return
    }
    const peer = socket.getPeerCertificate(true)
    const error = unverified(socket, credentials, peer)
    if (error) {
      fail(error)
      return
    }
    const mismatch = checkServerIdentity(hostname, peer)
    if (mismatch) fail(hostNameError(hostname, peer, mismatch))
    else done(socket)
  })
}

const startServer: Start = (duplex, credentials, { authorization }, done, fail) => {
  const { kind, keys, context } = credentials
  const demands = demandsCertificate(credentials)
  let unknownUser: string | undefined
  // A server of its own for each connection: it never listens, and is the only documented way to a checked peer.
  const server = createServer({
    ...context,
    allowHalfOpen: true,
    requestCert: demands,
    rejectUnauthorized: false,
    handshakeTimeout: 2 ** 31 - 1, // ours ends it
    ...(kind === 'psk' && {
      pskCallback: (_socket: TLSSocket, identity: string) => {
        const psk = keys.get(identity)
        if (!psk) unknownUser = identity
        return psk ?? null
      },
    }),
  })
  server.once('tlsClientError', (error) => {
    fail(
      unknownUser === undefined
        ? handshakeError(error, credentials)
        : new TlsHandshakeError(
            `${credentials.dir}/keys.psk has no key of the user ${JSON.stringify(unknownUser)} that the client names`,
            error,
          ),
    )
  })
  server.once('secureConnection', (socket) => {
    const error = demands ? unverified(socket, credentials, socket.getPeerCertificate(true)) : undefined
    const refused = error ?? (authorization && unauthorized(socket, authorization))
    if (refused) fail(refused)
    else done(socket)
  })
  server.emit('connection', duplex)
}

/** Whoever cannot be decided on may not come. */
function unauthorized(socket: TLSSocket, authorization: Authorization): Error | undefined {
  const name = distinguishedName(socket.getPeerX509Certificate()!)
  try {
    if (authorization.allows(name)) return undefined
  } catch (error) {
    return new TlsHandshakeError(`the client "${name}" cannot be authorized: ${(error as Error).message}`, error)
  }
  return new TlsHandshakeError(
    `the client "${name}" is not allowed by the authorization object of tls-authz; add a rule for that name to it`,
  )
}

function unverified(
  socket: TLSSocket,
  credentials: TlsCredentials,
  peer: DetailedPeerCertificate,
): TlsHandshakeError | undefined {
  // `{}` when there is none.
  if (!peer?.raw) {
    return new TlsHandshakeError(
      `the client showed no certificate that the authority in ${credentials.dir}/ca-cert.pem issued; put client-cert.pem and client-key.pem of that CA into its dir, or set verify-peer=off here`,
    )
  }
  if (socket.authorized) return undefined
  const reason = socket.authorizationError as Error | string | undefined
  const code = typeof reason === 'string' ? reason : (reason as { code?: string } | undefined)?.code
  return handshakeError(Object.assign(new Error(`certificate not accepted: ${code}`), { code }), credentials, peer)
}

/** Runs `start` until it is done, has failed, was aborted, or took too long; whatever is not done leaves nothing behind. */
function handshake(
  duplex: Duplex,
  signal: AbortSignal,
  timeoutMs: number,
  ended: () => Error,
  start: (done: (socket: TLSSocket) => void, fail: (error: Error) => void) => void,
): Promise<Channel> {
  return new Promise((resolve, reject) => {
    const settle = () => {
      settled = true
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
    }
    const fail = (error: Error) => {
      settle()
      duplex.destroy(error)
      reject(error)
    }
    const onAbort = () => fail(signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason)))
    let settled = false
    const onEnd = () => {
      if (!settled) fail(ended())
    }
    const timer = setTimeout(
      () => fail(new TlsHandshakeError(`the peer did not finish the handshake within ${timeoutMs} ms`)),
      timeoutMs,
    )
    signal.addEventListener('abort', onAbort)
    duplex.on('error', () => {}) // reaches us through the TLS socket
    // A TLS socket that may be half-open does not mind an end in its handshake, and would wait for the rest of it.
    duplex.once('end', () => setImmediate(() => setImmediate(onEnd)))
    try {
      start((socket) => {
        settle()
        socket.allowHalfOpen = true
        // At once: an end that comes before anybody listens would not come again.
        resolve(fromDuplex(socket))
      }, fail)
    } catch (error) {
      fail(new TlsHandshakeError(`the credentials do not work: ${(error as Error).message}`, error))
    }
  })
}

class TlsChannel implements Channel {
  readonly features: Channel['features']
  readonly #inner: Channel
  readonly #secure: Channel
  readonly #tail: StreamTail
  readonly #role: TlsEndpoint
  /** The peer has said something. */
  #heard = false
  #closed = false

  constructor(secure: Channel, inner: Channel, tail: StreamTail, role: TlsEndpoint) {
    this.#inner = inner
    this.#secure = secure
    this.features = this.#secure.features
    this.#tail = tail
    this.#role = role
  }

  read(into: Uint8Array): number | Promise<number> {
    if (this.#heard) return this.#secure.read(into)
    return this.#firstRead(into)
  }

  write(buffers: readonly Uint8Array[]): void | Promise<void> {
    const written = this.#secure.write(buffers)
    if (this.#heard || !written) return written
    return written.catch((error: unknown) => {
      throw this.#closed || this.#heard ? error : this.#peerClosed(error)
    })
  }

  shutdown(how: 'read' | 'write' | 'both'): Promise<void> {
    return this.#secure.shutdown(how)
  }

  async close(reason?: Error): Promise<void> {
    this.#closed = true
    await this.#secure.close(reason)
    await this.#inner.close(reason)
  }

  #firstRead(into: Uint8Array): number | Promise<number> {
    const reading = this.#secure.read(into)
    if (typeof reading === 'number' && reading > 0) return this.#firstBytes(reading)
    return Promise.resolve(reading).then(
      (count) => this.#firstBytes(count),
      (error: unknown) => {
        throw this.#closed ? error : this.#peerClosed(error)
      },
    )
  }

  /** @throws ChannelClosedError the stream was cut before it had a byte */
  #firstBytes(count: number): number {
    if (count > 0) this.#heard = true
    else if (!this.#closed && !this.#tail.endsWithAlert) throw this.#peerClosed(undefined)
    return count
  }

  /** The handshake was fine here, and then the peer went away before it said anything: what a peer does that refuses us. */
  #peerClosed(cause: unknown): Error {
    // A fault that was found on this side (a damaged record) says more than a guess.
    const code = causeCode(cause)
    if (code?.startsWith('ERR_SSL') && !/ALERT|WRITE_AFTER/.test(code)) return cause as Error
    const other = this.#role === 'client' ? 'server' : 'client'
    return new ChannelClosedError(
      `TLS: the ${other} closed the connection after the handshake without a word: most likely it refused this end's ` +
        `${this.#role === 'client' ? 'certificate' : 'certificate or its host name'}; its log says why`,
      { cause },
    )
  }
}

function causeCode(error: unknown): string | undefined {
  for (let at = error as { code?: unknown; cause?: unknown } | undefined; at; at = at.cause as typeof at) {
    if (typeof at.code === 'string' && !at.code.startsWith('FERRY_')) return at.code
  }
  return undefined
}
