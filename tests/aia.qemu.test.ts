/**
 * Linux on machines with APLIC and IMSIC, moved between `emu` and stock QEMU. Part of it; all with `pnpm test:aia`.
 *
 * Stock 7.2 answers every request to look again at a level-sensitive source with a message, also when its wire is low, so
 * that Linux, which asks after each of them, never comes out of the first wired interrupt it enables. Guests of its IMSIC
 * boot with a device tree in which neither the serial line nor the clock have one; PCI functions send messages themselves.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { VIRT_PROFILES } from '@ferryvm/board-virt'
import { withInterruptFiles } from '@ferryvm/cpu-riscv'
import { flattenDeviceTree, type InterruptControllers, virtDeviceTree } from '@ferryvm/devices-virt'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { linuxGuestMissing } from '../tooling/guest/linux-guest.ts'
import { type Journey, travelGuarded } from './harness/journey.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const required = Boolean(process.env.CI || process.env.FERRY_REQUIRE_QEMU)
const all = Boolean(process.env.FERRY_AIA_ALL)
const missing = stockQemuMissing() ?? linuxGuestMissing()
const no10 = stockQemu10Missing()
for (const reason of [missing, no10]) if (reason) console.warn(`skipped: ${reason}`)

const aplic: InterruptControllers = { kind: 'aplic' }
const imsic: InterruptControllers = { kind: 'aplic-imsic', guests: 0 }
const withGuests: InterruptControllers = { kind: 'aplic-imsic', guests: 3 }

/** What runs by default first. */
const journeys: readonly (Pick<Journey, 'machines' | 'guest' | 'harts' | 'transport' | 'interrupts'> & {
  readonly bus?: Journey['bus']
})[] = [
  { machines: ['7.2', 'emu-7.2', '7.2'], guest: 'idle', interrupts: aplic },
  { machines: ['10.0', 'emu-10.0', '10.0'], guest: 'load', interrupts: withGuests },
  { machines: ['10.0', 'emu-10.0', '10.0'], guest: 'load', interrupts: imsic, harts: 2 },
  { machines: ['10.0', 'emu-10.0', '10.0'], guest: 'idle', interrupts: imsic, harts: 2 },
  { machines: ['10.0', 'emu-10.0', '10.0'], guest: 'load', interrupts: aplic, harts: 2, bus: 'virtio-mmio' },
  { machines: ['7.2', 'emu-7.2', '7.2'], guest: 'load', interrupts: aplic, harts: 2 },
  { machines: ['7.2', 'emu-7.2', '7.2'], guest: 'load', interrupts: imsic },
  { machines: ['7.2', 'emu-7.2', '7.2'], guest: 'idle', interrupts: imsic, harts: 2 },
  { machines: ['7.2', 'emu-10.0', '10.0', 'emu-7.2', '7.2'], guest: 'load', interrupts: aplic },
  { machines: ['7.2', 'emu-10.0', '10.0', 'emu-7.2', '7.2'], guest: 'load', interrupts: imsic, harts: 2 },
  { machines: ['emu-10.0', 'emu-10.0', '10.0'], guest: 'load', interrupts: imsic, harts: 2 },
  { machines: ['emu-7.2', 'emu-7.2'], guest: 'load', interrupts: imsic, harts: 2 },
]
const BY_DEFAULT = 2

describe.skipIf(missing && !required)('Linux with AIA', { timeout: 300_000 }, () => {
  let folder: ReturnType<typeof scratchFolder>
  beforeEach(() => {
    folder = scratchFolder()
  })
  afterEach(() => folder.remove())

  for (const journey of all ? journeys : journeys.slice(0, BY_DEFAULT)) {
    const { machines, guest, bus = 'pcie.0', harts = 1, interrupts = aplic } = journey
    const what = interrupts.kind === 'aplic-imsic' ? `IMSIC with ${interrupts.guests} guests` : 'APLIC'
    it.skipIf(no10 !== undefined && machines.includes('10.0'))(
      `${machines.join(' to ')}: ${guest}, ${what}, disk on ${bus}, ${harts} harts`,
      async (context) => {
        const deviceTree =
          machines[0] === '7.2' && interrupts.kind === 'aplic-imsic'
            ? treeWithoutWires(join(folder.path, 'wireless.dtb'), harts, interrupts.guests)
            : undefined
        const { hops, lostByStock } = await travelGuarded({ ...journey, bus, deviceTree }, folder.path)
        if (lostByStock > 0) context.annotate(`stock QEMU 7.2 lost pages in ${lostByStock} attempts before`)
        expect(hops.length).toBe(machines.length - 1)
      },
    )
  }
})

/** That of a machine of 128 MiB, without the interrupts of serial line and clock, which are then polled. */
function treeWithoutWires(path: string, harts: number, guests: number): string {
  const { cpu, deviceTree } = VIRT_PROFILES['qemu-7.2']
  const { isa, mmuType } = withInterruptFiles(cpu, guests)
  const interrupts = { kind: 'aplic-imsic', guests } as const
  const tree = virtDeviceTree({ harts, ramBytes: 128 * 2 ** 20, facts: { ...deviceTree, isa, mmuType }, interrupts })
  const soc = tree.children.soc!
  for (const name of ['serial@10000000', 'rtc@101000']) delete soc.children[name]!.properties.interrupts
  writeFileSync(path, flattenDeviceTree(tree))
  return path
}
