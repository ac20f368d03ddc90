import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MigrationPriority } from '@ferryvm/core'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createDisk, createVm, diskBehindIommu, move } from './harness/vm.ts'

const kernel = embeddedGuestImage({ dirtyBytes: 2 ** 20, dirtyBytesPerSecond: 2 ** 20, lcgStepsPerSecond: 100_000 })
let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'ferryvm-priority-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

/**
 * The point of QEMU's change of January 2017. A virtio disk behind VT-d looks into its rings while it loads, at addresses
 * that only the IOMMU's tables can translate: the IOMMU must have been loaded by then.
 */
describe('an IOMMU is loaded before the PCI devices behind it', () => {
  async function guestAt(name: string, atSource?: number, atDestination = atSource, checkLoadOrder = false) {
    const disk = createDisk(join(folder, `${name}.img`), 8 * 2 ** 20)
    const guest = createGuestMonitor()
    // Worst order: the device exists, and is registered, before its IOMMU.
    const side = async (priority: number | undefined) =>
      createVm({
        kernel,
        ramBytes: 32 * 2 ** 20,
        devices: await diskBehindIommu(disk, {
          order: 'worst',
          iommu: priority === undefined ? {} : { 'x-migration-priority': priority },
        }),
        checkLoadOrder,
        onOutput: (text) => guest.push(text),
      })
    return { guest, source: await side(atSource), destination: await side(atDestination) }
  }

  it('with its priority, devices created in the worst order, it works', async () => {
    const { guest, source, destination } = await guestAt('right', undefined)
    await using _source = source
    await using _destination = destination
    const order = source.machine.sections.entries().map((e) => e.idstr)
    expect(order.indexOf('iommu-intel')).toBeLessThan(order.indexOf('0000:00:01.0/virtio-blk'))
    source.machine.start()
    await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)
    await move(source, destination)
    const before = guest.last!.requests
    await guest.until((g) => g.last!.requests > before + 20, 30_000)
    destination.type('q')
    await guest.until((g) => g.verdicts.length > 0, 60_000)
    expect(guest.verdicts[0]).toMatchObject({ ok: true })
    expect(guest.problems).toEqual([])
  })

  it('with its priority lowered, the PCI device fails to translate on load, says so, and the guest goes on at home', async () => {
    const { guest, source, destination } = await guestAt('wrong', MigrationPriority.DEFAULT)
    await using _source = source
    await using _destination = destination
    const order = source.machine.sections.entries().map((e) => e.idstr)
    expect(order.indexOf('iommu-intel')).toBeGreaterThan(order.indexOf('0000:00:01.0/virtio-blk'))
    source.machine.start()
    await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)

    const incoming = await destination.migration.incoming('tcp:127.0.0.1:0')
    const [sent, received] = await Promise.allSettled([source.migration.migrate(incoming.uri), incoming.done])
    expect(received).toMatchObject({ status: 'rejected' })
    const complaint = String((received as PromiseRejectedResult).reason?.message)
    expect(complaint).toMatch(/0000:00:01\.0\/virtio-blk/)
    expect(complaint).toMatch(/IOMMU/)
    expect(sent.status).toBe('rejected')

    expect(source.machine.runState).toBe('running')
    const before = guest.last!.requests
    await guest.until((g) => g.last!.requests > before + 20, 30_000)
    source.type('q')
    await guest.until((g) => g.verdicts.length > 0, 60_000)
    expect(guest.verdicts[0]).toMatchObject({ ok: true })
    expect(guest.problems).toEqual([])
  })
  it('from a source without priorities it works as well: the destination holds the PCI device back', async () => {
    const { DEFAULT, IOMMU } = MigrationPriority
    const { guest, source, destination } = await guestAt('repaired', DEFAULT, IOMMU, true)
    await using _source = source
    await using _destination = destination
    source.machine.start()
    await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)
    await move(source, destination)
    const before = guest.last!.requests
    await guest.until((g) => g.last!.requests > before + 20, 30_000)
    destination.type('q')
    await guest.until((g) => g.verdicts.length > 0, 60_000)
    expect(guest.verdicts[0]).toMatchObject({ ok: true })
    expect(guest.problems).toEqual([])
  })

  it('with its priority lowered on both sides, the order sanitizer names both and the priority that is missing', async () => {
    const { guest, source, destination } = await guestAt('checked', MigrationPriority.DEFAULT, undefined, true)
    await using _source = source
    await using _destination = destination
    source.machine.start()
    await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)
    const incoming = await destination.migration.incoming('tcp:127.0.0.1:0')
    const [, received] = await Promise.allSettled([source.migration.migrate(incoming.uri), incoming.done])
    expect((received as PromiseRejectedResult).reason).toMatchObject({
      code: 'FERRY_LOAD_ORDER',
      section: '0000:00:01.0/virtio-blk/0',
      needs: 'iommu-intel/0',
      priority: MigrationPriority.IOMMU,
    })
  })
})
