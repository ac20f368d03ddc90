/** A twin of a running Linux: it goes on from where its parent stood, with a disk and random numbers of its own. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { rawFile } from '@ferryvm/block/node'
import { vmgenid } from '@ferryvm/devices-virt'
import { virtioBlk } from '@ferryvm/devices-virtio'
import { forkMachine } from '@ferryvm/migration'
import { describe, expect, it } from 'vitest'
import { buildLinuxInitramfs, findLinuxGuest, linuxGuestMissing } from '../tooling/guest/linux-guest.ts'
import { createLinuxWorkloadMonitor, linuxWorkload } from '../tooling/guest/linux-workload.ts'
import { createDisk, createVm, type TestVmOptions } from './harness/vm.ts'

const guest = findLinuxGuest()
const missing = linuxGuestMissing() ?? (guest?.opensbi ? undefined : 'no OpenSBI firmware (package opensbi)')
if (missing) console.warn(`skipped: ${missing}`)
const required = Boolean(process.env.FERRY_REQUIRE_QEMU)
const MiB = 2 ** 20
/** What the kernel says when its VM generation ID has changed. */
const RESEEDED = 'crng reseeded due to virtual machine fork'

describe.skipIf(missing && !required)('fork of Linux', () => {
  it('both go on and check themselves; the twin has new random numbers', { timeout: 600_000 }, async () => {
    if (missing) throw new Error(`FERRY_REQUIRE_QEMU asks for Linux, and there is ${missing}`)
    const folder = mkdtempSync(join(tmpdir(), 'ferryvm-fork-'))
    const initrd = buildLinuxInitramfs(guest!, { initScript: linuxWorkload() })
    const side = async (name: string, before: string, migrationOptions?: TestVmOptions['migrationOptions']) => {
      const workload = createLinuxWorkloadMonitor()
      if (before) workload.push(before)
      const vm = await createVm({
        bios: readFileSync(guest!.opensbi!),
        kernel: readFileSync(guest!.kernel),
        initrd,
        append: 'console=ttyS0 loglevel=6',
        ramBytes: 128 * MiB,
        devices: [virtioBlk({ drive: await rawFile(join(folder, name)) }, { bus: 'pcie.0' }), vmgenid({})],
        onOutput: (text) => workload.push(text),
        migrationOptions,
      })
      return { ...vm, workload, [Symbol.asyncDispose]: () => vm[Symbol.asyncDispose]() }
    }
    try {
      createDisk(join(folder, 'parent'), 4 * MiB)
      await using parent = await side('parent', '')
      parent.machine.start()
      await parent.workload.until((w) => w.rounds > 2, 300_000)
      let printed = ''
      using _stop = parent.machine.on('stop', () => {
        printed = parent.workload.text
        copyFileSync(join(folder, 'parent'), join(folder, 'twin'))
      })
      const forked = await forkMachine(parent.migration, (transport) =>
        side('twin', printed, { transports: [transport] }),
      )
      await using twin = forked.twin
      const both = [parent, twin]
      const before = both.map(({ workload }) => workload.rounds)
      await Promise.all(both.map(({ workload }, i) => workload.until((w) => w.rounds > before[i]! + 2, 300_000)))
      // It has what it touched, which is not all that its parent has in use.
      expect(twin.machine.memory.missing.count).toBeGreaterThan(0)
      for (const { type } of both) type('q\n')
      await Promise.all(both.map(({ workload }) => workload.until((w) => w.verdict !== undefined, 300_000)))
      for (const { workload } of both) {
        expect(workload.verdict).toMatchObject({ ok: true })
        expect(workload.problems).toEqual([])
      }
      expect(both.map(({ workload }) => workload.text.includes(RESEEDED))).toEqual([false, true])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
