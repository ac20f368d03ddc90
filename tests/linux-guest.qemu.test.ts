/** The Linux guest that migration tests use, tried on stock QEMU: it boots to a shell, and its workload knows good from bad. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { buildLinuxInitramfs, findLinuxGuest, linuxGuestMissing } from '../tooling/guest/linux-guest.ts'
import { createLinuxWorkloadMonitor, linuxWorkload } from '../tooling/guest/linux-workload.ts'
import { type StockQemu, scratchFolder, startStockQemu, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const missing = stockQemuMissing() ?? linuxGuestMissing()

describe.skipIf(missing)(
  `Linux guest on stock QEMU${missing ? ` (skipped: ${missing})` : ''}`,
  { timeout: 240_000 },
  () => {
    let folder: ReturnType<typeof scratchFolder>
    let machines: StockQemu[]
    let disk: string
    beforeEach(() => {
      folder = scratchFolder()
      machines = []
      disk = join(folder.path, 'disk.img')
      writeFileSync(disk, '')
      truncateSync(disk, 4 << 20)
    })
    afterEach(async () => {
      await Promise.all(machines.map((machine) => machine.kill()))
      folder.remove()
    })

    async function boot(
      listen: (chunk: Buffer) => void,
      initrd: Uint8Array,
      device = 'virtio-blk-pci',
      kernel = '6.12',
      more: string[] = [],
    ) {
      const path = join(folder.path, 'initrd.gz')
      writeFileSync(path, initrd)
      const machine = await startStockQemu(
        folder.path,
        [
          ...['-M', 'virt', '-m', '256M', '-kernel', findLinuxGuest(kernel)!.kernel, '-initrd', path],
          ...['-append', 'console=ttyS0 quiet', '-drive', `file=${disk},if=none,id=d,format=raw`],
          ...['-device', `${device},drive=d`, ...more],
        ],
        listen,
      )
      machines.push(machine)
      return machine
    }

    it('boots to a shell that one can type into', async () => {
      const monitor = createLinuxWorkloadMonitor()
      const machine = await boot((chunk) => monitor.push(chunk), buildLinuxInitramfs(findLinuxGuest()!))
      await monitor.until((m) => m.text.includes('# '), 60_000)
      machine.type('echo $((6 * 7)) $(uname -m)\n')
      await monitor.until((m) => m.text.includes('42 riscv64'), 60_000)
      machine.type('exit\n')
      expect(await machine.exited).toBe(0)
    })

    for (const device of ['virtio-blk-pci', 'virtio-blk-device']) {
      it(`runs the workload over ${device}`, async () => {
        const monitor = createLinuxWorkloadMonitor()
        const initrd = buildLinuxInitramfs(findLinuxGuest()!, { initScript: linuxWorkload() })
        const machine = await boot((chunk) => monitor.push(chunk), initrd, device)
        await monitor.until((m) => m.rounds >= 20, 120_000)
        machine.type('q\n')
        expect(await machine.exited).toBe(0)
        expect(monitor.problems).toEqual([])
        expect(monitor.text).toContain('workload: disk /dev/vda slots 16')
        expect(monitor.verdict).toMatchObject({ ok: true, rounds: monitor.last })
      })
    }

    it('finds a disk that went back in time', async () => {
      const monitor = createLinuxWorkloadMonitor()
      const initrd = buildLinuxInitramfs(findLinuxGuest()!, { initScript: linuxWorkload({ slots: 4 }) })
      const machine = await boot((chunk) => monitor.push(chunk), initrd)
      await monitor.until((m) => m.rounds >= 3, 120_000)
      const older = readFileSync(disk)
      await monitor.until((m) => m.rounds >= 10, 120_000)
      await machine.qmp('stop')
      writeFileSync(disk, older, { flag: 'r+' })
      await machine.qmp('cont')
      machine.type('q\n')
      expect(await machine.exited).toBe(0)
      expect(monitor.verdict?.ok).toBe(false)
      expect(monitor.verdict?.why).toMatch(/^slot \d of round \d+/)
    })
  },
)
