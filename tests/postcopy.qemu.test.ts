/** Postcopy between `emu` and stock QEMU, in both roles, with a Linux guest that checks itself. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { linuxGuestMissing } from '../tooling/guest/linux-guest.ts'
import { type Journey, travel } from './harness/journey.ts'
import { createPeer, type Peer, type PeerBoot, type PeerKind, type PostcopyOptions } from './harness/peers.ts'
import { createDisk } from './harness/vm.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const no72 = stockQemuMissing()
const noLinux = linuxGuestMissing()
const no10 = stockQemu10Missing()
for (const reason of [no72, noLinux, no10]) if (reason) console.warn(`skipped: ${reason}`)
const missing = (machines: readonly PeerKind[]) =>
  (no72 ?? noLinux) !== undefined || (machines.includes('10.0') && no10)

let folder: ReturnType<typeof scratchFolder>
beforeEach(() => {
  folder = scratchFolder()
})
afterEach(() => folder.remove())

describe('Linux under load', { timeout: 240_000 }, () => {
  const journeys: readonly Journey[] = [
    {
      machines: ['7.2', 'emu-10.0', '10.0', 'emu-7.2', '7.2'],
      guest: 'load',
      bus: 'pcie.0',
      postcopy: { bandwidth: 32 * 2 ** 20 },
    },
  ]
  for (const journey of journeys) {
    const { machines, bus, harts = 1, postcopy } = journey
    const name = `${machines.join(' to ')}: disk on ${bus}, ${harts} harts${postcopy!.preempt ? ', preempt' : ''}`
    it.skipIf(missing(machines))(name, async () => {
      const hops = await travel(journey, folder.path)
      expect(hops.length).toBe(machines.length - 1)
      for (const { postcopy: after } of hops) {
        expect(after!.requests).toBeGreaterThan(0)
        expect(after!.bytes).toBeGreaterThan(2 ** 20)
      }
    })
  }
})

const MiB = 2 ** 20
type Pair = readonly [from: PeerKind, to: PeerKind]
const pairs: readonly Pair[] = [
  ['7.2', 'emu-7.2'],
  ['emu-7.2', '7.2'],
  ['10.0', 'emu-10.0'],
  ['emu-10.0', '10.0'],
  ['emu-7.2', 'emu-10.0'],
]

/** The embedded guest on its way from one machine to another; `check` is its own verdict at the end. */
async function underWay(pair: Pair, postcopy: PostcopyOptions) {
  const kernel = join(folder.path, 'guest.bin')
  const image = { dirtyBytes: 16 * MiB, dirtyBytesPerSecond: 8 * MiB, lcgStepsPerSecond: 200_000, linesPerSecond: 20 }
  writeFileSync(kernel, embeddedGuestImage({ ...image, earlyTimer: true }))
  const disk = { path: createDisk(join(folder.path, 'disk.img'), 8 * MiB), bus: 'pcie.0' } as const
  const guest = createGuestMonitor()
  const boot: PeerBoot = { kernel, ramBytes: 32 * MiB, disk, postcopy, onOutput: (text) => guest.push(text) }
  const from = await createPeer(pair[0], 'source', boot, folder.path)
  const to = await createPeer(pair[1], 'destination', boot, folder.path)
  await from.start()
  await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)
  const sent = from.send(await to.listen('tcp:127.0.0.1:0'))
  sent.catch(() => {})
  const arrived = to.arrived()
  arrived.catch(() => {})
  return {
    from,
    to,
    guest,
    sent,
    async check() {
      const times = await sent
      await arrived
      const { lines } = guest
      await guest.until((g) => g.lines > lines + 3, 30_000)
      to.type('q')
      await guest.until((g) => g.verdicts.length > 0, 30_000)
      expect(guest.problems).toEqual([])
      expect(guest.verdicts[0]).toMatchObject({ ok: true })
      return times
    },
    async [Symbol.asyncDispose]() {
      await from[Symbol.asyncDispose]()
      await to[Symbol.asyncDispose]()
    },
  }
}

async function status(peer: Peer, wanted: string): Promise<void> {
  for (let last = ''; last !== wanted; await delay(5)) {
    last = (await peer.info()).status
    if (last === 'failed' || (last === 'completed' && wanted !== last)) throw new Error(`${peer.kind} is ${last}`)
  }
}

describe('the embedded guest', { timeout: 60_000 }, () => {
  for (const pair of pairs) {
    for (const preempt of [false, true]) {
      it.skipIf(missing(pair))(`${pair.join(' to ')} after the link broke${preempt ? ', preempt' : ''}`, async () => {
        await using move = await underWay(pair, { preempt, bandwidth: MiB })
        const { from, to, guest } = move
        await status(from, 'postcopy-active')
        await delay(200)
        await (preempt ? from : to).pause()
        await status(from, 'postcopy-paused')
        await status(to, 'postcopy-paused')
        const { lines } = guest
        await from.resume(await to.recover('tcp:127.0.0.1:0'))
        await status(from, 'postcopy-active')
        await guest.until((g) => g.lines > lines, 30_000)
        await from.configure({ parameters: { 'max-postcopy-bandwidth': 0 } })
        const { postcopy } = await move.check()
        expect(postcopy!.requests).toBeGreaterThan(0)
      })
    }
  }
})
