/**
 * Live migration between `emu` and stock QEMU, both ways, and through `emu` between two stock releases that cannot do it
 * themselves. The full matrix is `pnpm matrix`; here are the pairs that fit CI's time.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { linuxGuestMissing } from '../tooling/guest/linux-guest.ts'
import { type Journey, travel, travelGuarded } from './harness/journey.ts'
import { createPeer, movePeer, type Peer, type PeerKind } from './harness/peers.ts'
import { createDisk } from './harness/vm.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const MiB = 2 ** 20
const required = Boolean(process.env.CI || process.env.FERRY_REQUIRE_QEMU)
const no72 = stockQemuMissing()
const noLinux = linuxGuestMissing()
const no10 = stockQemu10Missing()
for (const reason of [no72, noLinux, no10]) if (reason) console.warn(`skipped: ${reason}`)
const needs10 = (machines: readonly PeerKind[]) => machines.includes('10.0') && no10 !== undefined

let folder: ReturnType<typeof scratchFolder>
beforeEach(() => {
  folder = scratchFolder()
})
afterEach(() => folder.remove())

describe.skipIf(no72)('the embedded guest', { timeout: 90_000 }, () => {
  const chains: readonly (readonly PeerKind[])[] = [
    ['emu-7.2', '7.2', 'emu-7.2'],
    ['emu-10.0', '10.0', 'emu-10.0'],
    ['7.2', 'emu-10.0', '10.0', 'emu-7.2', '7.2'],
  ]
  for (const chain of chains) {
    it.skipIf(needs10(chain))(`moves ${chain.join(' to ')}`, async () => {
      const kernel = join(folder.path, 'guest.bin')
      const image = {
        dirtyBytes: 4 * MiB,
        dirtyBytesPerSecond: 4 * MiB,
        lcgStepsPerSecond: 200_000,
        linesPerSecond: 20,
      }
      writeFileSync(kernel, embeddedGuestImage({ ...image, earlyTimer: true }))
      const disk = { path: createDisk(join(folder.path, 'disk.img'), 8 * MiB), bus: 'pcie.0' } as const
      const guest = createGuestMonitor()
      const boot = { kernel, ramBytes: 32 * MiB, disk, onOutput: (text: string) => guest.push(text) }
      let here: Peer = await createPeer(chain[0]!, 'source', boot, folder.path)
      try {
        await here.start()
        await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)
        for (const kind of chain.slice(1)) {
          const there = await createPeer(kind, 'destination', boot, folder.path)
          await movePeer(here, there)
          here = there
          const { lines } = guest
          await guest.until((g) => g.lines > lines + 3, 30_000)
        }
        here.type('q')
        await guest.until((g) => g.verdicts.length > 0, 30_000)
        expect(guest.problems).toEqual([])
        expect(guest.verdicts[0]).toMatchObject({ ok: true })
      } finally {
        await here[Symbol.asyncDispose]()
      }
    })
  }
})

describe.skipIf((no72 ?? noLinux) && !required)('Linux', { timeout: 240_000 }, () => {
  const journeys: readonly Journey[] = [
    { machines: ['7.2', 'emu-7.2', '7.2', 'emu-7.2'], guest: 'idle', bus: 'pcie.0', transport: 'fd' },
    { machines: ['7.2', 'emu-7.2', '7.2'], guest: 'load', bus: 'virtio-mmio', transport: 'exec', userNet: true },
    { machines: ['emu-7.2', '7.2'], guest: 'load', bus: 'pcie.0', harts: 2, transport: 'unix' },
    { machines: ['10.0', 'emu-10.0', '10.0'], guest: 'idle', bus: 'virtio-mmio', transport: 'file', userNet: true },
    { machines: ['7.2', 'emu-10.0', '10.0', 'emu-7.2', '7.2'], guest: 'load', bus: 'pcie.0' },
  ]
  for (const journey of journeys) {
    const { machines, guest, bus, harts = 1, transport = 'tcp' } = journey
    const name = `${machines.join(' to ')}: ${guest}, disk on ${bus}, ${harts} harts, ${transport}`
    it.skipIf(needs10(machines))(name, async (context) => {
      const { hops, lostByStock } = await travelGuarded(journey, folder.path)
      if (lostByStock > 0) context.annotate(`stock QEMU 7.2 lost pages in ${lostByStock} attempts before`)
      expect(hops.length).toBe(machines.length - 1)
    })
  }

  it('an idle guest falls silent on stock QEMU when its timers are sent as they are, and wakes up here', async () => {
    const machines: PeerKind[] = ['emu-7.2', '7.2', 'emu-7.2']
    const journey = { machines, guest: 'idle', bus: 'pcie.0', timerNudge: false, silentAfter: [0] } as const
    const { hops } = await travelGuarded({ ...journey, answerMs: 8000 }, folder.path)
    expect(hops.length).toBe(2)
  })

  it('an idle guest that stock QEMU put to sleep for ever, by moving it to its like, wakes up here', async () => {
    const machines: PeerKind[] = ['7.2', '7.2', 'emu-7.2']
    const journey = { machines, guest: 'idle', bus: 'virtio-mmio', harts: 2, silentAfter: [0] } as const
    const { hops } = await travelGuarded({ ...journey, answerMs: 8000 }, folder.path)
    expect(hops.length).toBe(2)
  })

  it.skipIf(no10)('a guest that uses what 7.2 does not have is refused, and the refusal says what', async () => {
    const journey: Journey = { machines: ['10.0', 'emu-7.2'], guest: 'idle', bus: 'pcie.0' }
    await expect(travel(journey, folder.path)).rejects.toThrow(/menvcfg\.CBZE is set: zicboz \(cbo\.zero\)/)
  })

  it.skipIf(no10)('code that needs no CSR bit is found in memory: 10.0 with Zawrs and without Zicboz', async () => {
    const cpu10 = 'rv64,zicboz=off,zicbom=off'
    const journey: Journey = { machines: ['10.0', 'emu-7.2'], guest: 'idle', bus: 'pcie.0', cpu10 }
    await expect(travel(journey, folder.path)).rejects.toThrow(/zawrs .*wrs\.nto or wrs\.sto at 0x8/)
  })
})
