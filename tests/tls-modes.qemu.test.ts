/**
 * TLS with every mode of migration that opens channels of its own or changes what they carry, between `emu` and stock QEMU in both
 * roles. Without FERRY_TLS_ALL a part of the pairings runs, so that each mode, each release and each role has its turn.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterAll, describe, expect, it } from 'vitest'
import {
  createPeer,
  type MigrationSettings,
  type Peer,
  type PeerBoot,
  type PeerKind,
  type PostcopyOptions,
} from './harness/peers.ts'
import { createTlsFolders } from './harness/tls-folders.ts'
import { createDisk } from './harness/vm.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const missing = stockQemuMissing()
const no10 = stockQemu10Missing()
for (const reason of [missing, no10]) if (reason) console.warn(`skipped: ${reason}`)
const root = scratchFolder()
afterAll(() => root.remove())
const { good: dir } = await createTlsFolders(root.path)
const MiB = 2 ** 20

interface Mode {
  readonly name: string
  readonly settings?: MigrationSettings
  readonly postcopy?: PostcopyOptions
  /** It is paused in the middle of postcopy, and resumed by new connections. */
  readonly resumed?: boolean
}
const multifd = (parameters: Readonly<Record<string, unknown>>): MigrationSettings => ({
  capabilities: ['multifd'],
  parameters: { 'multifd-channels': 3, ...parameters },
})
const MODES: readonly Mode[] = [
  { name: 'return path', settings: { capabilities: ['return-path'] } },
  { name: 'xbzrle and auto-converge', settings: { capabilities: ['xbzrle', 'auto-converge'] } },
  { name: 'multifd', settings: multifd({}) },
  { name: 'multifd with zlib', settings: multifd({ 'multifd-compression': 'zlib' }) },
  { name: 'multifd with zstd', settings: multifd({ 'multifd-compression': 'zstd' }) },
  { name: 'postcopy', postcopy: {} },
  { name: 'postcopy with preempt', postcopy: { preempt: true } },
  { name: 'postcopy, resumed', postcopy: { bandwidth: MiB }, resumed: true },
  { name: 'postcopy with preempt, resumed', postcopy: { preempt: true, bandwidth: MiB }, resumed: true },
]
const PAIRS: readonly (readonly [PeerKind, PeerKind])[] = [
  ['7.2', 'emu-7.2'],
  ['emu-10.0', '10.0'],
  ['emu-7.2', '7.2'],
  ['10.0', 'emu-10.0'],
  ['emu-10.0', 'emu-10.0'],
]
const KINDS = ['x509', 'psk', 'anon'] as const
const cases = MODES.flatMap((mode, m) =>
  PAIRS.flatMap((pair, p) =>
    process.env.FERRY_TLS_ALL
      ? KINDS.map((kind) => ({ mode, pair, kind }))
      : m % PAIRS.length === p
        ? [{ mode, pair, kind: KINDS[(m + p) % KINDS.length]! }]
        : [],
  ),
)

describe('over TLS', { timeout: 400_000 }, () => {
  for (const { mode, pair, kind } of cases) {
    const skipped = missing !== undefined || (pair.includes('10.0') && no10 !== undefined)
    it.skipIf(skipped)(`${mode.name}: ${pair.join(' to ')}, ${kind}`, () => guarded(mode, pair, kind))
  }
})

const ATTEMPTS = 8

/** Stock 7.2 loses dirty pages of a busy guest now and then, with TLS or without (docs/stock-qemu.md): that is tried again. */
async function guarded(mode: Mode, pair: readonly [PeerKind, PeerKind], kind: (typeof KINDS)[number]): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await moves(mode, pair, kind)
      return
    } catch (error) {
      const damaged = /\bERR \d+ (mem|disk)-/.test((error as Error).message)
      if (!damaged || pair[0] !== '7.2' || attempt === ATTEMPTS) throw error
      console.warn(`stock 7.2 lost a page (${mode.name}, attempt ${attempt})`)
    }
  }
}

let guests = 0

async function moves(mode: Mode, pair: readonly [PeerKind, PeerKind], kind: (typeof KINDS)[number]): Promise<void> {
  const { settings = {}, postcopy, resumed } = mode
  const id = ++guests
  const kernel = join(root.path, `guest-${id}.bin`)
  const image = { dirtyBytes: 16 * MiB, dirtyBytesPerSecond: 8 * MiB, lcgStepsPerSecond: 200_000, linesPerSecond: 20 }
  writeFileSync(kernel, embeddedGuestImage({ ...image, earlyTimer: true }))
  const disk = { path: createDisk(join(root.path, `disk-${id}.img`), 8 * MiB), bus: 'pcie.0' } as const
  const guest = createGuestMonitor()
  const boot: PeerBoot = {
    kernel,
    ramBytes: 32 * MiB,
    disk,
    tls: { kind, dir },
    ...(postcopy && { postcopy }),
    onOutput: (text) => guest.push(text),
  }
  // Two pipes: on a busy machine the last characters of the source are read after the first of the destination.
  let held: string[] | undefined = []
  const later: PeerBoot = { ...boot, onOutput: (text) => void (held ? held.push(text) : guest.push(text)) }
  await using from = await createPeer(pair[0], 'source', boot, root.path)
  await using to = await createPeer(pair[1], 'destination', later, root.path)
  for (const peer of [from, to]) await peer.configure(settings)
  await from.start()
  await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)
  const sent = from.send(await to.listen('tcp:127.0.0.1:0'))
  sent.catch(() => {})
  const arrived = to.arrived()
  arrived.catch(() => {})
  if (resumed) {
    await status(from, 'postcopy-active')
    await delay(200)
    await to.pause()
    await status(from, 'postcopy-paused')
    await status(to, 'postcopy-paused')
    await from.resume(await to.recover('tcp:127.0.0.1:0'))
    await status(from, 'postcopy-active')
    await from.configure({ parameters: { 'max-postcopy-bandwidth': 0 } })
  }
  await sent
  await arrived
  await delay(50)
  for (const text of held) guest.push(text)
  held = undefined
  const { lines } = guest
  const unharmed = () => {
    if (guest.problems.length > 0) throw new Error(guest.problems.slice(0, 5).join(' | '))
  }
  await guest.until((g) => g.lines > lines + 3 || g.problems.length > 0, 30_000)
  unharmed()
  to.type('q')
  await guest.until((g) => g.verdicts.length > 0, 30_000)
  unharmed()
  expect(guest.verdicts[0]).toMatchObject({ ok: true })
}

async function status(peer: Peer, wanted: string): Promise<void> {
  for (let last = ''; last !== wanted; await delay(5)) {
    last = (await peer.info()).status
    if (last === 'failed' || (last === 'completed' && wanted !== last)) throw new Error(`${peer.kind} is ${last}`)
  }
}
