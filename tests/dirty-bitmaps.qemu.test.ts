/** Dirty bitmaps go along with a running guest that writes to its disk, between ours and stock QEMU. */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { embeddedGuestImage } from '../packages/embedded-guest/src/index.ts'
import { type DiskMachine, type DiskMachineKind, startDiskMachine } from './harness/disk-machines.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const MiB = 1 << 20
const missing = stockQemuMissing()
const missing10 = stockQemu10Missing()
if (missing10) console.warn(`dirty bitmaps with 10.0 are skipped: ${missing10}`)

describe.skipIf(missing)(`dirty bitmaps${missing ? ` (skipped: ${missing})` : ''}`, { timeout: 240_000 }, () => {
  let folder: ReturnType<typeof scratchFolder>
  let machines: DiskMachine[]
  beforeEach(() => {
    folder = scratchFolder()
    machines = []
    const guest = {
      dirtyBytes: MiB,
      dirtyBytesPerSecond: MiB,
      diskBytes: 8 * MiB,
      diskRequestsPerSecond: 100,
      lcgStepsPerSecond: 100_000,
    }
    writeFileSync(path('guest.bin'), embeddedGuestImage(guest))
    // A last chunk that is not whole.
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path('disk.qcow2'), `${16 * MiB + 512}`])
  })
  afterEach(async () => {
    await Promise.all(machines.map((machine) => machine[Symbol.asyncDispose]()))
    folder.remove()
  })
  const path = (name: string) => join(folder.path, name)
  const start = async (kind: DiskMachineKind, more: readonly string[] = []) => {
    const options = { folder: folder.path, kernel: path('guest.bin'), disk: path('disk.qcow2'), more }
    const machine = await startDiskMachine(kind, options)
    machines.push(machine)
    return machine
  }
  const bitmaps = async ({ qmp }: DiskMachine) => {
    const drives = await qmp.execute('query-block')
    const drive = drives.find((d: any) => d.device === 'hd0')
    const byName = Object.fromEntries((drive.inserted['dirty-bitmaps'] ?? []).map((b: any) => [b.name, b]))
    return byName as Record<string, any>
  }
  const digest = async ({ qmp }: DiskMachine, name: string): Promise<string> =>
    (await qmp.execute('x-debug-block-dirty-bitmap-sha256', { node: 'hd0', name })).sha256
  const ended = async ({ qmp }: DiskMachine): Promise<string> => {
    for (;;) {
      const { status } = await qmp.execute('query-migrate')
      if (status === 'completed' || status === 'failed') return status
      await delay(20)
    }
  }
  const marked = async (machine: DiskMachine, name: string, more: number) => {
    while ((await bitmaps(machine))[name].count <= more) {
      const { status } = await machine.qmp.execute('query-status')
      if (status !== 'running' && status !== 'prelaunch')
        throw new Error(`the guest that should write to its disk is ${status}`)
      await delay(20)
    }
  }
  const names = ['fine', 'coarse', 'still']

  const mapping = [
    { 'node-name': 'n0', alias: 'disk', bitmaps: names.map((name) => ({ name, alias: `${name}-sent` })) },
  ]
  type Route = readonly [DiskMachineKind, DiskMachineKind, { readonly mapped?: true; readonly postcopy?: true }]
  const routes: readonly Route[] = [
    ['7.2', 'emu-7.2', {}],
    ['7.2', 'emu-7.2', { postcopy: true }],
    ['emu-7.2', '7.2', { mapped: true }],
    ...(missing10
      ? []
      : ([
          ['10.0', 'emu-10.0', { mapped: true }],
          ['emu-10.0', '10.0', {}],
        ] as Route[])),
  ]
  it.each(routes)('%s to %s %j: are the same after the move, and go on', async (from, to, { mapped, postcopy }) => {
    const uri = `unix:${path('ram.sock')}`
    const source = await start(from)
    const destination = await start(to, ['-S', '-incoming', 'defer'])
    const add = (name: string, more: object) =>
      source.qmp.execute('block-dirty-bitmap-add', { node: 'hd0', name, ...more })
    await add('fine', { granularity: 512 })
    await add('coarse', {})
    await add('still', { granularity: 4096 })
    await marked(source, 'still', 0)
    await source.qmp.execute('block-dirty-bitmap-disable', { node: 'n0', name: 'still' })
    for (const { qmp } of [source, destination]) {
      const capabilities = ['events', 'dirty-bitmaps', ...(postcopy ? ['postcopy-ram'] : [])].map((capability) => ({
        capability,
        state: true,
      }))
      await qmp.execute('migrate-set-capabilities', { capabilities })
      if (mapped) await qmp.execute('migrate-set-parameters', { 'block-bitmap-mapping': mapping })
    }

    // A migration that fails leaves them as they are.
    if (from.startsWith('emu')) {
      await source.qmp.execute('migrate', { uri: `unix:${path('nobody.sock')}` })
      expect(await ended(source)).toBe('failed')
    }
    expect(await bitmaps(source)).toMatchObject({
      fine: { recording: true, busy: false, granularity: 512 },
      coarse: { recording: true, busy: false, granularity: 65536 },
      still: { recording: false, busy: false, granularity: 4096 },
    })

    // So that there is always something left that the guest has not written yet.
    await source.qmp.execute('block-dirty-bitmap-clear', { node: 'hd0', name: 'fine' })
    await destination.qmp.execute('migrate-incoming', { uri })
    // Never done, with a guest that writes faster.
    await source.qmp.execute('migrate-set-parameters', { 'max-bandwidth': MiB / 4, 'downtime-limit': 1 })
    await source.qmp.execute('migrate', { uri })
    // The guest writes while the migration runs.
    while (!(await bitmaps(source)).fine.busy) {
      const info = await source.qmp.execute('query-migrate')
      if (info.status === 'failed') throw new Error(`the migration failed: ${info['error-desc']}`)
      await delay(20)
    }
    const before = (await bitmaps(source)).fine.count
    await marked(source, 'fine', before)
    const during = await bitmaps(source)
    expect(during.fine).toMatchObject({ recording: true, busy: true })
    const refused = source.qmp.execute('block-dirty-bitmap-clear', { node: 'hd0', name: 'fine' })
    await expect(refused).rejects.toThrow("Bitmap 'fine' is currently in use by another operation and cannot be used")
    if (postcopy) await source.qmp.execute('migrate-start-postcopy')
    await source.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 512 * MiB, 'downtime-limit': 2000 })
    expect([await ended(source), await ended(destination)]).toEqual(['completed', 'completed'])

    expect((await destination.qmp.execute('query-status')).status).toBe('paused')
    const arrived = await bitmaps(destination)
    expect(arrived.fine.count).toBeGreaterThan(before)
    expect(arrived).toEqual(await bitmaps(source))
    for (const name of names) expect(await digest(destination, name)).toBe(await digest(source, name))

    await destination.qmp.execute('block-dirty-bitmap-clear', { node: 'n0', name: 'fine' })
    const still = await digest(destination, 'still')
    await destination.qmp.execute('cont')
    // Also wakes a guest whose timer stock QEMU has not armed.
    await destination.verify()
    await marked(destination, 'fine', 0)
    expect(await digest(destination, 'still')).toBe(still)
    await source.quit()
    await destination.quit()
    execFileSync('qemu-img', ['check', '-q', path('disk.qcow2')])
  })
})
