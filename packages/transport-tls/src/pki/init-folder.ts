import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { TlsCredentialsError } from '../errors.ts'
import { createAuthority } from './authority.ts'

export interface InitTlsOptions {
  /** Names and IP addresses by which sources reach the destinations; at least one. */
  readonly hosts: readonly string[]
  /** How long everything is valid. Default 3650. */
  readonly days?: number
}

const HOST = /^[0-9a-z*]([0-9a-z_.:-]*[0-9a-z])?$/i

/**
 * Makes a CA, a server certificate for `hosts` and a client certificate, as QEMU wants to find them: `ca-cert.pem`,
 * `server-cert.pem`, `server-key.pem`, `client-cert.pem`, `client-key.pem`, and the CA's `ca-key.pem`. Nothing that exists
 * is replaced.
 *
 * @returns names of the files
 * @throws TlsCredentialsError a host is no name, or a file is there already
 */
export async function initTlsFolder(dir: string, { hosts, days = 3650 }: InitTlsOptions): Promise<string[]> {
  if (hosts.length === 0) throw new TlsCredentialsError('no host: name what sources will connect to')
  const wrong = hosts.find((host) => !HOST.test(host) && !host.includes('::'))
  if (wrong !== undefined) throw new TlsCredentialsError(`"${wrong}" is neither a host name nor an IP address`)
  if (!Number.isInteger(days) || days < 1 || days > 36_500) {
    throw new TlsCredentialsError(`days is an integer from 1 to 36500, not ${days}`)
  }
  const ca = await createAuthority(undefined, days)
  const server = await ca.issue({ endpoint: 'server', name: hosts[0]!, hosts })
  const client = await ca.issue({ endpoint: 'client', name: 'ferryvm migration source' })
  const files = {
    'ca-cert.pem': ca.cert,
    'ca-key.pem': ca.key,
    'server-cert.pem': server.cert,
    'server-key.pem': server.key,
    'client-cert.pem': client.cert,
    'client-key.pem': client.key,
  }
  await mkdir(dir, { recursive: true })
  for (const [name, text] of Object.entries(files)) {
    const path = join(dir, name)
    try {
      await writeFile(path, text, { flag: 'wx', mode: name.includes('key') ? 0o600 : 0o644 })
    } catch (cause) {
      const why = (cause as { code?: string }).code === 'EEXIST' ? 'it exists already' : (cause as Error).message
      throw new TlsCredentialsError(`${path} was not written: ${why}`, { cause })
    }
  }
  return Object.keys(files)
}
