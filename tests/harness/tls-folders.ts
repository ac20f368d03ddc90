import { createPrivateKey } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createTlsObjects, type TlsObjects, tlsChannelLayers } from '@ferryvm/transport-tls/objects'
import { createAuthority, type Issued } from '@ferryvm/transport-tls/pki'
import type { createVm } from './vm.ts'

export const HOST = 'localhost'
export const KEY_PASSWORD = 'open sesame'
/** What authorization objects call the client of the good folder. */
export const CLIENT_NAME = 'CN=source'
type KeyPair = Pick<Issued, 'cert' | 'key'>

/** Objects as after -object, and what a migration needs to use them. */
export async function tlsObjects(
  ...texts: readonly string[]
): Promise<
  { objects: TlsObjects } & Pick<NonNullable<Parameters<typeof createVm>[0]['migrationOptions']>, 'channelLayers'>
> {
  const objects = createTlsObjects()
  for (const text of texts) await objects.addText(text)
  return { objects, channelLayers: tlsChannelLayers(objects) }
}

/** Credential folders by what is special about them; all but `strangers` trust the same authority. */
export interface TlsFolders {
  /** Complete, both ends, also psk. */
  readonly good: string
  /** Another CA and everything from it. */
  readonly strangers: string
  /** Trusts the CA, and shows a client certificate of another one. */
  readonly strangeClient: string
  readonly expiredServer: string
  readonly expiredClient: string
  /** ca-cert.pem and nothing else. */
  readonly noClient: string
  /** Good, with a list that revokes the good client certificate and the good server certificate. */
  readonly revoking: string
  /** A client's certificate where the server's should be, and the other way round. */
  readonly wrongUsage: string
  /** Good; its keys are encrypted with {@link KEY_PASSWORD}. */
  readonly encrypted: string
  /** Another key for the same psk user. */
  readonly otherPsk: string
  /** A key for another psk user only. */
  readonly otherUser: string
}

export async function createTlsFolders(root: string): Promise<TlsFolders> {
  const [ca, other] = await Promise.all([createAuthority(), createAuthority('another CA')])
  const hosts = [HOST, '127.0.0.1']
  const yesterday = { notBefore: new Date(Date.now() - 9e7), notAfter: new Date(Date.now() - 8e7) }
  const server = await ca.issue({ endpoint: 'server', name: HOST, hosts })
  const client = await ca.issue({ endpoint: 'client', name: 'source' })
  const strangeServer = await other.issue({ endpoint: 'server', name: HOST, hosts })
  const strangeClient = await other.issue({ endpoint: 'client', name: 'stranger' })
  const swapped = {
    server: await ca.issue({ endpoint: 'client', name: HOST, hosts }),
    client: await ca.issue({ endpoint: 'server', name: 'swapped' }),
  }
  const encrypt = ({ cert, key }: Issued) => ({
    cert,
    key: createPrivateKey(key).export({
      type: 'pkcs8',
      format: 'pem',
      cipher: 'aes-256-cbc',
      passphrase: KEY_PASSWORD,
    }) as string,
  })
  const crl = await ca.revoke([client, server])
  const psk = { 'keys.psk': 'qemu:00112233445566778899aabbccddeeff\n' }
  const folder = (name: string, files: Record<string, string>): string => {
    const path = join(root, name)
    mkdirSync(path)
    for (const [file, text] of Object.entries(files)) writeFileSync(join(path, file), text)
    return path
  }
  const files = (caCert: string, ends: { server?: KeyPair; client?: KeyPair }) => ({
    'ca-cert.pem': caCert,
    ...(ends.server && { 'server-cert.pem': ends.server.cert, 'server-key.pem': ends.server.key }),
    ...(ends.client && { 'client-cert.pem': ends.client.cert, 'client-key.pem': ends.client.key }),
  })
  return {
    good: folder('good', { ...files(ca.cert, { server, client }), ...psk }),
    strangers: folder('strangers', files(other.cert, { server: strangeServer, client: strangeClient })),
    strangeClient: folder('strange-client', files(ca.cert, { client: strangeClient })),
    expiredServer: folder(
      'expired-server',
      files(ca.cert, { server: await ca.issue({ endpoint: 'server', name: HOST, hosts, ...yesterday }) }),
    ),
    expiredClient: folder(
      'expired-client',
      files(ca.cert, { client: await ca.issue({ endpoint: 'client', name: 'late source', ...yesterday }) }),
    ),
    noClient: folder('no-client', files(ca.cert, {})),
    revoking: folder('revoking', { ...files(ca.cert, { server, client }), 'ca-crl.pem': crl }),
    wrongUsage: folder('wrong-usage', files(ca.cert, swapped)),
    encrypted: folder('encrypted', files(ca.cert, { server: encrypt(server), client: encrypt(client) })),
    otherPsk: folder('other-psk', { 'keys.psk': 'qemu:ffeeddccbbaa99887766554433221100\n' }),
    otherUser: folder('other-user', { 'keys.psk': 'alice:ffeeddccbbaa99887766554433221100\n' }),
  }
}
