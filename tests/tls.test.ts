/**
 * Migration over TLS between two of our machines, and everything that is refused: with a sentence on both ends, and a guest
 * that runs on at the source. Spec: protocol.md section 8.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLogger } from '@ferryvm/core'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { initTlsFolder } from '@ferryvm/transport-tls/pki'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { QmpClient } from '../apps/emu/src/qmp-client.ts'
import { emu } from './harness/emu.ts'
import { CLIENT_NAME, createTlsFolders, HOST, KEY_PASSWORD, tlsObjects } from './harness/tls-folders.ts'
import { createVm, type TestVm } from './harness/vm.ts'

const root = mkdtempSync(join(tmpdir(), 'ferryvm-tls-'))
afterAll(() => rmSync(root, { recursive: true }))
const dirs = await createTlsFolders(root)
const kernel = embeddedGuestImage({ dirtyBytes: 1 << 20, dirtyBytesPerSecond: 1 << 20, lcgStepsPerSecond: 100_000 })

let guest: ReturnType<typeof createGuestMonitor>
let vms: TestVm[]
beforeEach(() => {
  guest = createGuestMonitor()
  vms = []
})
afterEach(() => Promise.all(vms.map((vm) => vm[Symbol.asyncDispose]())))

/** @param objects values of -object; the parameter tls-creds names the one with id=tls0, tls-authz that with id=az0, if it is there */
async function machine(...given: string[]) {
  const objects = given.flatMap((text) => text.split(' '))
  const warnings: string[] = []
  const log = { ...silentLogger, warn: (message: string) => void warnings.push(message) }
  const { channelLayers } = await tlsObjects(...objects)
  const vm = await createVm({
    kernel,
    ramBytes: 16 << 20,
    onOutput: (text) => guest.push(text),
    migrationOptions: { channelLayers, log },
  })
  vms.push(vm)
  if (objects.length > 0) vm.migration.setParameters({ 'tls-creds': 'tls0' })
  if (objects.some((object) => /,id=az0\b/.test(object))) vm.migration.setParameters({ 'tls-authz': 'az0' })
  return { ...vm, warnings }
}
async function runningSource(...objects: string[]) {
  const source = await machine(...objects)
  source.machine.start()
  await guest.until((g) => g.lines >= 2, 30_000)
  return source
}
const x509 = (endpoint: string, dir: string, more = '') =>
  `tls-creds-x509,id=tls0,endpoint=${endpoint},dir=${dir}${more}`
const psk = (endpoint: string, dir: string, more = '') => `tls-creds-psk,id=tls0,endpoint=${endpoint},dir=${dir}${more}`

const password = `secret,id=password,format=base64,data=${Buffer.from(KEY_PASSWORD).toString('base64')}`
const anon = (endpoint: string) => `tls-creds-anon,id=tls0,endpoint=${endpoint}`

describe('the guest moves over TLS', { timeout: 60_000 }, () => {
  it.each<[string, string, string, Record<string, string>]>([
    ['x509, both ends checked', x509('client', dirs.good), x509('server', dirs.good), {}],
    ['x509, host name by parameter', x509('client', dirs.good), x509('server', dirs.good), { 'tls-hostname': HOST }],
    [
      'x509, client without certificate',
      x509('client', dirs.noClient),
      x509('server', dirs.good, ',verify-peer=off'),
      {},
    ],
    [
      'x509, nothing checked',
      x509('client', dirs.strangers, ',verify-peer=off'),
      x509('server', dirs.good, ',verify-peer=off'),
      { 'tls-hostname': 'nowhere.example' },
    ],
    ['x509 with TLS 1.2', x509('client', dirs.good, ',priority=NORMAL:-VERS-TLS1.3'), x509('server', dirs.good), {}],
    ['psk', psk('client', dirs.good), psk('server', dirs.good), {}],
    ['anon', anon('client'), anon('server'), {}],
    [
      'x509, keys with a password, and a client that is allowed by name',
      `${password} ${x509('client', dirs.encrypted, ',passwordid=password')}`,
      `${password} authz-simple,id=az0,identity=${CLIENT_NAME} ${x509('server', dirs.encrypted, ',passwordid=password')}`,
      {},
    ],
  ])('%s', async (_, client, server, parameters) => {
    const source = await runningSource(client)
    const destination = await machine(server)
    source.migration.setParameters(parameters)
    const { uri, done } = await destination.migration.incoming('tcp:127.0.0.1:0')
    await source.migration.migrate(uri)
    await done
    const { lines } = guest
    await guest.until((g) => g.lines > lines + 2, 30_000)
    destination.type('q')
    await guest.until((g) => g.verdicts.length > 0, 30_000)
    expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
    expect(guest.problems).toEqual([])
  })

  it('over a unix socket with tls-hostname, and only TLS is on the wire', async () => {
    const source = await runningSource(x509('client', dirs.good))
    const path = join(root, 'tap.sock')
    const bytes = new Promise<Buffer>((resolve) => {
      const server = createServer((socket) => {
        socket.on('error', () => {})
        socket.once('data', (chunk) => {
          resolve(chunk)
          socket.destroy()
          server.close()
        })
      })
      server.listen(path)
    })
    source.migration.setParameters({ 'tls-hostname': HOST })
    await expect(source.migration.migrate(`unix:${path}`)).rejects.toThrow('closed the connection during the handshake')
    expect((await bytes).subarray(0, 3).toString('hex')).toBe('160301')
    const destination = await machine(x509('server', dirs.good))
    const { uri, done } = await destination.migration.incoming(`unix:${join(root, 'real.sock')}`)
    await source.migration.migrate(uri)
    await done
  })
})

interface Refusal {
  readonly client?: string
  readonly server?: string
  readonly hostname?: string
  readonly source: RegExp
  /** What it warns of, or fails with; absent: it never hears of it. */
  readonly destination?: RegExp
}

describe('refused, in words on both ends, and the guest runs on', { timeout: 60_000 }, () => {
  const closed =
    /closed the connection (after the handshake without a word: most likely it refused this end's certificate|during the handshake)/
  /** Whether the client's last word of the handshake still goes out before it hangs up is a matter of timing. */
  const refused =
    /the peer closed the connection during the handshake: it refused|client closed the connection after the handshake .* refused this end's certificate or its host name/
  const good = { client: x509('client', dirs.good), server: x509('server', dirs.good) }
  it.each<[string, Refusal]>([
    [
      'wrong role',
      { ...good, client: x509('server', dirs.good), source: /for endpoint=server, and this end is the client/ },
    ],
    [
      'wrong CA',
      {
        ...good,
        client: x509('client', dirs.strangers),
        // Each refuses the other, and who is first is a matter of timing.
        source:
          /server's certificate \("localhost"\) was not issued by the authority in .*strangers\/ca-cert.pem|during the handshake: it refused/,
        destination: /closed the connection|certificate \("stranger"\) was not issued by the authority in .*good/,
      },
    ],
    [
      'wrong CA of the server',
      {
        client: x509('client', dirs.good),
        server: x509('server', dirs.strangers, ',verify-peer=off'),
        source: /server's certificate \("localhost"\) was not issued by the authority in .*good\/ca-cert.pem/,
        destination: refused,
      },
    ],
    [
      'wrong CA of the client',
      {
        ...good,
        client: x509('client', dirs.strangeClient, ',sanity-check=off'),
        source: closed,
        destination: /client's certificate \("stranger"\) was not issued by the authority in .*good\/ca-cert.pem/,
      },
    ],
    [
      'expired server certificate',
      {
        ...good,
        server: x509('server', dirs.expiredServer, ',sanity-check=off'),
        source: /server's certificate .* has expired \(on .*GMT\); issue a new one/,
        destination: refused,
      },
    ],
    [
      'expired client certificate',
      {
        ...good,
        client: x509('client', dirs.expiredClient, ',sanity-check=off'),
        source: closed,
        destination: /client's certificate \("late source"\), or its authority's, has expired/,
      },
    ],
    [
      'wrong host name',
      {
        ...good,
        hostname: 'node9.example',
        source: /certificate is for localhost, 127.0.0.1, not for "node9.example"; .* set tls-hostname/,
        destination: refused,
      },
    ],
    [
      'no client certificate',
      {
        ...good,
        client: x509('client', dirs.noClient),
        source: closed,
        destination:
          /client showed no certificate that the authority in .*good\/ca-cert.pem issued; put client-cert.pem/,
      },
    ],
    [
      'client revoked',
      {
        ...good,
        server: x509('server', dirs.revoking),
        source: closed,
        destination: /client's certificate \("source"\) is revoked by .*revoking\/ca-crl.pem/,
      },
    ],
    [
      'server revoked',
      {
        ...good,
        client: x509('client', dirs.revoking),
        source: /server's certificate \("localhost"\) is revoked by .*ca-crl.pem/,
        destination: refused,
      },
    ],
    [
      'server certificate of a client',
      {
        ...good,
        server: x509('server', dirs.wrongUsage, ',sanity-check=off'),
        source: /server's certificate \("localhost"\) was not issued for a TLS server/,
        destination: refused,
      },
    ],
    [
      'client certificate of a server',
      {
        ...good,
        client: x509('client', dirs.wrongUsage, ',sanity-check=off'),
        source: closed,
        destination: /client's certificate \("swapped"\) was not issued for a TLS client/,
      },
    ],
    [
      'name not allowed',
      {
        ...good,
        server: `authz-simple,id=az0,identity=CN=other ${good.server}`,
        source: closed,
        destination: /the client "CN=source" is not allowed by the authorization object of tls-authz/,
      },
    ],
    [
      'psk against anon',
      {
        client: psk('client', dirs.good),
        server: anon('server'),
        source: /no cipher or version in common|closed/,
        destination: /no cipher/,
      },
    ],
    [
      'wrong psk',
      {
        client: psk('client', dirs.otherPsk),
        server: psk('server', dirs.good),
        source: /keys.psk/,
        destination: /different keys for this user; make .*keys.psk the same/,
      },
    ],
    [
      'unknown psk user',
      {
        client: psk('client', dirs.otherUser, ',username=alice'),
        server: psk('server', dirs.good),
        source: /keys.psk/,
        destination: /no key of the user "alice"/,
      },
    ],
    [
      'x509 against psk',
      {
        ...good,
        server: psk('server', dirs.good),
        source: /no cipher or version in common|closed/,
        destination: /no cipher/,
      },
    ],
    ['plaintext source', { server: good.server, source: /./, destination: /peer does not speak TLS; set tls-creds/ }],
    [
      'plaintext destination',
      { client: good.client, source: /closed the connection during the handshake/, destination: /./ },
    ],
  ])('%s', async (_, { client, server, hostname, source: said, destination: heard }) => {
    const source = await runningSource(...(client ? [client] : []))
    const destination = await machine(...(server ? [server] : []))
    if (hostname) source.migration.setParameters({ 'tls-hostname': hostname })
    const { uri, done } = await destination.migration.incoming('tcp:127.0.0.1:0')
    let failure: Error | undefined
    done.catch((error: Error) => {
      failure = error
    })
    await expect(source.migration.migrate(uri)).rejects.toThrow(said)
    expect(source.migration.info()).toMatchObject({ status: 'failed' })
    expect(source.machine.runState).toBe('running')
    const { lines } = guest
    await guest.until((g) => g.lines > lines, 30_000)
    const words = () => [...destination.warnings, failure?.message].filter(Boolean).join('\n')
    if (heard) await expect.poll(words, { timeout: 10_000 }).toMatch(heard)
    else expect(words()).toBe('')
  })

  it('one that is refused does not keep out the next, and the source may try again', async () => {
    const source = await runningSource(x509('client', dirs.noClient))
    const destination = await machine(x509('server', dirs.good))
    const { uri, done } = await destination.migration.incoming('tcp:127.0.0.1:0')
    await expect(source.migration.migrate(uri)).rejects.toThrow()
    source.migration.setParameters({ 'tls-creds': '' })
    await expect(source.migration.migrate(uri)).rejects.toThrow()
    expect(destination.migration.status).toBe('setup')
    await expect.poll(() => destination.warnings.length).toBe(2)
    await destination.migration[Symbol.asyncDispose]()
    await expect(done).rejects.toThrow()
  })

  const [elsewhere] = Object.values(networkInterfaces()).flatMap((list) =>
    (list ?? []).filter(({ family, internal }) => family === 'IPv4' && !internal),
  )
  it.skipIf(!elsewhere)('what is not encrypted and does not come from this host alone, unless told', async () => {
    const source = await runningSource()
    const destination = await machine()
    const { uri, done } = await destination.migration.incoming('tcp:0.0.0.0:0')
    const address = uri.replace('0.0.0.0', elsewhere!.address)
    await expect(source.migration.migrate(address)).rejects.toThrow()
    await expect
      .poll(() => destination.warnings.join())
      .toMatch(/was refused, because it is not encrypted; set tls-creds/)
    expect(source.machine.runState).toBe('running')
    await source.migration.migrate(uri.replace('0.0.0.0', '127.0.0.1'))
    await done
  })

  it('an authorization object where nobody shows a certificate', async () => {
    for (const server of [psk('server', dirs.good), x509('server', dirs.good, ',verify-peer=off'), anon('server')]) {
      const destination = await machine(`authz-simple,id=az0,identity=x ${server}`)
      await expect(destination.migration.incoming('tcp:127.0.0.1:0')).rejects.toThrow('these credentials ask for none')
    }
    const destination = await machine('authz-simple,id=az0,identity=x')
    destination.migration.setParameters({ 'tls-creds': '' })
    await expect(destination.migration.incoming('tcp:127.0.0.1:0')).rejects.toThrow('nobody would be checked')
    destination.migration.setParameters({ 'tls-creds': 'tls0', 'tls-authz': 'az9' })
    await expect(destination.migration.incoming('tcp:127.0.0.1:0')).rejects.toThrow('tls-creds: there is no object')
  })

  it('no host to compare with, an id that does not exist, an incoming end with client credentials', async () => {
    const source = await runningSource(x509('client', dirs.good))
    const destination = await machine(x509('client', dirs.good))
    await expect(destination.migration.incoming('tcp:127.0.0.1:0')).rejects.toThrow(
      'for endpoint=client, and this end is the server',
    )
    destination.migration.setParameters({ 'tls-creds': 'tls9' })
    await expect(destination.migration.incoming('tcp:127.0.0.1:0')).rejects.toThrow(
      'there is no object with id "tls9" (there are: tls0)',
    )
    const server = createServer((socket) => socket.on('error', () => {}).resume()).listen(join(root, 'mute.sock'))
    await expect(source.migration.migrate(`unix:${join(root, 'mute.sock')}`)).rejects.toThrow(
      /no host name .* set tls-hostname/,
    )
    expect(source.machine.runState).toBe('running')
    server.close()
  })

  it.each([
    ['rng-random,id=a', /unknown type \(there are: tls-creds-x509, tls-creds-psk, tls-creds-anon, authz-simple/],
    ['9lives,id=a', /unknown type/],
    ['secret,id=9a,data=x', /an id begins with a letter/],
    ['secret,id=a,data=x,data=y', /"data" is given twice/],
    ['secret,id=a', /data or file is needed/],
    ['secret,id=a,data=x,file=y', /data and file exclude each other/],
    ['secret,id=a,data=!,format=base64', /data is not base64/],
    ['secret,id=a,data=x,format=hex', /format is raw or base64, not "hex"/],
    ['secret,id=a,data=AAAA,format=base64,keyid=k', /there is no object with id "k"/],
    ['secret,id=a,file=/dev/zero', /\/dev\/zero cannot be read: it is no regular file/],
    ['secret,id=a,file=/', /cannot be read: it is a directory/],
    ['authz-simple,id=a', /identity is missing/],
    ['authz-list,id=a,policy=maybe', /policy is deny or allow, not "maybe"/],
    ['authz-list,id=a,rules.0.match=x', /rules\[0\].policy is "allow" or "deny", not undefined/],
    ['authz-list,id=a,rules.1.match=x', /numbered 0, 1, 2 …, not 1/],
    ['{"qom-type":"authz-list","id":"a","rules":[{"match":1,"policy":"deny"}]}', /rules\[0\].match is a string/],
    ['{"qom-type":"authz-list"', /no JSON/],
    ['authz-list-file,id=a,filename=/nonexistent', /\/nonexistent cannot be read: no such file or directory/],
    [`authz-list-file,id=a,filename=${join(dirs.good, 'ca-cert.pem')}`, /ca-cert.pem is no JSON/],
    [`tls-creds-x509,id=a,dir=${dirs.encrypted}`, /client-key.pem is encrypted; give its password in a secret object/],
    [`tls-creds-x509,id=a,dir=${dirs.good},passwordid=s`, /there is no object with id "s"/],
    [`tls-creds-x509,id=a,dir=${dirs.wrongUsage}`, /client-cert.pem was issued for a TLS server, not for a client/],
    [`tls-creds-anon,id=a,priority=NORMAL:-VERS-TLS1.2`, /leaves no cipher that tls-creds-anon can use/],
    ['tls-creds-x509,dir=x', /id= is missing/],
    ['tls-creds-x509,id=a', /dir is missing/],
    ['tls-creds-x509,id=a,dir=/nonexistent', /\/nonexistent\/ca-cert.pem cannot be read: no such file or directory/],
    [`tls-creds-x509,id=a,dir=${dirs.good},endpoint=peer`, /endpoint is client or server, not "peer"/],
    [`tls-creds-x509,id=a,dir=${dirs.good},priority=SUITEB128`, /priority "SUITEB128": "SUITEB128" cannot be mapped/],
    [`tls-creds-x509,id=a,dir=${dirs.expiredClient}`, /client-cert.pem: the certificate expired on/],
    [`tls-creds-x509,id=a,dir=${dirs.strangeClient}`, /client-cert.pem was not issued by the authority/],
    [`tls-creds-x509,id=a,dir=${dirs.good},colour=red`, /colour is not supported/],
    [`tls-creds-psk,id=a,dir=${dirs.otherUser}`, /has no key of the user "qemu"/],
    [`tls-creds-psk,id=a,dir=${dirs.good},endpoint=server,username=x`, /username is for endpoint=client/],
  ])('-object %s', async (object, message) => {
    await expect(tlsObjects(object)).rejects.toThrow(message)
  })
})

describe('emu tls init', { timeout: 60_000 }, () => {
  it('makes files that the objects accept, once', async () => {
    const dir = join(root, 'made')
    const first = emu(['tls', 'init', dir, '--host', 'node2.example', '--host', '192.0.2.7'])
    expect(await first.exited, first.out.stderr).toMatchObject({ code: 0 })
    expect(first.out.stdout).toContain('tls-creds-x509,id=tls0')
    await tlsObjects(x509('client', dir))
    await tlsObjects(x509('server', dir))
    const before = readFileSync(join(dir, 'ca-cert.pem'), 'utf8')
    const second = emu(['tls', 'init', dir, '--host', 'node2.example'])
    expect(await second.exited).toMatchObject({ code: 1 })
    expect(second.out.stderr).toMatch(/ca-cert.pem was not written: it exists already/)
    expect(readFileSync(join(dir, 'ca-cert.pem'), 'utf8')).toBe(before)
  })

  it('two processes, told by QMP, use what it made', async () => {
    const dir = join(root, 'two')
    await initTlsFolder(dir, { hosts: ['127.0.0.1'] })
    const start = async (endpoint: string, ...more: string[]) => {
      const qmp = join(root, `${endpoint}.qmp`)
      const args = ['-m', '32M', '-serial', 'stdio', '-qmp', `unix:${qmp},server=on`]
      const child = emu(['run', ...args, ...more])
      const client = await QmpClient.connect(qmp)
      await client.execute('object-add', { 'qom-type': 'tls-creds-x509', id: 'tls0', endpoint, dir })
      await client.execute('migrate-set-parameters', { 'tls-creds': 'tls0' })
      return { child, client }
    }
    const source = await start('client')
    const destination = await start('server', '-incoming', 'defer')
    try {
      await source.child.until('\n')
      await destination.client.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' })
      const info = await destination.client.execute('query-migrate')
      await source.client.execute('migrate', { uri: `tcp:127.0.0.1:${info['socket-address'][0].port}` })
      await destination.child.until(/T \d+ .*\s+T \d+ /)
      await expect.poll(() => source.client.execute('query-migrate')).toMatchObject({ status: 'completed' })
      expect(await source.client.execute('query-migrate-parameters')).toMatchObject({
        'tls-creds': 'tls0',
        'tls-hostname': '',
        'tls-authz': '',
      })
      expect(await source.client.execute('qom-list', { path: '/objects' })).toContainEqual({
        name: 'tls0',
        type: 'child<tls-creds-x509>',
      })
      expect(await source.client.execute('qom-get', { path: '/objects/tls0', property: 'endpoint' })).toBe('client')
      await expect(source.client.execute('qom-list', { path: '/nowhere' })).rejects.toThrow(
        "Device '/nowhere' not found",
      )
      await source.client.execute('object-del', { id: 'tls0' })
      await expect(source.client.execute('object-del', { id: 'tls0' })).rejects.toThrow(
        'there is no object with id "tls0"',
      )
      const hmp = (line: string) => source.client.execute('human-monitor-command', { 'command-line': line })
      expect(await hmp('object_add secret,id=s0,data=x,,y')).toBe('')
      expect(await hmp('qom-list /objects')).toBe('type (string)\r\ns0 (child<secret>)\r\n')
      expect(await hmp('qom-get /objects/s0 format')).toBe('"raw"\r\n')
      expect(await hmp('qom-get /objects/s0 data')).toMatch(/is a secret, which is not shown/)
      expect(await hmp('object_del s0')).toBe('')
      expect(await hmp('object_del s0')).toMatch(/^Error: there is no object/)
    } finally {
      for (const { child, client } of [source, destination]) {
        client.close()
        child.child.kill('SIGKILL')
        await child.exited
      }
    }
  })
})
