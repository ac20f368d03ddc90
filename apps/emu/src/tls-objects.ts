import { FerryError } from '@ferryvm/core'
import type { MigrationOptions } from '@ferryvm/migration'
import { credentialsFor, loadTlsCredentials, type TlsCredentials, tls } from '@ferryvm/transport-tls'
import { isOn, type Keyvals } from './keyval.ts'
import { UsageError } from './usage-error.ts'

const KINDS: Readonly<Record<string, 'x509' | 'psk'>> = { 'tls-creds-x509': 'x509', 'tls-creds-psk': 'psk' }
const PROPERTIES = {
  x509: ['dir', 'endpoint', 'verify-peer', 'priority', 'sanity-check'],
  psk: ['dir', 'endpoint', 'priority', 'username', 'verify-peer'],
}
const ABSENT: Readonly<Record<string, string>> = {
  'tls-creds-anon': 'anonymous TLS is not available here; use tls-creds-psk or tls-creds-x509',
  'authz-simple': 'authorization lists are not available here; verify-peer=on and ca-crl.pem say who may come',
  'authz-list': 'authorization lists are not available here; verify-peer=on and ca-crl.pem say who may come',
  'authz-list-file': 'authorization lists are not available here; verify-peer=on and ca-crl.pem say who may come',
  secret: 'secret objects are not available here; the key file must have no password',
}

/**
 * The credentials of `-object`, and what wraps the channels of a migration when its parameter `tls-creds` names one of them.
 *
 * @throws UsageError an object cannot be made
 */
export async function tlsLayers(objects: readonly Keyvals[]): Promise<NonNullable<MigrationOptions['channelLayers']>> {
  const known = new Map<string, TlsCredentials>()
  for (const object of objects) {
    const { type, id, ...properties } = object
    if (!id) throw new UsageError(`-object ${type ?? ''}: id= is missing`)
    if (known.has(id)) throw new UsageError(`-object ${type},id=${id}: there is an object with this id already`)
    known.set(id, await createObject(type ?? '', id, properties))
  }
  return ({ role, host, parameters }) => {
    const id = parameters['tls-creds']
    if (!id) return []
    const credentials = known.get(id)
    if (!credentials) {
      const there = [...known.keys()].join(', ') || 'none'
      throw new UsageError(`tls-creds: there is no object with id "${id}" (there are: ${there})`)
    }
    return [tls({ credentials: credentialsFor(credentials, role), hostname: parameters['tls-hostname'] || host })]
  }
}

async function createObject(type: string, id: string, properties: Keyvals): Promise<TlsCredentials> {
  const where = `-object ${type},id=${id}`
  const kind = KINDS[type]
  if (!kind)
    throw new UsageError(`${where}: ${ABSENT[type] ?? `unknown type (there are: ${Object.keys(KINDS).join(', ')})`}`)
  const unknown = Object.keys(properties).find((name) => !PROPERTIES[kind].includes(name))
  if (unknown) throw new UsageError(`${where}: ${unknown} is not supported (there are: ${PROPERTIES[kind].join(', ')})`)
  const flag = (name: string) => properties[name] === undefined || isOn(properties[name])
  const common = { dir: properties.dir ?? '', endpoint: properties.endpoint as 'client', priority: properties.priority }
  try {
    return await loadTlsCredentials(
      kind === 'x509'
        ? { kind, ...common, verifyPeer: flag('verify-peer'), sanityCheck: flag('sanity-check') }
        : { kind, ...common, username: properties.username },
    )
  } catch (cause) {
    if (FerryError.isInstance(cause)) throw new UsageError(`${where}: ${cause.message}`, { cause })
    throw cause
  }
}
