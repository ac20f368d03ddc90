/**
 * Migration over TLS with stock QEMU 7.2 as destination and as source, and what either end refuses.
 * Spec: protocol.md section 8.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { silentLogger } from '@ferryvm/core'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { parseKeyvals } from '../apps/emu/src/keyval.ts'
import { tlsLayers } from '../apps/emu/src/tls-objects.ts'
import { createTlsFolders, HOST } from './harness/tls-folders.ts'
import { createVm, type TestVm } from './harness/vm.ts'
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

describe.skipIf(missing)(`TLS with stock QEMU${missing ? ` (skipped: ${missing})` : ''}`, { timeout: 90_000 }, () => {
  let guest: ReturnType<typeof createGuestMonitor>
  let running: { close(): Promise<void> }[]
  beforeEach(() => {
    guest = createGuestMonitor()
    running = []
  })
  afterEach(() => Promise.all(running.map((one) => one.close())))

  async function ours(object: string): Promise<TestVm & { warnings: string[] }> {
    const warnings: string[] = []
    const log = { ...silentLogger, warn: (message: string) => void warnings.push(message) }
    const channelLayers = await tlsLayers([parseKeyvals(object, 'type')])
    const vm = await createVm({
      kernel: readFileSync(kernel),
      ramBytes: RAM_MIB << 20,
      onOutput: (text) => guest.push(text),
      migrationOptions: { channelLayers, log },
    })
    running.push({ close: async () => vm[Symbol.asyncDispose]() })
    vm.migration.setParameters({ 'tls-creds': 'tls0', 'tls-hostname': HOST })
    return { ...vm, warnings }
  }
  async function stock(object: string, ...more: string[]): Promise<StockQemu> {
    const decoder = new TextDecoder()
    const qemu = await startStockQemu(
      root.path,
      ['-M', 'virt', '-m', `${RAM_MIB}M`, '-bios', 'none', '-kernel', kernel, '-object', object, ...more],
      (chunk) => guest.push(decoder.decode(chunk, { stream: true })),
    )
    running.push({ close: () => qemu.kill() })
    await qemu.qmp('migrate-set-parameters', { 'tls-creds': 'tls0', 'tls-hostname': HOST })
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
  const x509 = (endpoint: string, dir: string, more = '') =>
    `tls-creds-x509,id=tls0,endpoint=${endpoint},dir=${dir}${more}`
  const psk = (endpoint: string, dir: string, more = '') =>
    `tls-creds-psk,id=tls0,endpoint=${endpoint},dir=${dir}${more}`

  async function judged(type: (text: string) => void): Promise<void> {
    const { lines } = guest
    await guest.until((g) => g.lines > lines + 2, 30_000)
    type('v')
    await guest.until((g) => g.verdicts.length > 0, 30_000)
    expect(guest.problems).toEqual([])
    expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
  }

  const kinds: [string, (endpoint: string) => string][] = [
    ['x509, both ends checked', (endpoint) => x509(endpoint, dirs.good)],
    ['psk', (endpoint) => psk(endpoint, dirs.good)],
  ]
  it.each(kinds)('emu to stock: %s', async (_, object) => {
    const source = await ours(object('client'))
    const destination = await stock(object('server'), '-incoming', 'defer')
    source.machine.start()
    await guest.until((g) => g.lines >= 3, 30_000)
    await source.migration.migrate(await stockListens(destination))
    await judged((text) => destination.type(text))
  })
  it.each(kinds)('stock to emu: %s', async (_, object) => {
    const source = await stock(object('client'))
    const destination = await ours(object('server'))
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
  /** What stock says is not ours to judge; that it says something, and what we say, is. */
  it.each<[string, string, string, RegExp]>([
    [
      'wrong CA',
      x509('client', dirs.strangers),
      x509('server', dirs.good),
      /not issued by the authority in .*strangers/,
    ],
    [
      'expired server certificate',
      x509('client', dirs.good),
      x509('server', dirs.expiredServer, ',sanity-check=off'),
      /server's certificate .* has expired/,
    ],
    [
      'no client certificate',
      x509('client', dirs.noClient),
      x509('server', dirs.good),
      /closed the connection (after|during) the handshake/,
    ],
    [
      'client revoked',
      x509('client', dirs.good),
      x509('server', dirs.revoking),
      /closed the connection (after|during) the handshake|refused this end's certificate/,
    ],
    ['wrong psk', psk('client', dirs.otherPsk), psk('server', dirs.good), /keys.psk/],
  ])('emu to stock refused: %s', async (_, client, server, said) => {
    const source = await ours(client)
    const destination = await stock(server, '-incoming', 'defer')
    source.machine.start()
    await guest.until((g) => g.lines >= 3, 30_000)
    await expect(source.migration.migrate(await stockListens(destination))).rejects.toThrow(said)
    expect(source.machine.runState).toBe('running')
    await stillRuns()
    await expect.poll(() => destination.stderr, { timeout: 10_000 }).not.toBe('')
  })
  it.each<[string, string, string, RegExp]>([
    [
      'wrong CA of the client',
      x509('client', dirs.strangeClient, ',sanity-check=off'),
      x509('server', dirs.good),
      /client('s certificate .* was not issued by the authority| showed no certificate that the authority)/,
    ],
    [
      'expired client certificate',
      x509('client', dirs.expiredClient, ',sanity-check=off'),
      x509('server', dirs.good),
      /client's certificate .* has expired/,
    ],
    ['no client certificate', x509('client', dirs.noClient), x509('server', dirs.good), /client showed no certificate/],
    [
      'client revoked',
      x509('client', dirs.good),
      x509('server', dirs.revoking),
      /client's certificate .* is revoked by/,
    ],
    [
      'server certificate of another CA',
      x509('client', dirs.good),
      x509('server', dirs.strangers, ',verify-peer=off'),
      /peer closed the connection during|client closed the connection after|peer refused this end's certificate/,
    ],
    ['wrong psk', psk('client', dirs.otherPsk), psk('server', dirs.good), /different keys for this user/],
  ])('stock to emu refused: %s', async (_, client, server, heard) => {
    const source = await stock(client)
    const destination = await ours(server)
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
