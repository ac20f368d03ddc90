/**
 * TLS over any ferryvm transport, with the credential files of QEMU. Node only.
 *
 * ```ts
 * import { withLayer } from '@ferryvm/core'
 * import { tcp } from '@ferryvm/transport-socket'
 * import { loadTlsCredentials, tls } from '@ferryvm/transport-tls'
 *
 * const credentials = await loadTlsCredentials({ kind: 'x509', dir: 'pki', endpoint: 'client' })
 * const transport = withLayer(tcp(), tls({ credentials, hostname: 'node2.example' }))
 * ```
 */

export type { Authorization, AuthorizationList, AuthorizationRule } from './authz/authorization.ts'
export { exactly, listed, listedInFile } from './authz/authorization.ts'
export type {
  TlsAnonOptions,
  TlsCredentials,
  TlsCredentialsOptions,
  TlsEndpoint,
  TlsPskOptions,
  TlsX509Options,
} from './credentials.ts'
export { loadTlsCredentials } from './credentials.ts'
export { TlsCredentialsError, TlsHandshakeError, UserObjectError } from './errors.ts'
export type { TlsOptions } from './layer.ts'
export { credentialsFor, tls } from './layer.ts'
