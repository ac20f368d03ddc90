import type { X509Certificate } from 'node:crypto'
import { isIP } from 'node:net'
import { Duplex } from 'node:stream'
import { connect, type TLSSocket } from 'node:tls'
import type { Channel } from '@ferryvm/core'
import { checkAuthority, checkPurpose, parseCertificates } from '../certificate-checks.ts'
import { toDuplex } from '../channel-duplex.ts'
import type { TlsCredentials } from '../credentials.ts'
import { TlsHandshakeError } from '../errors.ts'
import { handshakeError } from '../refusal.ts'

/** Content types and a message of a handshake. Spec: RFC 8446, sections 5.1 and 4. */
const CHANGE_CIPHER_SPEC = 20
const HANDSHAKE = 22
const CLIENT_HELLO = 1

export interface ProbeOptions {
  /** Of the client. */
  readonly credentials: TlsCredentials
  /** What the peer is called in sentences. */
  readonly peer: string
  readonly hostname?: string
  /** Default 10000. */
  readonly timeoutMs?: number
}

/**
 * Asks a server what it shows, without finishing the handshake: a destination that waits for a guest takes the first connection
 * that shakes hands for it. (One that waits without TLS takes any connection, this one too.)
 *
 * @returns what is left to be said: which part of the handshake was not tried
 * @throws TlsHandshakeError what is wrong with what it showed @throws TlsCredentialsError likewise, found in its certificate
 */
export async function probeTlsServer(channel: Channel, options: ProbeOptions): Promise<string> {
  const { credentials, hostname } = options
  const { kind, username, keys, context } = credentials
  const wire = toDuplex(channel, () => {})
  const { duplex, held } = holdBack(wire)
  const socket = connect({
    socket: duplex,
    ...context,
    ...(kind === 'psk' && { pskCallback: () => ({ psk: keys.get(username)!, identity: username }) }),
    ...(kind === 'x509' && hostname && isIP(hostname) === 0 && { servername: hostname }),
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  })
  try {
    const certificate = await answer(socket, wire, held, options)
    if (kind === 'x509' && credentials.verifyPeer) checkShown(certificate, options)
    return kind === 'x509'
      ? 'whether it accepts the client shows only when a handshake is finished'
      : `whether it has the same ${kind === 'psk' ? 'key' : 'settings'} shows only when a handshake is finished`
  } finally {
    socket.on('error', () => {})
    wire.on('error', () => {})
    socket.destroy()
    wire.destroy()
    await channel.close()
  }
}

/** Resolves with the server's certificate, if it has one, as soon as all that it shows has been seen. */
function answer(
  socket: TLSSocket,
  wire: Duplex,
  held: Promise<void>,
  { credentials, peer, timeoutMs = 10_000 }: ProbeOptions,
): Promise<X509Certificate | undefined> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () =>
        reject(
          new TlsHandshakeError(
            `${peer} said nothing for ${timeoutMs} ms; most likely it does not speak TLS: set tls-creds on both ends`,
          ),
        ),
      timeoutMs,
    )
    const done = () => {
      clearTimeout(timer)
      resolve(socket.getPeerX509Certificate())
    }
    const fail = (error: unknown) => {
      clearTimeout(timer)
      reject(handshakeError(error, credentials))
    }
    socket.once('secureConnect', done)
    // With TLS 1.2 the client would have to go on before it is connected.
    void held.then(() => setImmediate(done))
    socket.once('error', fail)
    wire.once('error', fail)
    wire.once('end', () => setImmediate(() => setImmediate(() => fail({ code: 'ECONNRESET', message: 'ended' }))))
  })
}

/** Lets only the greetings of a client out. `held` resolves when something else was to follow. */
function holdBack(wire: Duplex): { duplex: Duplex; held: Promise<void> } {
  const { promise: held, resolve } = Promise.withResolvers<void>()
  let holding = false
  const duplex = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      let end = 0
      while (!holding && end + 5 <= chunk.length) {
        const greeting = chunk[end] === HANDSHAKE && chunk[end + 5] === CLIENT_HELLO
        if (greeting || chunk[end] === CHANGE_CIPHER_SPEC) end += 5 + chunk.readUInt16BE(end + 3)
        else holding = true
      }
      if (holding) resolve()
      if (end === 0) done()
      else wire.write(chunk.subarray(0, end), (error) => done(error))
    },
    final: (done) => done(),
  })
  wire.on('data', (chunk) => duplex.push(chunk))
  wire.on('end', () => duplex.push(null))
  return { duplex, held }
}

function checkShown(
  certificate: X509Certificate | undefined,
  { credentials: { context, dir }, hostname, peer }: ProbeOptions,
): void {
  const shown = `what ${peer} shows`
  if (!certificate) throw new TlsHandshakeError(`${peer} shows no certificate; use tls-creds-x509 on both ends`)
  const intermediates: X509Certificate[] = []
  for (let it = certificate.issuerCertificate; it && !intermediates.includes(it) && intermediates.length < 8; ) {
    intermediates.push(it)
    it = it.issuerCertificate
  }
  const path = `${dir}/ca-cert.pem`
  checkAuthority(certificate, shown, intermediates, parseCertificates(context.ca as string, path), path)
  checkPurpose(certificate, shown, 'server')
  const fits = !hostname || (isIP(hostname) ? certificate.checkIP(hostname) : certificate.checkHost(hostname))
  if (!fits) {
    const names = (certificate.subjectAltName ?? certificate.subject).replaceAll(/DNS:|IP Address:/g, '')
    throw new TlsHandshakeError(
      `the server's certificate is for ${names}, not for "${hostname}"; connect by a name it has, or set tls-hostname to one`,
    )
  }
}
