import { join } from 'node:path'
import { createSecureContext, type SecureContextOptions } from 'node:tls'
import { readBoundedText, readTextIfThere } from './bounded-file.ts'
import { checkAuthority, checkKeyPair, checkPurpose, parseCertificates } from './certificate-checks.ts'
import { TlsCredentialsError } from './errors.ts'
import { parsePriority, type TlsKind } from './priority.ts'

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

/**
 * Files: `ca-cert.pem`, `server-cert.pem`, `server-key.pem`, `client-cert.pem`, `client-key.pem`, `ca-crl.pem`. A server of any
 * kind takes its Diffie-Hellman parameters from `dh-params.pem`, if that is there.
 */
export interface TlsX509Options extends CommonOptions {
  readonly kind: 'x509'
  /** Server: demand and check a client's certificate. Client: check the server's. Default true. */
  readonly verifyPeer?: boolean
  /** Look at the certificates before the first connection does. Default true. */
  readonly sanityCheck?: boolean
  /** Of an encrypted key file. */
  readonly passphrase?: string
}
/** File: `keys.psk`, lines `user:hexkey`. */
export interface TlsPskOptions extends CommonOptions {
  readonly kind: 'psk'
  /** Client only. Default `qemu`. */
  readonly username?: string
}
/** Encrypted, and nobody knows with whom: whoever sits on the wire can be the peer. No file is needed. */
export interface TlsAnonOptions extends Omit<CommonOptions, 'dir'> {
  readonly kind: 'anon'
  readonly dir?: string
}
export type TlsCredentialsOptions = TlsX509Options | TlsPskOptions | TlsAnonOptions

/** Read and checked. Spec: protocol.md section 8. */
export interface TlsCredentials {
  readonly kind: TlsKind
  readonly dir: string
  readonly endpoint: TlsEndpoint
  readonly verifyPeer: boolean
  readonly username: string
  /** psk: key of each user. */
  readonly keys: ReadonlyMap<string, Uint8Array>
  /** For `tls.createSecureContext`. */
  readonly context: SecureContextOptions
}

const MAX_USERS = 10_000

/** Reads the files. @throws TlsCredentialsError one is missing, too large, or no good for this end */
export async function loadTlsCredentials(options: TlsCredentialsOptions): Promise<TlsCredentials> {
  const { dir = '', endpoint = 'client', kind } = options
  if (!dir && kind !== 'anon') throw new TlsCredentialsError('dir is missing: the folder with the files')
  if (endpoint !== 'client' && endpoint !== 'server') {
    throw new TlsCredentialsError(`endpoint is client or server, not "${endpoint}"`)
  }
  const priority = parsePriority(options.priority ?? 'NORMAL', kind)
  const dh = endpoint === 'server' && dir ? readTextIfThere(join(dir, 'dh-params.pem')) : undefined
  if (kind === 'x509') return loadX509(options, endpoint, { ...priority, ...(dh !== undefined && { dhparam: dh }) })
  // Their suites are those of TLS 1.2. With a key of TLS 1.3, a server that does not know it asks for certificates instead, and
  // nobody learns what was wrong.
  const common = { ...priority, dhparam: dh ?? 'auto' }
  if (kind === 'psk') return loadPsk(options, endpoint, common)
  // OpenSSL has no suite without authentication at any level above 0; the ciphers are those of the other kinds.
  const context = { ...common, ciphers: `${priority.ciphers}:@SECLEVEL=0` }
  checkContext(context, dir)
  return { kind, dir, endpoint, verifyPeer: false, username: '', keys: new Map(), context }
}

async function loadX509(
  { dir, verifyPeer = true, sanityCheck = true, passphrase }: TlsX509Options,
  endpoint: TlsEndpoint,
  versions: SecureContextOptions,
): Promise<TlsCredentials> {
  const file = (name: string) => join(dir, name)
  const ca = readFile(file('ca-cert.pem'))
  const crl = readTextIfThere(file('ca-crl.pem'))
  const ownCert = file(`${endpoint}-cert.pem`)
  const ownKey = file(`${endpoint}-key.pem`)
  // A client without a certificate is complete: a server with verify-peer=off takes it.
  const cert = endpoint === 'server' ? readFile(ownCert) : readTextIfThere(ownCert)
  const key = cert === undefined ? undefined : readFile(ownKey)
  const authorities = parseCertificates(ca, file('ca-cert.pem'))
  if (cert !== undefined) {
    const certificates = parseCertificates(cert, ownCert)
    checkKeyPair(certificates[0]!, ownCert, key!, ownKey, passphrase)
    if (sanityCheck) {
      checkAuthority(certificates[0]!, ownCert, certificates.slice(1), authorities, file('ca-cert.pem'))
      checkPurpose(certificates[0]!, ownCert, endpoint)
    }
  }
  // After a handshake of TLS 1.3 the server sends session tickets, which Node cannot leave out. A sender that never reads (stock
  // QEMU without return path) then closes with unread bytes, and its system resets the connection: the end of the guest is lost.
  const maxVersion = endpoint === 'server' ? versions.minVersion : versions.maxVersion
  const context = {
    ...versions,
    maxVersion,
    ca,
    cert,
    key,
    ...(passphrase !== undefined && { passphrase }),
    ...(crl !== undefined && { crl }),
  }
  checkContext(context, dir)
  return { kind: 'x509', dir, endpoint, verifyPeer, username: '', keys: new Map(), context }
}

function checkContext(context: SecureContextOptions, dir: string): void {
  try {
    createSecureContext(context)
  } catch (cause) {
    throw new TlsCredentialsError(`the files in ${dir} do not work together: ${(cause as Error).message}`, { cause })
  }
}

async function loadPsk(
  { dir, username }: TlsPskOptions,
  endpoint: TlsEndpoint,
  context: SecureContextOptions,
): Promise<TlsCredentials> {
  if (username !== undefined && endpoint === 'server') {
    throw new TlsCredentialsError('username is for endpoint=client; a server takes every user of its keys.psk')
  }
  const path = join(dir, 'keys.psk')
  const keys = new Map<string, Uint8Array>()
  for (const [index, line] of readBoundedText(path).split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const match = /^([^:]{1,128}):((?:[0-9a-f]{2}){1,256})$/i.exec(line.trim())
    if (!match) throw new TlsCredentialsError(`${path}: line ${index + 1} is not user:hexkey`)
    keys.set(match[1]!, Buffer.from(match[2]!, 'hex'))
    if (keys.size > MAX_USERS) throw new TlsCredentialsError(`${path} has more than ${MAX_USERS} users`)
  }
  const user = username ?? 'qemu'
  if (keys.size === 0) throw new TlsCredentialsError(`${path} has no key; one line is user:hexkey`)
  if (endpoint === 'client' && !keys.has(user)) {
    throw new TlsCredentialsError(`${path} has no key of the user "${user}"; add one, or give username=`)
  }
  checkContext(context, dir)
  return { kind: 'psk', dir, endpoint, verifyPeer: true, username: user, keys, context }
}

/** Says, too, how to come by a file that is missing. */
function readFile(path: string): string {
  try {
    return readBoundedText(path)
  } catch (error) {
    const missing = ((error as Error).cause as { code?: string } | undefined)?.code === 'ENOENT'
    if (!missing) throw error
    throw new TlsCredentialsError(`${(error as Error).message} ("emu tls init" makes a set of files)`, { cause: error })
  }
}
