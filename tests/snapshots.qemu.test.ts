/**
 * Snapshots inside qcow2 images, with the self-checking guest writing to the disk: what one program saves, the other one loads,
 * and qemu-img finds nothing wrong with the image.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { QmpClient } from '../apps/emu/src/qmp-client.ts'
import { embeddedGuestImage } from '../packages/embedded-guest/src/index.ts'
import { type DiskMachine, type DiskMachineKind, startDiskMachine } from './harness/disk-machines.ts'
import { main } from './harness/emu.ts'
import { stockQemu10Missing } from './stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from './stock-qemu/stock-qemu.ts'

const MiB = 1 << 20
const missing = stockQemuMissing()
const missing10 = stockQemu10Missing()
if (missing10) console.warn(`snapshots with 10.0 are skipped: ${missing10}`)

describe.skipIf(missing)(
  `snapshots in qcow2 images${missing ? ` (skipped: ${missing})` : ''}`,
  { timeout: 240_000 },
  () => {
    let folder: ReturnType<typeof scratchFolder>
    let kernel: string
    let disk: string
    let machines: DiskMachine[]
    beforeEach(() => {
      folder = scratchFolder()
      machines = []
      kernel = join(folder.path, 'guest.bin')
      disk = join(folder.path, 'disk.qcow2')
      const guest = {
        dirtyBytes: 4 * MiB,
        dirtyBytesPerSecond: 2 * MiB,
        diskBytes: 2 * MiB,
        lcgStepsPerSecond: 200_000,
      }
      writeFileSync(kernel, embeddedGuestImage(guest))
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', disk, '16M'])
    })
    afterEach(async () => {
      await Promise.all(machines.map((machine) => machine[Symbol.asyncDispose]()))
      folder.remove()
    })

    const start = async (kind: DiskMachineKind, more: readonly string[] = []) => {
      const machine = await startDiskMachine(kind, { folder: folder.path, kernel, disk, more })
      machines.push(machine)
      return machine
    }
    /** @throws Error with what qemu-img found */
    const checkDisk = (image = disk) => execFileSync('qemu-img', ['check', '-q', image])
    const stockList = () =>
      (JSON.parse(execFileSync('qemu-img', ['info', '-U', '--output=json', disk], { encoding: 'utf8' })).snapshots ??
        []) as {
        id: string
        name: string
        'vm-state-size': number
      }[]
    const lines = (machine: DiskMachine, more: number) => {
      const wanted = machine.guest.lines + more
      return machine.guest.until((g) => g.lines >= wanted, 120_000)
    }
    const job = async ({ qmp }: DiskMachine, command: string, args: object) => {
      await qmp.execute(command, { 'job-id': 'job0', ...args })
      await qmp.waitEvent((e) => e.event === 'JOB_STATUS_CHANGE' && e.data!.status === 'concluded')
      const [{ error }] = await qmp.execute('query-jobs')
      await qmp.execute('job-dismiss', { id: 'job0' })
      return error as string | undefined
    }
    const all = { vmstate: 'n0', devices: ['n0'] }

    const pairs: [DiskMachineKind, DiskMachineKind][] = [
      ['emu-7.2', '7.2'],
      ['7.2', 'emu-7.2'],
      ['emu-10.0', '10.0'],
      ['10.0', 'emu-10.0'],
    ]
    const possible = missing10 ? pairs.filter((pair) => !pair.includes('10.0')) : pairs
    it.each(possible)('%s saves, %s starts from it with -loadvm', async (from, to) => {
      const source = await start(from)
      await lines(source, 4)
      expect(await source.qmp.hmp('savevm kept')).toBe('')
      const saved = source.guest.last!.n
      // The guest goes on, and its disk with it.
      await lines(source, 4)
      await source.verify()
      await source.kill()
      // Whoever is killed leaves leaks at most.
      const left = spawnSync('qemu-img', ['check', '-r', 'leaks', disk], { encoding: 'utf8' })
      expect(left.status, left.stdout + left.stderr).toBe(0)
      expect(stockList()).toMatchObject([{ name: 'kept' }])

      const target = await start(to, ['-loadvm', 'kept'])
      await lines(target, 3)
      // It is the past: what came after the snapshot comes again.
      expect(target.guest.last!.n - target.guest.lines).toBeLessThanOrEqual(saved + 1)
      await target.verify()
      expect(target.guest.problems.filter((p) => !p.includes('timer-early'))).toEqual([])
      // The other program goes on with the image: another snapshot, back to the first, away with it.
      expect(await target.qmp.hmp('savevm second')).toBe('')
      expect(await target.qmp.hmp('loadvm kept')).toBe('')
      // Stock QEMU's mtime does not go back with the guest's clock when it has run before: the guest there is confused.
      if (to.startsWith('emu')) await target.verify()
      expect(await target.qmp.hmp('info snapshots')).toMatch(/--\s+kept[\s\S]*--\s+second/)
      expect(await target.qmp.hmp('delvm kept')).toBe('')
      await target.quit()
      checkDisk()
      expect(stockList().map((s) => s.name)).toEqual(['second'])
    })

    it('jobs: what stock QEMU sends, in its order, and errors in its words', async () => {
      const [ours, theirs] = await Promise.all(
        (['emu-7.2', '7.2'] as const).map(async (kind) => {
          const image = join(folder.path, `${kind}.qcow2`)
          execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, '16M'])
          const machine = await startDiskMachine(kind, { folder: folder.path, kernel, disk: image })
          machines.push(machine)
          await lines(machine, 2)
          const errors = [
            await job(machine, 'snapshot-save', { tag: 'a', ...all }),
            await job(machine, 'snapshot-save', { tag: 'a', ...all }),
            await job(machine, 'snapshot-save', { tag: 'b', vmstate: 'nx', devices: ['n0'] }),
            await job(machine, 'snapshot-save', { tag: 'b', vmstate: 'n0', devices: [] }),
            await job(machine, 'snapshot-load', { tag: 'a', ...all }),
            await job(machine, 'snapshot-delete', { tag: 'a', devices: ['n0'] }),
            await job(machine, 'snapshot-delete', { tag: 'a', devices: ['n0'] }),
          ]
          const refused = async (command: string, args: object) =>
            machine.qmp.execute(command, args).then(
              () => 'done',
              (e: Error) => e.message,
            )
          errors.push(
            await refused('job-dismiss', { id: 'nobody' }),
            await refused('snapshot-save', { 'job-id': 'no id', tag: 'b', ...all }),
          )
          if (kind === 'emu-7.2') await machine.verify()
          return errors
        }),
      )
      expect(ours).toEqual(theirs)
      expect(ours[1]).toMatch(/already exists/)
    })

    it('the events of a job, and what happens to the guest', async () => {
      const machine = await start('emu-7.2')
      await lines(machine, 2)
      machine.qmp.events.length = 0
      await machine.qmp.execute('snapshot-save', { 'job-id': 'j', tag: 'a', ...all })
      await machine.qmp.waitEvent((e) => e.event === 'RESUME')
      const seen: string[] = []
      for (;;) {
        const { data } = await machine.qmp.waitEvent((e) => e.event === 'JOB_STATUS_CHANGE')
        seen.push(data!.status as string)
        if (data!.status === 'concluded') break
      }
      expect(seen).toEqual(['waiting', 'pending', 'concluded'])
      expect(await machine.qmp.execute('query-jobs')).toEqual([
        { id: 'j', type: 'snapshot-save', status: 'concluded', 'current-progress': 1, 'total-progress': 1 },
      ])
      expect(await machine.qmp.execute('query-migrate')).toMatchObject({ status: 'completed' })
      await machine.qmp.hmp('stop')
      await machine.qmp.hmp('loadvm a')
      expect(await machine.qmp.hmp('info status')).toBe('VM status: paused\r\n')
      await machine.qmp.hmp('cont')
      await machine.verify()
    })

    it('a full disk: the old snapshot and the guest stay, the image is whole', async () => {
      const machine = await start('emu-7.2')
      await lines(machine, 3)
      expect(await machine.qmp.hmp('savevm kept')).toBe('')
      await machine.quit()
      const [before] = stockList()
      // The file may grow by much less than a second snapshot takes, whatever the guest has freed until then. `ulimit -f` counts 512 bytes.
      const blocks = Math.floor((statSync(disk).size + before!['vm-state-size'] * 0.1) / 512)
      const socket = join(folder.path, 'full.sock')
      const args = [
        'run',
        '-m',
        '32M',
        '-bios',
        'none',
        '-kernel',
        kernel,
        '-serial',
        'none',
        '-qmp',
        `unix:${socket},server=on`,
      ]
      const drive = [
        '-drive',
        `file=${disk},format=qcow2,if=none,id=hd0`,
        '-device',
        'virtio-blk-pci,drive=hd0,disable-legacy=on',
      ]
      const limited = spawn(
        'sh',
        [
          '-c',
          `ulimit -f ${blocks}; exec "$0" "$@"`,
          process.execPath,
          '--conditions=source',
          '--disable-warning=ExperimentalWarning',
          main,
          ...args,
          ...drive,
          '-loadvm',
          'kept',
        ],
        { stdio: ['ignore', 'ignore', 'inherit'] },
      )
      try {
        const qmp = await QmpClient.connect(socket, 60_000)
        expect(await qmp.hmp('savevm kept')).toMatch(/cannot write .*(too large|EFBIG)/)
        expect(await qmp.hmp('info status')).toBe('VM status: running\r\n')
        expect(await qmp.hmp('savevm other')).toMatch(/cannot write/)
        expect(await qmp.hmp('loadvm kept')).toBe('')
        await qmp.execute('quit').catch(() => {})
        qmp.close()
      } finally {
        limited.kill('SIGKILL')
        await new Promise((done) =>
          limited.exitCode === null && !limited.signalCode ? limited.once('exit', done) : done(0),
        )
      }
      expect(stockList()).toEqual([before])
      checkDisk()
      const again = await start('7.2', ['-loadvm', 'kept'])
      await lines(again, 2)
      await again.verify()
    })

    it('what cannot be saved says why, and the guest goes on', async () => {
      const raw = join(folder.path, 'second.img')
      writeFileSync(raw, '')
      truncateSync(raw, MiB)
      const machine = await start('emu-7.2', [
        '-drive',
        `file=${raw},format=raw,if=none,id=hd1`,
        '-device',
        'virtio-blk-pci,drive=hd1',
      ])
      await lines(machine, 1)
      expect(await machine.qmp.hmp('savevm x')).toMatch(/'hd1'.*qcow2/)
      expect(await machine.qmp.hmp('loadvm nothing')).toMatch(/Error/)
      expect(await machine.qmp.hmp('delvm nothing')).toMatch(/Error/)
      expect(await machine.qmp.hmp('info snapshots')).toBe('There is no snapshot available.\r\n')
      expect(await job(machine, 'snapshot-save', { tag: 'x', ...all })).toBeUndefined()
      execFileSync('qemu-img', ['info', '-U', disk])
      await machine.verify()
      await machine.kill()
      const disks = ['-drive', `file=${raw},format=raw,if=none,id=hd1`, '-device', 'virtio-blk-pci,drive=hd1']
      await expect(start('emu-7.2', [...disks, '-loadvm', 'x'])).rejects.toThrow(/hd1/)
      await expect(start('emu-7.2', ['-loadvm', 'y'])).rejects.toThrow(/Snapshot 'y' does not exist/)
    })

    const moves: [DiskMachineKind, DiskMachineKind][] = [
      ['emu-7.2', 'emu-7.2'],
      ['emu-7.2', '7.2'],
      ['7.2', 'emu-7.2'],
    ]
    it.each(moves)('a guest moves with its image from %s to %s, which locks it', async (from, to) => {
      const source = await start(from)
      await lines(source, 2)
      await source.qmp.hmp('savevm before')
      const target = await start(to, ['-incoming', 'defer'])
      const uri = `unix:${join(folder.path, 'move.sock')}`
      await target.qmp.execute('migrate-incoming', { uri })
      await source.qmp.execute('migrate', { uri })
      await lines(target, 3)
      await target.verify()
      expect((await source.qmp.execute('query-status')).status).toBe('postmigrate')
      expect(spawnSync('qemu-img', ['info', disk]).status).toBe(1)
      expect(await target.qmp.hmp('loadvm before')).toBe('')
      if (to.startsWith('emu')) await target.verify()
      await source.quit()
      await target.quit()
      checkDisk()
    })

    it('a source whose destination fails at the very end has its disk back', async () => {
      const source = await start('emu-7.2', ['-device', 'virtio-rng-pci'])
      await lines(source, 2)
      // It lacks a device, which shows when the disk has been given away already.
      const target = await start('emu-7.2', ['-incoming', 'defer'])
      const uri = `unix:${join(folder.path, 'move.sock')}`
      await target.qmp.execute('migrate-incoming', { uri, 'exit-on-error': false })
      await source.qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] })
      await source.qmp.execute('migrate', { uri })
      const over = ['failed', 'completed', 'cancelled']
      const { data } = await source.qmp.waitEvent(
        (e) => e.event === 'MIGRATION' && over.includes(e.data!.status as string),
      )
      expect(data!.status).toBe('failed')
      await lines(source, 2)
      await source.verify()
      expect(spawnSync('qemu-img', ['info', disk]).status).toBe(1)
      await source.quit()
      checkDisk()
    })
  },
)
