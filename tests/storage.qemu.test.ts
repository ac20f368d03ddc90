/** Disks that go along with a running guest: mirrored into the destination's NBD server, between ours and stock QEMU. */
import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { moveMachine } from '../apps/emu/src/migrate/move-machine.ts'
import type { QmpClient } from '../apps/emu/src/qmp-client.ts'
import { embeddedGuestImage } from '../packages/embedded-guest/src/index.ts'
import { type DiskMachine, type DiskMachineKind, startDiskMachine } from './harness/disk-machines.ts'
import { emu } from './harness/emu.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const MiB = 1 << 20
const missing = stockQemuMissing()
const missing10 = stockQemu10Missing()
if (missing10) console.warn(`storage with 10.0 is skipped: ${missing10}`)

describe.skipIf(missing)(`disks go along${missing ? ` (skipped: ${missing})` : ''}`, { timeout: 240_000 }, () => {
  let folder: ReturnType<typeof scratchFolder>
  let kernel: string
  let machines: DiskMachine[]
  beforeEach(() => {
    folder = scratchFolder()
    machines = []
    kernel = join(folder.path, 'guest.bin')
    const guest = {
      dirtyBytes: 2 * MiB,
      dirtyBytesPerSecond: MiB,
      diskBytes: 2 * MiB,
      diskRequestsPerSecond: 100,
      lcgStepsPerSecond: 100_000,
    }
    writeFileSync(kernel, embeddedGuestImage(guest))
  })
  afterEach(async () => {
    await Promise.all(machines.map((machine) => machine[Symbol.asyncDispose]()))
    folder.remove()
  })
  const path = (name: string) => join(folder.path, name)
  const start = async (kind: DiskMachineKind, disk: string, more: readonly string[] = []) => {
    if (!existsSync(path(disk))) execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path(disk), '16M'])
    const machine = await startDiskMachine(kind, { folder: folder.path, kernel, disk: path(disk), more })
    machines.push(machine)
    return machine
  }
  const lines = (machine: DiskMachine, more: number) => {
    const wanted = machine.guest.lines + more
    return machine.guest.until((g) => g.lines >= wanted, 120_000)
  }
  const status = async ({ qmp }: { qmp: QmpClient }) => (await qmp.execute('query-status')).status
  const running = async (machine: DiskMachine) => {
    while ((await status(machine)) !== 'running') await delay(20)
  }
  const incoming = () => ['-incoming', `unix:${path('ram.sock')}`]
  const storage = (destination: DiskMachine) => ({
    destination: destination.qmp,
    address: { type: 'unix' as const, path: path('nbd.sock') },
  })
  const uri = () => `unix:${path('ram.sock')}`

  const byCommand = async (source: DiskMachine, destination: DiskMachine) => {
    const monitors = ['--qmp', `unix:${source.qmpPath}`, '--destination', `unix:${destination.qmpPath}`]
    const { exited, out } = emu(['migrate', uri(), '--storage', ...monitors])
    expect([(await exited).code, out.stdout, out.stderr]).toEqual([0, 'the guest and its disks have moved\n', ''])
  }

  /** Stock 7.2 loses dirty pages of a busy guest now and then (docs/stock-qemu.md): that is tried again. */
  const again = (from: DiskMachineKind) => ({ retry: from === '7.2' ? 4 : 0 })

  const routes: readonly [DiskMachineKind, DiskMachineKind][] = [
    ['emu-7.2', 'emu-7.2'],
    ['7.2', 'emu-7.2'],
    ['emu-7.2', '7.2'],
    ...(missing10
      ? []
      : (
          [
            ['10.0', 'emu-10.0'],
            ['emu-10.0', '10.0'],
          ] as const
        ).map(([a, b]) => [a, b] as [DiskMachineKind, DiskMachineKind])),
  ]
  describe.each(routes)('%s to %s', (from, to) =>
    it('the guest finds on its disk what it wrote', again(from), async () => {
      const source = await start(from, 'source.qcow2')
      const destination = await start(to, 'destination.qcow2', incoming())
      await lines(source, 2)
      if (from === to) await byCommand(source, destination)
      else {
        const seen: string[] = []
        await moveMachine(source.qmp, {
          uri: uri(),
          storage: storage(destination),
          progress: (step) => void (seen.at(-1) !== step && seen.push(step)),
        })
        expect(seen).toEqual(['disks', 'memory', 'switch'])
      }
      await running(destination)
      expect(await status(source)).toBe('postmigrate')
      await lines(destination, 2)
      await destination.verify()
      expect(await destination.qmp.execute('query-block-exports')).toEqual([])
      await source.quit()
      await destination.quit()
      execFileSync('qemu-img', ['check', '-q', path('destination.qcow2')])
    }),
  )

  it('a disk that does not fit: the command says so, and nothing is left of it', async () => {
    const source = await start('emu-7.2', 'source.qcow2')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path('destination.qcow2'), '8M'])
    const destination = await start('emu-7.2', 'destination.qcow2', incoming())
    const moved = moveMachine(source.qmp, { uri: uri(), storage: storage(destination) })
    await expect(moved).rejects.toThrow(/the target has 8388608 bytes, the disk 16777216/)
    expect(await status(source)).toBe('running')
    expect(await status(destination)).toBe('inmigrate')
    expect(await source.qmp.execute('query-jobs')).toEqual([])
    expect(await source.qmp.execute('query-named-block-nodes')).toHaveLength(1)
    expect(await destination.qmp.execute('query-block-exports')).toEqual([])
    await lines(source, 1)
    await source.verify()
  })

  const inStream: readonly [DiskMachineKind, DiskMachineKind, string[]][] = [
    ['emu-7.2', 'emu-7.2', []],
    ['7.2', 'emu-7.2', []],
    ['emu-7.2', '7.2', ['zero-blocks', 'multifd']],
    ['7.2', 'emu-7.2', ['zero-blocks', 'xbzrle']],
  ]
  describe.each(inStream)('migrate -b, %s to %s %o', (from, to, more) =>
    it('the guest finds on its disk what it wrote', again(from), async () => {
      const source = await start(from, 'source.qcow2')
      const destination = await start(to, 'destination.qcow2', ['-incoming', 'defer'])
      for (const { qmp } of [source, destination]) {
        const capabilities = ['events', ...more].map((capability) => ({ capability, state: true }))
        await qmp.execute('migrate-set-capabilities', { capabilities })
      }
      await lines(source, 2)
      await destination.qmp.execute('migrate-incoming', { uri: uri() })
      // Slow enough for the disk to be seen on its way.
      await source.qmp.execute('migrate-set-parameters', { 'max-bandwidth': MiB / 4 })
      await source.qmp.execute('migrate', { uri: uri(), blk: true })
      let disk: any
      while (!disk) {
        const info = await source.qmp.execute('query-migrate')
        if (info.status === 'completed' || info.status === 'failed')
          throw new Error(`the disk was not seen: ${info.status}`)
        disk = info.disk
      }
      expect(disk).toMatchObject({ total: 16 * MiB, 'dirty-sync-count': 0, 'page-size': 0 })
      expect(disk.transferred + disk.remaining).toBe(16 * MiB)
      await source.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 512 * MiB })
      await source.qmp.waitEvent((e) => e.event === 'MIGRATION' && e.data!.status === 'completed', 120_000)
      expect((await source.qmp.execute('query-migrate')).disk).toBeUndefined()
      await running(destination)
      await lines(destination, 2)
      await destination.verify()
      await source.quit()
      await destination.quit()
      execFileSync('qemu-img', ['check', '-q', path('destination.qcow2')])
    }),
  )

  it('migrate -i leaves what is in the image below', async () => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', path('below.raw'), '16M'])
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 5 8M 4M', path('below.raw')], { stdio: 'pipe' })
    for (const name of ['source.qcow2', 'destination.qcow2']) {
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', path('below.raw'), '-F', 'raw', path(name)])
    }
    const source = await start('emu-7.2', 'source.qcow2')
    const destination = await start('7.2', 'destination.qcow2', incoming())
    await lines(source, 2)
    await source.qmp.hmp(`migrate -d -i ${uri()}`)
    await running(destination)
    await lines(destination, 1)
    await destination.verify()
    await source.quit()
    await destination.quit()
    execFileSync('qemu-img', ['check', '-q', path('destination.qcow2')])
    const map = JSON.parse(
      execFileSync('qemu-img', ['map', '--output=json', path('destination.qcow2')], { encoding: 'utf8' }),
    )
    const below = map.filter((run: any) => run.depth === 1 && run.start < 12 * MiB && run.start + run.length > 8 * MiB)
    expect(below.reduce((sum: number, run: any) => sum + run.length, 0)).toBeGreaterThanOrEqual(4 * MiB)
  })

  it('the profile of 10.0 knows nothing of it, as 10.0', async () => {
    const { qmp } = await start('emu-10.0', 'source.qcow2')
    await expect(qmp.execute('migrate', { uri: uri(), blk: true })).rejects.toThrow("Parameter 'blk' is unexpected")
    expect(await qmp.hmp(`migrate -b ${uri()}`)).toMatch(/unsupported option -b/)
    const on = { capabilities: [{ capability: 'block', state: true }] }
    await expect(qmp.execute('migrate-set-capabilities', on)).rejects.toMatchObject({ errorClass: 'GenericError' })
    await expect(qmp.execute('migrate-set-parameters', { 'block-incremental': true })).rejects.toMatchObject({
      errorClass: 'GenericError',
    })
    expect(await status({ qmp })).toBe('running')
  })

  it('both disks are the same when the copy ends, and the guest goes on', async () => {
    const source = await start('emu-7.2', 'source.qcow2')
    await lines(source, 2)
    const { qmp } = source
    await qmp.execute('drive-mirror', { device: 'hd0', target: path('copy.raw'), format: 'raw', sync: 'full' })
    await qmp.waitEvent((e) => e.event === 'BLOCK_JOB_READY')
    await lines(source, 2)
    await qmp.execute('stop')
    await qmp.execute('block-job-cancel', { device: 'hd0' })
    const { data } = await qmp.waitEvent((e) => e.event === 'BLOCK_JOB_COMPLETED')
    expect(data).toMatchObject({ type: 'mirror', device: 'hd0', speed: 0 })
    expect(data!.len).toBe(data!.offset)
    await qmp.execute('cont')
    await lines(source, 1)
    await source.verify()
    await qmp.execute('stop')
    // The guest wrote on: what is compared is a second copy, by the image's own means.
    await qmp.execute('drive-mirror', { device: 'hd0', target: path('last.qcow2'), format: 'qcow2', sync: 'full' })
    await qmp.waitEvent((e) => e.event === 'BLOCK_JOB_READY')
    await qmp.execute('block-job-cancel', { device: 'hd0' })
    await qmp.waitEvent((e) => e.event === 'BLOCK_JOB_COMPLETED')
    await source.quit()
    execFileSync('qemu-img', ['check', '-q', path('last.qcow2')])
    execFileSync('qemu-img', ['compare', '-q', path('source.qcow2'), path('last.qcow2')])
  })

  it('block-job-complete: the guest works on with the copy', async () => {
    const source = await start('emu-7.2', 'source.qcow2')
    const { qmp } = source
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', path('other.qcow2'), '16M'])
    const file = { driver: 'file', filename: path('other.qcow2') }
    await qmp.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'other', file })
    await qmp.execute('blockdev-mirror', { 'job-id': 'j', device: 'hd0', target: 'other', sync: 'full' })
    await qmp.waitEvent((e) => e.event === 'BLOCK_JOB_READY')
    await qmp.execute('block-job-complete', { device: 'j' })
    await qmp.waitEvent((e) => e.event === 'BLOCK_JOB_COMPLETED')
    expect((await qmp.execute('query-block'))[0].inserted).toMatchObject({ 'node-name': 'other', drv: 'qcow2' })
    await lines(source, 2)
    await source.verify()
    await source.quit()
    for (const image of ['source.qcow2', 'other.qcow2']) execFileSync('qemu-img', ['check', '-q', path(image)])
  })
})
