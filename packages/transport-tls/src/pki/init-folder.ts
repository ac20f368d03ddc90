import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { readBoundedText, readTextIfThere } from '../bounded-file.ts'
import { TlsCredentialsError } from '../errors.ts'
import { type Authority, createAuthority, openAuthority } from './authority.ts'

export interface InitTlsOptions {
  /** Names and IP addresses by which sources reach the destinations; at least one. */
  readonly hosts: readonly string[]
  /** How long everything is valid. Default 3650. */
  readonly days?: number
  /** Keep the CA that is there, and replace the certificates and keys of both ends. */
  readonly renew?: boolean
}

const HOST = /^[0-9a-z*]([0-9a-z_.:-]*[0-9a-z])?$/i
const PSK_BYTES = 32

/**
 * Makes a CA, a server certificate for `hosts` and a client certificate, as QEMU wants to find them: `ca-cert.pem`,
 * `server-cert.pem`, `server-key.pem`, `client-cert.pem`, `client-key.pem`, and the CA's `ca-key.pem`. Nothing that exists
 * is replaced, unless `renew` says so.
 *
 * @returns names of the files
 * @throws TlsCredentialsError a host is no name, a file is there already, or there is no CA to renew by
 */
export async function initTlsFolder(dir: string, options: InitTlsOptions): Promise<string[]> {
  const { hosts, days = 3650, renew = false } = options
  if (hosts.length === 0) throw new TlsCredentialsError('no host: name what sources will connect to')
  const wrong = hosts.find((host) => !HOST.test(host) && !host.includes('::'))
  if (wrong !== undefined) throw new TlsCredentialsError(`"${wrong}" is neither a host name nor an IP address`)
  if (!Number.isInteger(days) || days < 1 || days > 36_500) {
    throw new TlsCredentialsError(`days is an integer from 1 to 36500, not ${days}`)
  }
  const ca = renew ? await authorityIn(dir) : await createAuthority(undefined, days)
  const server = await ca.issue({ endpoint: 'server', name: hosts[0]!, hosts })
  const client = await ca.issue({ endpoint: 'client', name: 'ferryvm migration source' })
  const files = {
    ...(!renew && { 'ca-cert.pem': ca.cert, 'ca-key.pem': ca.key }),
    'server-cert.pem': server.cert,
    'server-key.pem': server.key,
    'client-cert.pem': client.cert,
    'client-key.pem': client.key,
  }
  await mkdir(dir, { recursive: true })
  for (const [name, text] of Object.entries(files)) await put(join(dir, name), text, renew)
  return Object.keys(files)
}

/**
 * Adds a user with a random key of 256 bits to `keys.psk`, which is made if it is not there.
 *
 * @throws TlsCredentialsError the user has a key already, or the file cannot be written
 */
export async function addPskUser(dir: string, user = 'qemu'): Promise<string> {
  if (!/^[^:#\s][^:\n]{0,127}$/.test(user)) throw new TlsCredentialsError(`"${user}" is no name of a user`)
  const path = join(dir, 'keys.psk')
  const before = readTextIfThere(path) ?? ''
  if (before.split('\n').some((line) => line.startsWith(`${user}:`))) {
    throw new TlsCredentialsError(`${path} has a key of the user "${user}" already`)
  }
  await mkdir(dir, { recursive: true })
  const separated = before === '' || before.endsWith('\n') ? before : `${before}\n`
  await put(path, `${separated}${user}:${randomBytes(PSK_BYTES).toString('hex')}\n`, true)
  return 'keys.psk'
}

async function authorityIn(dir: string): Promise<Authority> {
  const key = readTextIfThere(join(dir, 'ca-key.pem'))
  if (key === undefined) {
    throw new TlsCredentialsError(
      `${dir} has no ca-key.pem, so nothing can be issued; renew where the CA was made, and copy the files from there`,
    )
  }
  return openAuthority(readBoundedText(join(dir, 'ca-cert.pem')), key)
}

async function put(path: string, text: string, replace: boolean): Promise<void> {
  try {
    await writeFile(path, text, { flag: replace ? 'w' : 'wx', mode: /key/.test(path) ? 0o600 : 0o644 })
  } catch (cause) {
    const why = (cause as { code?: string }).code === 'EEXIST' ? 'it exists already' : (cause as Error).message
    throw new TlsCredentialsError(`${path} was not written: ${why}`, { cause })
  }
}
