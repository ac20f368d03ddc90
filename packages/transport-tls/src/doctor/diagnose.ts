import { X509Certificate } from 'node:crypto'
import { type Channel, createChannelPair, FerryError, silentLogger } from '@ferryvm/core'
import type { Authorization } from '../authz/authorization.ts'
import {
  loadTlsCredentials,
  type TlsCredentials,
  type TlsCredentialsOptions,
  type TlsEndpoint,
} from '../credentials.ts'
import { tls } from '../layer.ts'
import { mendFor } from './mends.ts'
import { probeTlsServer } from './probe.ts'

export interface DiagnoseOptions {
  readonly kind: 'x509' | 'psk' | 'anon'
  /** Folder of the source's files. */
  readonly clientDir?: string
  /** Folder of the destination's files. */
  readonly serverDir?: string
  /** The name by which the source reaches the destination, or its tls-hostname. */
  readonly host?: string
  /** psk: whose key. */
  readonly username?: string
  /** Of encrypted key files. */
  readonly passphrase?: string
  readonly authorization?: Authorization
  /** A connection to a destination that waits; `name` is for sentences. Needs the client's files. */
  readonly live?: {
    readonly name: string
    connect(): Promise<Channel>
    /** Finish the handshake: a destination that accepts it takes the connection for its guest, and gives up. */
    readonly finish?: boolean
    /** For its answer. Default 10000. */
    readonly timeoutMs?: number
  }
}

export interface Diagnosis {
  /** undefined: nothing was found. */
  readonly problem?: string
  /** The command that mends it, if there is one. */
  readonly mend?: string
  /** What was looked at, and is fine. */
  readonly fine: readonly string[]
}

/** How long a server gets to refuse a client after the handshake, as TLS 1.3 has it. */
const LAST_WORD_MS = 1000

/** Reads the files of one or both ends, lets them shake hands here, and asks a live server. */
export async function diagnoseTls(options: DiagnoseOptions): Promise<Diagnosis> {
  const { clientDir, serverDir, live, host } = options
  const fine: string[] = []
  try {
    const server = serverDir === undefined ? undefined : await load(options, 'server', serverDir)
    if (server) fine.push(`the server's files in ${serverDir}`)
    const client = clientDir === undefined ? undefined : await load(options, 'client', clientDir)
    if (client) fine.push(`the client's files in ${clientDir}`)
    if (client && server) {
      await shakeHands(options, client, server)
      fine.push(`a handshake between the two${host && options.kind === 'x509' ? `, by the name "${host}"` : ''}`)
    }
    if (live && client) fine.push(await askLive(options, client, live))
    return { fine }
  } catch (error) {
    if (!FerryError.isInstance(error)) throw error
    const problem = error.message.replace(/^TLS: /, '')
    const mend = mendFor(problem, { clientDir, serverDir, host: host ?? 'HOST' })
    return { problem, ...(mend !== undefined && { mend }), fine }
  }
}

function load(options: DiagnoseOptions, endpoint: TlsEndpoint, dir: string): Promise<TlsCredentials> {
  const { kind, username, passphrase } = options
  const common = { dir, endpoint }
  const loaded: TlsCredentialsOptions =
    kind === 'x509'
      ? { kind, ...common, ...(passphrase !== undefined && { passphrase }) }
      : kind === 'psk'
        ? { kind, ...common, ...(username !== undefined && endpoint === 'client' && { username }) }
        : { kind, ...common }
  return loadTlsCredentials(loaded)
}

const context = () => ({ signal: AbortSignal.timeout(30_000), log: silentLogger })

/** @throws what the end that refuses the other says */
async function shakeHands(
  { host, serverDir, authorization }: DiagnoseOptions,
  client: TlsCredentials,
  server: TlsCredentials,
): Promise<void> {
  const [a, b] = createChannelPair()
  const hostname = host ?? firstName(server) ?? serverDir ?? ''
  const layer = tls({ credentials: [client, server], hostname, ...(authorization && { authorization }) })
  const ends = await Promise.allSettled([layer.wrap(a, 'client', context()), layer.wrap(b, 'server', context())])
  const failures = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as Error] : []))
  await Promise.all(ends.map((end) => end.status === 'fulfilled' && end.value.close()))
  // The end that was refused only guesses.
  const refused = /closed the connection|refused this end|its log says/
  const best = failures.find(({ message }) => !refused.test(message)) ?? failures[0]
  if (best) throw best
}

/** With no name to look for, that of the certificate is as good as any. */
function firstName({ context: { cert } }: TlsCredentials): string | undefined {
  if (cert === undefined) return undefined
  const names = new X509Certificate(cert as string).subjectAltName ?? ''
  return /(?:DNS:|IP Address:)([^,\s]+)/.exec(names)?.[1]
}

async function askLive(
  { host }: DiagnoseOptions,
  credentials: TlsCredentials,
  { name, connect, finish, timeoutMs }: NonNullable<DiagnoseOptions['live']>,
): Promise<string> {
  const channel = await connect()
  if (!finish) {
    const left = await probeTlsServer(channel, { credentials, peer: name, hostname: host, timeoutMs })
    return `what ${name} shows (${left})`
  }
  try {
    const secure = await tls({ credentials, hostname: host }).wrap(channel, 'client', context())
    // A server of TLS 1.3 looks at the client's certificate after the client is done.
    const heard = Promise.resolve(secure.read(new Uint8Array(1)))
    heard.catch(() => {})
    await Promise.race([heard, new Promise((resolve) => setTimeout(resolve, LAST_WORD_MS))])
    await secure.close()
    return `a whole handshake with ${name}`
  } finally {
    await channel.close()
  }
}
