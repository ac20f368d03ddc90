/**
 * The objects of QEMU's `-object` and `object-add` that TLS needs: `tls-creds-x509`, `tls-creds-psk`, `tls-creds-anon`,
 * `authz-simple`, `authz-list`, `authz-list-file`, `secret`.
 *
 * ```ts
 * const objects = createTlsObjects()
 * await objects.addText('tls-creds-x509,id=tls0,dir=pki,endpoint=server')
 * const migration = createMigration({ machine, transports, channelLayers: tlsChannelLayers(objects) })
 * ```
 */
export type { TlsLayerRequest } from './channel-layers.ts'
export { tlsChannelLayers } from './channel-layers.ts'
export type { TlsObjects } from './user-objects.ts'
export { createTlsObjects } from './user-objects.ts'
