import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { createSecureContext, type SecureContextOptions } from 'node:tls'
import { checkAuthority, checkKeyPair, parseCertificates } from './certificate-checks.ts'
import { TlsCredentialsError } from './errors.ts'
import { parsePriority } from './priority.ts'

/** Which end of the connection the credentials are for: the sender of a migration is the client. */
export type TlsEndpoint = 'client' | 'server'

interface CommonOptions {
  /** Folder with the files. */
  readonly dir: string
  /** Default `client`. */
  readonly endpoint?: TlsEndpoint
  /** GnuTLS priority string, as far as it can be mapped. Default `NORMAL`. */
  readonly priority?: string
}

/** Files: `ca-cert.pem`, `server-cert.pem`, `server-key.pem`, `client-cert.pem`, `client-key.pem`, `ca-crl.pem`. */
export interface TlsX509Options extends CommonOptions {
  readonly kind: 'x509'
  /** Server: demand and check a client's certificate. Client: check the server's. Default true. */
  readonly verifyPeer?: boolean
  /** Look at the certificates before the first connection does. Default true. */
  readonly sanityCheck?: boolean
}
/** File: `keys.psk`, lines `user:hexkey`. */
export interface TlsPskOptions extends CommonOptions {
  readonly kind: 'psk'
  /** Client only. Default `qemu`. */
  readonly username?: string
}
export type TlsCredentialsOptions = TlsX509Options | TlsPskOptions

/** Read and checked. Spec: protocol.md section 8. */
export interface TlsCredentials {
  readonly kind: 'x509' | 'psk'
  readonly dir: string
  readonly endpoint: TlsEndpoint
  readonly verifyPeer: boolean
  readonly username: string
  /** psk: key of each user. */
  readonly keys: ReadonlyMap<string, Uint8Array>
  /** For `tls.createSecureContext`. */
  readonly context: SecureContextOptions
}

const MAX_FILE_BYTES = 1 << 20
/** Those that need no certificate and no file of Diffie-Hellman parameters. */
const PSK_CIPHERS =
  'ECDHE-PSK-CHACHA20-POLY1305:PSK-AES256-GCM-SHA384:PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-PSK-AES128-CBC-SHA256'

/** Reads the files. @throws TlsCredentialsError one is missing, too large, or no good for this end */
export async function loadTlsCredentials(options: TlsCredentialsOptions): Promise<TlsCredentials> {
  const { dir, endpoint = 'client' } = options
  if (!dir) throw new TlsCredentialsError('dir is missing: the folder with the files')
  if (endpoint !== 'client' && endpoint !== 'server') {
    throw new TlsCredentialsError(`endpoint is client or server, not "${endpoint}"`)
  }
  const versions = parsePriority(options.priority ?? 'NORMAL')
  return options.kind === 'psk' ? loadPsk(options, endpoint, versions) : loadX509(options, endpoint, versions)
}

async function loadX509(
  { dir, verifyPeer = true, sanityCheck = true }: TlsX509Options,
  endpoint: TlsEndpoint,
  versions: SecureContextOptions,
): Promise<TlsCredentials> {
  const file = (name: string) => join(dir, name)
  const ca = await readText(file('ca-cert.pem'))
  const crl = await readIfThere(file('ca-crl.pem'))
  const ownCert = file(`${endpoint}-cert.pem`)
  const ownKey = file(`${endpoint}-key.pem`)
  // A client without a certificate is complete: a server with verify-peer=off takes it.
  const cert = endpoint === 'server' ? await readText(ownCert) : await readIfThere(ownCert)
  const key = cert === undefined ? undefined : await readText(ownKey)
  const authorities = parseCertificates(ca, file('ca-cert.pem'))
  if (cert !== undefined) {
    const certificates = parseCertificates(cert, ownCert)
    checkKeyPair(certificates[0]!, ownCert, key!, ownKey)
    if (sanityCheck) checkAuthority(certificates[0]!, ownCert, certificates.slice(1), authorities, file('ca-cert.pem'))
  }
  // After a handshake of TLS 1.3 the server sends session tickets, which Node cannot leave out. A sender that never reads (stock
  // QEMU without return path) then closes with unread bytes, and its system resets the connection: the end of the guest is lost.
  const maxVersion = endpoint === 'server' ? versions.minVersion : versions.maxVersion
  const context = { ...versions, maxVersion, ca, cert, key, ...(crl !== undefined && { crl }) }
  try {
    createSecureContext(context)
  } catch (cause) {
    throw new TlsCredentialsError(`the files in ${dir} do not work together: ${(cause as Error).message}`, { cause })
  }
  return { kind: 'x509', dir, endpoint, verifyPeer, username: '', keys: new Map(), context }
}

async function loadPsk(
  { dir, username }: TlsPskOptions,
  endpoint: TlsEndpoint,
  versions: SecureContextOptions,
): Promise<TlsCredentials> {
  if (username !== undefined && endpoint === 'server') {
    throw new TlsCredentialsError('username is for endpoint=client; a server takes every user of its keys.psk')
  }
  const path = join(dir, 'keys.psk')
  const keys = new Map<string, Uint8Array>()
  for (const [index, line] of (await readText(path)).split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const match = /^([^:]{1,128}):((?:[0-9a-f]{2}){1,256})$/i.exec(line.trim())
    if (!match) throw new TlsCredentialsError(`${path}: line ${index + 1} is not user:hexkey`)
    keys.set(match[1]!, Buffer.from(match[2]!, 'hex'))
  }
  const user = username ?? 'qemu'
  if (endpoint === 'client' && !keys.has(user)) {
    throw new TlsCredentialsError(`${path} has no key of the user "${user}"; add one, or give username=`)
  }
  if (keys.size === 0) throw new TlsCredentialsError(`${path} has no key; one line is user:hexkey`)
  if (versions.minVersion === 'TLSv1.3') {
    throw new TlsCredentialsError('tls-creds-psk needs TLS 1.2 here, which the priority switches off')
  }
  return {
    kind: 'psk',
    dir,
    endpoint,
    verifyPeer: true,
    username: user,
    keys,
    // With TLS 1.3 a server that knows no such key asks for certificates instead, and nobody learns what was wrong.
    context: { ...versions, maxVersion: 'TLSv1.2', ciphers: PSK_CIPHERS },
  }
}

async function readText(path: string): Promise<string> {
  try {
    const { size } = await stat(path)
    if (size > MAX_FILE_BYTES)
      throw new TlsCredentialsError(`${path} has ${size} bytes, at most ${MAX_FILE_BYTES} are read`)
    return await readFile(path, 'utf8')
  } catch (cause) {
    if (cause instanceof TlsCredentialsError) throw cause
    throw new TlsCredentialsError(`${path} cannot be read: ${reasonOf(cause)}`, { cause })
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  const there = await stat(path).catch((error: { code?: string }) => {
    if (error.code === 'ENOENT') return undefined
    throw new TlsCredentialsError(`${path} cannot be read: ${reasonOf(error)}`, { cause: error })
  })
  return there && readText(path)
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'it does not exist ("emu tls init" makes a set of files)',
  EISDIR: 'it is a folder',
  EACCES: 'permission denied',
}
const reasonOf = (error: unknown): string =>
  REASONS[(error as { code?: string }).code ?? ''] ?? (error instanceof Error ? error.message : String(error))
