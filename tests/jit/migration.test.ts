/** A guest that is compiled, and moved: what was compiled stays while writes are logged, and what arrives replaces all of it. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Rv64Cpu } from '@ferryvm/cpu-riscv'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterAll, describe, expect, it } from 'vitest'
import { createDisk, createVm, diskBehindIommu, move, type TestVm } from '../harness/vm.ts'
import { scratchFolder } from '../stock-qemu/stock-qemu.ts'

const MiB = 2 ** 20
const scratch = scratchFolder()
afterAll(() => scratch.remove())

const counters = (vm: TestVm) => (vm.machine.cpu as Rv64Cpu).counters()

describe('a compiled guest', { timeout: 120_000 }, () => {
  it('is logged, cancelled, logged again and moved, and nothing is compiled twice for it', async () => {
    const disk = createDisk(`${scratch.path}/disk.img`, 8 * MiB)
    const kernel = embeddedGuestImage({
      dirtyBytes: 8 * MiB,
      dirtyBytesPerSecond: 16 * MiB,
      lcgStepsPerSecond: 2_000_000,
      linesPerSecond: 20,
    })
    const guest = createGuestMonitor()
    const side = async () =>
      createVm({
        kernel,
        accel: 'jit',
        ramBytes: 32 * MiB,
        devices: await diskBehindIommu(disk),
        onOutput: (text) => guest.push(text),
      })
    await using from = await side()
    await using to = await side()
    from.machine.start()
    // Until what is hot is compiled.
    await guest.until(() => counters(from).regionsLive >= 5, 60_000)
    await guest.until((g) => (g.last?.requests ?? 0) > 10, 60_000)
    const before = counters(from)

    from.migration.setParameters({ 'max-bandwidth': 2 * MiB })
    for (let attempt = 0; attempt < 2; attempt++) {
      const { done } = from.migration.start('exec:cat > /dev/null')
      const ended = done.then(
        () => 'completed',
        () => 'cancelled',
      )
      // Two rounds, so that pages have been taken from the log and are logged again.
      while ((from.migration.info().ram?.['dirty-sync-count'] ?? 0) < 3) await delay(5)
      const { lines } = guest
      await guest.until((g) => g.lines > lines + 2, 30_000)
      from.migration.cancel()
      expect(await ended).toBe('cancelled')
    }
    const logged = counters(from)
    expect(logged.regionsStale).toBe(before.regionsStale)
    expect(logged.evictions).toBe(before.evictions)
    expect(logged.regionsLive).toBe(logged.regions - before.regions + before.regionsLive)

    from.migration.setParameters({ 'max-bandwidth': 0 })
    await move(from, to)
    const { lines } = guest
    await guest.until((g) => g.lines > lines + 5, 30_000)
    expect(counters(from).regionsStale).toBe(before.regionsStale)
    to.type('q')
    await guest.until((g) => g.verdicts.length > 0, 60_000)
    expect(guest.problems).toEqual([])
    expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
    expect(counters(to).regionsFailed).toBe(0)
  })
})
