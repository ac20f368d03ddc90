/**
 * Migration over TLS with stock QEMU 7.2 and 10.0 as destination and as source, and what either end refuses.
 * Spec: protocol.md section 8.
 */
import { createCipheriv, randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { silentLogger } from '@ferryvm/core'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CLIENT_NAME, createTlsFolders, HOST, KEY_PASSWORD, tlsObjects } from './harness/tls-folders.ts'
import { createVm, type TestVm } from './harness/vm.ts'
import { stockQemu10 } from './stock-qemu/stock-10.ts'
import { type StockQemu, scratchFolder, startStockQemu, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const missing = stockQemuMissing()
const root = scratchFolder()
afterAll(() => root.remove())
const dirs = await createTlsFolders(root.path)
const kernel = join(root.path, 'guest.bin')
writeFileSync(
  kernel,
  embeddedGuestImage({
    dirtyBytes: 1 << 20,
    dirtyBytesPerSecond: 1 << 20,
    lcgStepsPerSecond: 100_000,
    rearmTimer: true,
    earlyTimer: true,
  }),
)
const RAM_MIB = 32

const binaries = { '7.2': undefined, '10.0': stockQemu10() } as const
type Release = keyof typeof binaries
/** Without its packages beside the repository, 10.0 is left out. */
const releases: readonly Release[] = binaries['10.0'] ? ['7.2', '10.0'] : ['7.2']

/** Every pairing of a case with a release; without FERRY_TLS_ALL each case runs with one of them, in turns. */
const withReleases = <C extends readonly [string, ...unknown[]]>(cases: readonly C[], first = 0) =>
  cases.flatMap((one, index) =>
    releases
      .filter((_, r) => process.env.FERRY_TLS_ALL || releases.length === 1 || (index + first) % 2 === r)
      .map((release) => [release, ...one] as const),
  )

interface End {
  /** Values of -object; the parameter tls-creds names `tls0`. */
  readonly objects: readonly string[]
  /** More parameters of the migration. */
  readonly parameters?: Readonly<Record<string, string>>
}
const end = (...objects: string[]): End => ({ objects })
const x509 = (endpoint: string, dir: string, more = '') =>
  end(`tls-creds-x509,id=tls0,endpoint=${endpoint},dir=${dir}${more}`)
const psk = (endpoint: string, dir: string, more = '') =>
  end(`tls-creds-psk,id=tls0,endpoint=${endpoint},dir=${dir}${more}`)
const withAuthz = (authz: string, { objects }: End): End => ({
  objects: [...objects, authz],
  parameters: { 'tls-authz': 'az0' },
})
const called = (hostname: string, { objects }: End): End => ({ objects, parameters: { 'tls-hostname': hostname } })

/** AES-256-CBC with a master key, as management software hands secrets over. */
function encryptedPassword(): string[] {
  const [key, iv] = [randomBytes(32), randomBytes(16)]
  const cipher = createCipheriv('aes-256-cbc', key, iv)
  const data = Buffer.concat([cipher.update(KEY_PASSWORD), cipher.final()]).toString('base64')
  const master = join(root.path, `master-${key.toString('hex').slice(0, 8)}.key`)
  writeFileSync(master, key.toString('base64'))
  return [
    `secret,id=master0,file=${master},format=base64`,
    `secret,id=password0,keyid=master0,iv=${iv.toString('base64')},format=base64,data=${data}`,
  ]
}

describe.skipIf(missing)(`TLS with stock QEMU${missing ? ` (skipped: ${missing})` : ''}`, { timeout: 90_000 }, () => {
  let guest: ReturnType<typeof createGuestMonitor>
  let running: { close(): Promise<void> }[]
  beforeEach(() => {
    guest = createGuestMonitor()
    running = []
  })
  afterEach(() => Promise.all(running.map((one) => one.close())))

  async function ours(release: Release, { objects, parameters }: End): Promise<TestVm & { warnings: string[] }> {
    const warnings: string[] = []
    const log = { ...silentLogger, warn: (message: string) => void warnings.push(message) }
    const { channelLayers } = await tlsObjects(...objects)
    const vm = await createVm({
      kernel: readFileSync(kernel),
      ramBytes: RAM_MIB << 20,
      profile: `qemu-${release}`,
      onOutput: (text) => guest.push(text),
      migrationOptions: { channelLayers, log },
    })
    running.push({ close: async () => vm[Symbol.asyncDispose]() })
    vm.migration.setParameters({ 'tls-creds': 'tls0', 'tls-hostname': HOST, ...parameters })
    return { ...vm, warnings }
  }
  async function stock(release: Release, { objects, parameters }: End, ...more: string[]): Promise<StockQemu> {
    const decoder = new TextDecoder()
    const machine = ['-M', 'virt', '-m', `${RAM_MIB}M`, '-bios', 'none', '-kernel', kernel]
    const qemu = await startStockQemu(
      root.path,
      [...machine, ...objects.flatMap((object) => ['-object', object]), ...more],
      (chunk) => guest.push(decoder.decode(chunk, { stream: true })),
      binaries[release],
    )
    running.push({ close: () => qemu.kill() })
    await qemu.qmp('migrate-set-parameters', { 'tls-creds': 'tls0', 'tls-hostname': HOST, ...parameters })
    return qemu
  }
  async function stockListens(qemu: StockQemu): Promise<string> {
    await qemu.qmp('migrate-incoming', { uri: 'tcp:127.0.0.1:0' })
    for (;;) {
      const { 'socket-address': at } = await qemu.qmp('query-migrate')
      if (at) return `tcp:127.0.0.1:${at[0].port}`
      await delay(5)
    }
  }

  async function judged(type: (text: string) => void): Promise<void> {
    const { lines } = guest
    await guest.until((g) => g.lines > lines + 2, 30_000)
    type('v')
    await guest.until((g) => g.verdicts.length > 0, 30_000)
    expect(guest.problems).toEqual([])
    expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
  }

  const kinds: [string, (endpoint: string) => End][] = [
    ['x509, both ends checked', (endpoint) => x509(endpoint, dirs.good)],
    ['psk', (endpoint) => psk(endpoint, dirs.good)],
    ['anon', (endpoint) => end(`tls-creds-anon,id=tls0,endpoint=${endpoint},dir=${dirs.good}`)],
    [
      'x509 with encrypted keys and an authorization list',
      (endpoint) =>
        withAuthz(
          JSON.stringify({
            'qom-type': 'authz-list',
            id: 'az0',
            policy: 'deny',
            rules: [{ match: `${CLIENT_NAME.slice(0, -2)}*`, policy: 'allow', format: 'glob' }],
          }),
          end(...encryptedPassword(), ...x509(endpoint, dirs.encrypted, ',passwordid=password0').objects),
        ),
    ],
  ]
  it.each(withReleases(kinds))('%s: emu to stock, %s', async (release, _, credentials) => {
    const source = await ours(release, credentials('client'))
    const destination = await stock(release, credentials('server'), '-incoming', 'defer')
    source.machine.start()
    await guest.until((g) => g.lines >= 3, 30_000)
    await source.migration.migrate(await stockListens(destination))
    await judged((text) => destination.type(text))
  })
  it.each(withReleases(kinds, 1))('%s: stock to emu, %s', async (release, _, credentials) => {
    const source = await stock(release, credentials('client'))
    const destination = await ours(release, credentials('server'))
    await guest.until((g) => g.lines >= 3, 30_000)
    const { uri, done } = await destination.migration.incoming('tcp:127.0.0.1:0')
    await source.migrate(uri)
    await done
    await judged(destination.type)
  })

  async function stillRuns(): Promise<void> {
    const { lines } = guest
    await guest.until((g) => g.lines > lines + 1, 30_000)
  }
  const good = { client: x509('client', dirs.good), server: x509('server', dirs.good) }
  const unchecked = ',sanity-check=off'
  const stranger = 'authz-simple,id=az0,identity=CN=somebody else'
  /** The stock server hung up after the handshake, or during it when TLS 1.2 or psk is spoken. */
  const hungUp = /closed the connection (after|during) the handshake|refused this end's certificate/

  interface Refusal {
    readonly client?: End
    readonly server?: End
    /** What our end says. */
    readonly ours: RegExp
  }
  // What stock says is not ours to judge; that it says something, and what we say, is. Two refusals are ours alone: a stock peer
  // does not look at the extended key usage of what it is shown (with sanity-check=on it looks at its own), and a stock client
  // does not read ca-crl.pem.
  it.each(
    withReleases<[string, Refusal]>([
      ['wrong CA', { client: x509('client', dirs.strangers), ours: /not issued by the authority in .*strangers/ }],
      ['client of a wrong CA', { client: x509('client', dirs.strangeClient, unchecked), ours: hungUp }],
      [
        'expired server certificate',
        { server: x509('server', dirs.expiredServer, unchecked), ours: /server's certificate .* has expired/ },
      ],
      ['expired client certificate', { client: x509('client', dirs.expiredClient, unchecked), ours: hungUp }],
      [
        'wrong host name',
        { client: called('node9.example', good.client), ours: /is for localhost, 127.0.0.1, not for "node9.example"/ },
      ],
      ['no client certificate', { client: x509('client', dirs.noClient), ours: hungUp }],
      ['client revoked', { server: x509('server', dirs.revoking), ours: hungUp }],
      [
        'server revoked',
        { client: x509('client', dirs.revoking), ours: /server's certificate .* is revoked by .*crl/ },
      ],
      [
        "a client's certificate as the server's",
        { server: x509('server', dirs.wrongUsage, unchecked), ours: /was not issued for a TLS server/ },
      ],
      ['name refused by authz', { server: withAuthz(stranger, good.server), ours: hungUp }],
      ['wrong psk', { client: psk('client', dirs.otherPsk), server: psk('server', dirs.good), ours: /keys.psk/ }],
    ]),
  )('%s: emu to stock refused, %s', async (release, _, { client = good.client, server = good.server, ours: said }) => {
    const source = await ours(release, client)
    const destination = await stock(release, server, '-incoming', 'defer')
    source.machine.start()
    await guest.until((g) => g.lines >= 3, 30_000)
    await expect(source.migration.migrate(await stockListens(destination))).rejects.toThrow(said)
    expect(source.machine.runState).toBe('running')
    await stillRuns()
    await expect.poll(() => destination.stderr, { timeout: 10_000 }).not.toBe('')
  })
  /** What a stock client that refuses us does; whether its alert still comes through is a matter of timing. */
  const wentAway =
    /peer closed the connection during|client closed the connection after|peer refused this end's certificate/
  it.each(
    withReleases<[string, Refusal]>(
      [
        [
          'client of a wrong CA',
          {
            client: x509('client', dirs.strangeClient, unchecked),
            ours: /client('s certificate .* was not issued by the authority| showed no certificate that the authority)/,
          },
        ],
        ['server of a wrong CA', { server: x509('server', dirs.strangers, ',verify-peer=off'), ours: wentAway }],
        [
          'expired client certificate',
          { client: x509('client', dirs.expiredClient, unchecked), ours: /client's certificate .* has expired/ },
        ],
        ['expired server certificate', { server: x509('server', dirs.expiredServer, unchecked), ours: wentAway }],
        ['wrong host name', { client: called('node9.example', good.client), ours: wentAway }],
        ['no client certificate', { client: x509('client', dirs.noClient), ours: /client showed no certificate/ }],
        ['client revoked', { server: x509('server', dirs.revoking), ours: /client's certificate .* is revoked by/ }],
        [
          "a server's certificate as the client's",
          { client: x509('client', dirs.wrongUsage, unchecked), ours: /was not issued for a TLS client/ },
        ],
        [
          'name refused by authz',
          {
            server: withAuthz(stranger, good.server),
            ours: /the client "CN=source" is not allowed by the authorization/,
          },
        ],
        [
          'wrong psk',
          {
            client: psk('client', dirs.otherPsk),
            server: psk('server', dirs.good),
            ours: /different keys for this user/,
          },
        ],
      ],
      1,
    ),
  )('%s: stock to emu refused, %s', async (release, _, { client = good.client, server = good.server, ours: heard }) => {
    const source = await stock(release, client)
    const destination = await ours(release, server)
    await guest.until((g) => g.lines >= 3, 30_000)
    const { uri, done } = await destination.migration.incoming('tcp:127.0.0.1:0')
    let failure: Error | undefined
    done.catch((error: Error) => {
      failure = error
    })
    await expect(source.migrate(uri)).rejects.toThrow(/migration failed: ./)
    expect((await source.qmp('query-status')).status).toBe('running')
    await stillRuns()
    const words = () => [...destination.warnings, failure?.message].filter(Boolean).join('\n')
    await expect.poll(words, { timeout: 10_000 }).toMatch(heard)
  })
})
