/** Postcopy between `emu` and stock QEMU, in both roles, with a Linux guest that checks itself. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { linuxGuestMissing } from '../tooling/guest/linux-guest.ts'
import { type Journey, travel } from './harness/journey.ts'
import type { PeerKind } from './harness/peers.ts'
import { stockQemu10 } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const no72 = stockQemuMissing()
const noLinux = linuxGuestMissing()
const no10 = stockQemu10() ? undefined : 'no packages of stock QEMU 10.0 beside the repository'
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
    { machines: ['7.2', 'emu-10.0', '10.0', 'emu-7.2', '7.2'], guest: 'load', bus: 'pcie.0', postcopy: {} },
  ]
  for (const journey of journeys) {
    const { machines, bus, harts = 1, postcopy } = journey
    const name = `${machines.join(' to ')}: disk on ${bus}, ${harts} harts${postcopy!.preempt ? ', preempt' : ''}`
    it.skipIf(missing(machines))(name, async () => {
      const hops = await travel(journey, folder.path)
      expect(hops.length).toBe(machines.length - 1)
      for (const { postcopy: after } of hops) {
        expect(after!.requests).toBeGreaterThan(5)
        expect(after!.bytes).toBeGreaterThan(2 ** 20)
      }
    })
  }
})
