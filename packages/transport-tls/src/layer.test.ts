import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createChannelPair, silentLogger, withLayer } from '@ferryvm/core'
import { afterAll, describe, expect, it } from 'vitest'
import { loopTransport } from '../../compliance/src/layer/loop-transport.ts'
import { loadTlsCredentials, tls } from './index.ts'
import { initTlsFolder } from './pki/index.ts'

const dir = mkdtempSync(join(tmpdir(), 'ferry-tls-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
await initTlsFolder(dir, { hosts: ['here.example'] })
const client = await loadTlsCredentials({ kind: 'x509', dir, endpoint: 'client' })
const server = await loadTlsCredentials({ kind: 'x509', dir, endpoint: 'server' })

describe('a handshake that never ends', () => {
  it.each(['client', 'server'] as const)('is given up after a while: %s', async (role) => {
    const [channel, peer] = createChannelPair()
    const layer = tls({ credentials: [client, server], hostname: 'here.example', handshakeTimeoutMs: 50 })
    const context = { signal: new AbortController().signal, log: silentLogger }
    await expect(layer.wrap(channel, role, context)).rejects.toThrow('did not finish the handshake within 50 ms')
    await expect(peer.write([new Uint8Array(1)])).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
  })

  it.each(['client', 'server'] as const)('ends when the migration is cancelled: %s', async (role) => {
    const [channel] = createChannelPair()
    const controller = new AbortController()
    const layer = tls({ credentials: [client, server], hostname: 'here.example' })
    const wrapping = layer.wrap(channel, role, { signal: controller.signal, log: silentLogger })
    controller.abort(new Error('no more of this'))
    await expect(wrapping).rejects.toThrow('no more of this')
  })
})

describe('handshakes side by side', () => {
  it('clients that say nothing keep nobody else out, and end with the listener', async () => {
    const transport = loopTransport()
    const context = { signal: new AbortController().signal, log: silentLogger }
    const secure = withLayer(transport, tls({ credentials: [client, server], hostname: 'here.example' }))
    const listener = await secure.listen('a', context)
    const mute = await Promise.all(Array.from({ length: 15 }, () => transport.connect('a', context)))
    const accepting = listener[Symbol.asyncIterator]().next()
    const source = await secure.connect('a', context)
    const { value: channel } = await accepting
    await source.write([Uint8Array.of(42)])
    const into = new Uint8Array(1)
    expect(await channel.read(into)).toBe(1)
    expect(into[0]).toBe(42)
    await listener[Symbol.asyncDispose]()
    for (const one of mute) await expect(Promise.resolve(one.read(into)).catch(() => 0)).resolves.toBe(0)
    await Promise.all([source.close(), channel.close()])
  })
})

describe('files', () => {
  const load = (files: Record<string, string>, endpoint: 'client' | 'server' = 'client') => {
    const folder = mkdtempSync(join(dir, 'case-'))
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
    return loadTlsCredentials({ kind: 'x509', dir: folder, endpoint })
  }
  const ca = client.context.ca as string
  const cert = client.context.cert as string

  it.each<[string, Record<string, string>, RegExp]>([
    ['no PEM', { 'ca-cert.pem': 'hello' }, /ca-cert.pem has no certificate in PEM form/],
    [
      'too large',
      { 'ca-cert.pem': ' '.repeat(2 ** 20 + 1) },
      /ca-cert.pem has 1048577 bytes, at most 1048576 are read/,
    ],
    ['too many', { 'ca-cert.pem': ca.repeat(17) }, /17 certificates, at most 16/],
    [
      'no key',
      { 'ca-cert.pem': ca, 'client-cert.pem': cert },
      /client-key.pem cannot be read: no such file or directory/,
    ],
    [
      'key of another certificate',
      { 'ca-cert.pem': ca, 'client-cert.pem': cert, 'client-key.pem': server.context.key as string },
      /client-key.pem is not the key of the certificate in .*client-cert.pem/,
    ],
    ['damaged list', { 'ca-cert.pem': ca, 'ca-crl.pem': 'hello' }, /do not work together: .*CRL/],
    [
      'an end as authority',
      { 'ca-cert.pem': cert, 'client-cert.pem': cert, 'client-key.pem': client.context.key as string },
      /not that of an authority/,
    ],
  ])('%s', async (_, files, message) => {
    await expect(load(files)).rejects.toThrow(message)
    await expect(load(files)).rejects.toMatchObject({ code: 'FERRY_TLS_CREDENTIALS' })
  })

  it('a folder in the place of a file', async () => {
    const folder = mkdtempSync(join(dir, 'case-'))
    mkdirSync(join(folder, 'ca-cert.pem'))
    await expect(loadTlsCredentials({ kind: 'x509', dir: folder })).rejects.toThrow(
      'ca-cert.pem cannot be read: it is a directory',
    )
  })

  it.each([
    ['NORMAL:-VERS-ALL:+VERS-TLS1.3', 'TLSv1.3', 'TLSv1.3'],
    ['NORMAL:-VERS-TLS1.3', 'TLSv1.2', 'TLSv1.2'],
    ['NORMAL', 'TLSv1.2', 'TLSv1.3'],
  ])('priority %s', async (priority, minVersion, maxVersion) => {
    expect((await loadTlsCredentials({ kind: 'x509', dir, priority })).context).toMatchObject({
      minVersion,
      maxVersion,
    })
  })

  it('a server stays with TLS 1.2 unless that is off', async () => {
    const version = async (priority: string) =>
      (await loadTlsCredentials({ kind: 'x509', dir, endpoint: 'server', priority })).context.maxVersion
    expect(await version('NORMAL')).toBe('TLSv1.2')
    expect(await version('NORMAL:-VERS-TLS1.2')).toBe('TLSv1.3')
    await expect(version('NORMAL:-VERS-ALL')).rejects.toThrow('leaves no version of TLS')
    await expect(version('NORMAL:+ANON-DH')).rejects.toThrow('"+ANON-DH" cannot be mapped')
  })

  it.each([
    ['NORMAL', undefined],
    ['SECURE256', /^TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:(?!.*128)/],
    ['NORMAL:-AES-128-GCM:-AES-128-CBC:-RSA', /^(?!.*128)(?!.*:AES256-GCM)/],
    ['PFS', /^(?!.*:AES256-GCM)/],
    ['NORMAL:-CIPHER-ALL:+CHACHA20-POLY1305', /^TLS_CHACHA20_POLY1305_SHA256(:[A-Z-]+-CHACHA20-POLY1305)+$/],
  ])('ciphers of priority %s', async (priority, ciphers) => {
    const { context } = await loadTlsCredentials({ kind: 'x509', dir, priority })
    if (ciphers) expect(context.ciphers).toMatch(ciphers)
    else expect(context.ciphers).toBeUndefined()
  })

  it('a version without a cipher is not offered', async () => {
    const { context } = await loadTlsCredentials({ kind: 'x509', dir, priority: 'NORMAL:-KX-ALL' })
    expect(context).toMatchObject({ minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3' })
    await expect(loadTlsCredentials({ kind: 'anon', priority: 'NORMAL:-CIPHER-ALL' })).rejects.toThrow('no cipher')
    // QEMU adds these behind whatever the user says.
    await expect(loadTlsCredentials({ kind: 'anon', priority: 'NORMAL:-ANON-DH' })).rejects.toThrow('cannot be mapped')
  })
})
