/** `emu tls doctor`: one sentence about what is wrong, one command against it, and a live peer that goes on waiting. */
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLogger } from '@ferryvm/core'
import { fromDuplex } from '@ferryvm/core/node'
import { tcp } from '@ferryvm/transport-socket'
import { listed } from '@ferryvm/transport-tls'
import { type DiagnoseOptions, diagnoseTls } from '@ferryvm/transport-tls/doctor'
import { addPskUser, createAuthority, initTlsFolder } from '@ferryvm/transport-tls/pki'
import { afterAll, describe, expect, it } from 'vitest'
import { emu } from './harness/emu.ts'
import { createTlsFolders, HOST, KEY_PASSWORD, tlsObjects } from './harness/tls-folders.ts'
import { createVm } from './harness/vm.ts'
import { stockQemu10 } from './stock-qemu/stock-10.ts'
import { startStockQemu, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const root = mkdtempSync(join(tmpdir(), 'ferry-doctor-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const dirs = await createTlsFolders(root)
/** A copy of the good folder in which something was changed. */
function changed(name: string, change: (dir: string) => void): string {
  const dir = join(root, name)
  cpSync(dirs.good, dir, { recursive: true })
  change(dir)
  return dir
}
const x509 = (clientDir: string, serverDir: string, more: Partial<DiagnoseOptions> = {}): DiagnoseOptions => ({
  kind: 'x509',
  clientDir,
  serverDir,
  ...more,
})
const psk = (clientDir: string, serverDir: string, more: Partial<DiagnoseOptions> = {}) => ({
  ...x509(clientDir, serverDir, more),
  kind: 'psk' as const,
})

describe('files of both ends', () => {
  it.each<[string, DiagnoseOptions]>([
    ['x509', x509(dirs.good, dirs.good, { host: HOST })],
    ['x509 without a name', x509(dirs.good, dirs.good)],
    ['encrypted keys', x509(dirs.encrypted, dirs.encrypted, { passphrase: KEY_PASSWORD })],
    ['psk', psk(dirs.good, dirs.good)],
    ['anon', { kind: 'anon', clientDir: '', serverDir: '' }],
  ])('that are good: %s', async (_, options) => {
    const { problem, fine } = await diagnoseTls(options)
    expect(problem).toBeUndefined()
    expect(fine).toHaveLength(3)
  })

  it.each<[string, DiagnoseOptions, RegExp, RegExp]>([
    [
      'no such folder',
      x509('/nowhere', dirs.good),
      /\/nowhere\/ca-cert.pem cannot be read/,
      /^emu tls init \/nowhere --host HOST$/,
    ],
    [
      'wrong CA',
      x509(dirs.strangers, dirs.good),
      /not issued by the authority in/,
      /^emu tls init .*good --renew --host HOST && cp .*good\/ca-cert.pem/,
    ],
    [
      'expired server',
      x509(dirs.good, dirs.expiredServer),
      /server-cert.pem: the certificate expired/,
      /^emu tls init .*expired-server --renew/,
    ],
    [
      'expired client',
      x509(dirs.expiredClient, dirs.good),
      /client-cert.pem: the certificate expired/,
      /^emu tls init .*expired-client --renew/,
    ],
    [
      'wrong host name',
      x509(dirs.good, dirs.good, { host: 'node9.example' }),
      /not for "node9.example"/,
      /--renew --host node9.example$/,
    ],
    [
      'no client certificate',
      x509(dirs.noClient, dirs.good),
      /showed no certificate/,
      /cp .*good\/client-\*.pem .*no-client\//,
    ],
    ['revoked', x509(dirs.good, dirs.revoking), /client's certificate .* is revoked/, /^emu tls init .*good --renew/],
    ['wrong usage', x509(dirs.wrongUsage, dirs.good), /issued for a TLS server/, /^emu tls init .*wrong-usage --renew/],
    ['encrypted key', x509(dirs.encrypted, dirs.good), /is encrypted/, /^-object secret/],
    [
      'refused by authz',
      x509(dirs.good, dirs.good, { authorization: listed({}) }),
      /"CN=source" is not allowed/,
      /^object_add authz-simple,id=authz0,identity=CN=source$/,
    ],
    ['wrong psk', psk(dirs.otherPsk, dirs.good), /different keys/, /^cp .*good\/keys.psk .*other-psk\/keys.psk$/],
    [
      'no psk user',
      psk(dirs.otherUser, dirs.good),
      /no key of the user "qemu"/,
      /^emu tls init .*other-user --psk qemu$/,
    ],
    ['no psk', psk(dirs.noClient, dirs.good), /keys.psk cannot be read/, /^emu tls init .*no-client --psk$/],
  ])('that are not: %s', async (_, options, problem, mend) => {
    const diagnosis = await diagnoseTls(options)
    expect(diagnosis.problem).toMatch(problem)
    expect(diagnosis.mend).toMatch(mend)
  })

  it('bad input: a folder as a file, an unreadable one, one too large, damage, a CRL that is out of date', async () => {
    const ask = async (name: string, change: (dir: string) => void) =>
      diagnoseTls(x509(changed(name, change), dirs.good))
    const file = (dir: string) => join(dir, 'client-cert.pem')
    const replace = (text: string) => (dir: string) => writeFileSync(file(dir), text)
    expect(
      await ask('folder', (dir) => {
        rmSync(file(dir))
        mkdirSync(file(dir))
      }),
    ).toMatchObject({ problem: expect.stringMatching(/client-cert.pem cannot be read: it is a directory/) })
    expect((await ask('large', replace(' '.repeat(2 ** 20 + 1)))).problem).toMatch(/at most 1048576 are read/)
    expect(
      (await ask('damaged', replace('-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'))).problem,
    ).toMatch(/a certificate in it is damaged/)
    if (process.getuid?.() !== 0) {
      expect(await ask('unreadable', (dir) => chmodSync(file(dir), 0))).toMatchObject({
        problem: expect.stringMatching(/permission denied/),
        mend: expect.stringMatching(/^chmod u\+r .*client-cert.pem$/),
      })
    }
    const other = await (await createAuthority()).revoke([])
    expect((await ask('crl', (dir) => writeFileSync(join(dir, 'ca-crl.pem'), other))).problem).toMatch(/ca-crl.pem/)
  })

  it('the commands that it names mend it', { timeout: 60_000 }, async () => {
    const dir = join(root, 'mended')
    await initTlsFolder(dir, { hosts: ['node1.example'] })
    const run = async (...args: string[]) => {
      const child = emu(['tls', ...args])
      const { code } = await child.exited
      return { code, out: child.out.stdout + child.out.stderr }
    }
    const wrong = await run('doctor', dir, '--host', 'node2.example')
    expect(wrong).toMatchObject({ code: 1, out: expect.stringMatching(/^wrong: .*not for "node2.example"/m) })
    const mend = /^mend: emu tls (.*)$/m.exec(wrong.out)![1]!
    expect(await run(...mend.split(' '))).toMatchObject({ code: 0 })
    expect((await diagnoseTls(x509(dir, dir, { host: 'node2.example' }))).problem).toBeUndefined()
    const noKey = (await diagnoseTls(psk(dir, dir))).mend!
    expect(await run(...noKey.split(' ').slice(2))).toMatchObject({ code: 0 })
    expect((await diagnoseTls(psk(dir, dir))).problem).toBeUndefined()
    await expect(addPskUser(dir)).rejects.toThrow(/has a key of the user "qemu" already/)
    await expect(initTlsFolder(dirs.good, { hosts: ['x'], renew: true })).rejects.toThrow(/has no ca-key.pem/)
  })
})

describe('a live destination', { timeout: 60_000 }, () => {
  const ask = (uri: string, options: Partial<DiagnoseOptions>, finish = false) =>
    diagnoseTls({ kind: 'x509', clientDir: dirs.good, host: HOST, live: { ...liveAt(uri), finish }, ...options })
  const liveAt = (uri: string) => ({
    name: uri,
    connect: () =>
      tcp().connect(tcp().parseAddress(uri.slice(4)), { signal: AbortSignal.timeout(10_000), log: silentLogger }),
  })

  async function checks(uri: string): Promise<void> {
    const fine = await ask(uri, {})
    expect(fine.problem).toBeUndefined()
    expect(fine.fine).toContainEqual(expect.stringMatching(/^what tcp:.* shows/))
    const refused = await ask(uri, { clientDir: dirs.strangers })
    expect(refused.problem).toMatch(/^what .* shows was not issued by the authority/)
    expect((await ask(uri, { host: 'node9.example' })).problem).toMatch(/not for "node9.example"/)
    expect((await ask(uri, { kind: 'psk' })).problem).toMatch(
      /no cipher or version in common|credentials of another kind/,
    )
  }

  it('emu: is asked, and goes on waiting for its guest', async () => {
    const { channelLayers } = await tlsObjects(`tls-creds-x509,id=tls0,endpoint=server,dir=${dirs.good}`)
    const vm = await createVm({ ramBytes: 16 << 20, onOutput: () => {}, migrationOptions: { channelLayers } })
    vm.migration.setParameters({ 'tls-creds': 'tls0' })
    const { uri, done } = await vm.migration.incoming('tcp:127.0.0.1:0')
    await checks(uri)
    expect(vm.migration.status).toBe('setup')
    const doctor = emu(['tls', 'doctor', '--client', dirs.good, '--host', HOST, '--connect', uri])
    expect(await doctor.exited).toMatchObject({ code: 0 })
    expect(doctor.out.stdout).toMatch(/^fine: what tcp:.* shows/m)
    expect(vm.migration.status).toBe('setup')
    expect((await ask(uri, {}, true)).fine).toContainEqual(expect.stringMatching(/^a whole handshake with tcp:/))
    await expect(done).rejects.toThrow()
    await vm[Symbol.asyncDispose]()
  })

  const missing = stockQemuMissing()
  it.skipIf(missing).each(['7.2', '10.0'] as const)('stock QEMU %s: is asked, and goes on waiting', async (release) => {
    const binary = release === '10.0' ? stockQemu10() : undefined
    if (release === '10.0' && !binary) return
    const object = `tls-creds-x509,id=tls0,endpoint=server,dir=${dirs.good}`
    const machine = ['-M', 'virt', '-m', '32M', '-bios', 'none', '-incoming', 'defer', '-object', object]
    const qemu = await startStockQemu(root, machine, () => {}, binary)
    try {
      await qemu.qmp('migrate-set-parameters', { 'tls-creds': 'tls0' })
      await qemu.qmp('migrate-incoming', { uri: 'tcp:127.0.0.1:0' })
      await expect.poll(async () => (await qemu.qmp('query-migrate'))['socket-address']).toBeDefined()
      const { port } = (await qemu.qmp('query-migrate'))['socket-address'][0]
      await checks(`tcp:127.0.0.1:${port}`)
      expect((await qemu.qmp('query-status')).status).toBe('inmigrate')
    } finally {
      await qemu.kill()
    }
  })

  it('somebody who is silent, hangs up, or speaks something else', async () => {
    const server = createServer((socket) => {
      socket.on('error', () => {})
      if (manners === 'hangs up') socket.destroy()
      if (manners === 'speaks') socket.end('220 mail.example ESMTP\r\n')
    })
    let manners = 'silent'
    await new Promise<void>((resolve) => server.listen(join(root, 'live.sock'), resolve))
    const live = { name: 'it', timeoutMs: 300, connect: async () => fromDuplex(connect(join(root, 'live.sock'))) }
    const said = async (how: string) => {
      manners = how
      return (await diagnoseTls({ kind: 'x509', clientDir: dirs.good, host: HOST, live })).problem
    }
    expect(await said('hangs up')).toMatch(/the peer closed the connection during the handshake/)
    expect(await said('speaks')).toMatch(/the peer does not speak TLS/)
    expect(await said('silent')).toMatch(/said nothing for 300 ms/)
    server.close()
  })
})
