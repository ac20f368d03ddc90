import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { Drive } from '@ferryvm/block/node'
import { createMigration } from '@ferryvm/migration'
import { unix } from '@ferryvm/transport-socket'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createFakeMachine } from '../../../migration/src/testing/fake-machine.ts'
import { loopTransport } from '../../../migration/src/testing/loop-transport.ts'
import { createMonitor } from '../index.ts'

const KiB = 1024
const MiB = 2 ** 20

let folder: string
const closers: (() => Promise<void>)[] = []
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ferry-storage-'))
})
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  rmSync(folder, { recursive: true, force: true })
})
const path = (name: string) => join(folder, name)

/** A machine with one disk, `hd0` with the node `n0`, and a QMP client of its monitor. */
async function setUp(name: string, { bytes = new Uint8Array(4 * MiB), waiting = false } = {}) {
  writeFileSync(path(`${name}.raw`), bytes)
  const drive = await Drive.open(path(`${name}.raw`), { format: 'raw', inactive: waiting })
  const machine = createFakeMachine({ name: 'virt', ramPages: 4 })
  const migration = createMigration({
    machine,
    transports: [loopTransport()],
    blockDevices: [{ name: 'hd0', node: 'n0', backend: drive }],
  })
  if (waiting) migration.defer()
  const drives = [{ device: 'hd0', node: 'n0', drive }]
  const blocks = () => [{ device: 'hd0', file: drive.path, format: drive.format, readOnly: false }]
  const monitor = createMonitor({ machine, migration, blocks, storage: { drives, transports: [unix()] } })
  const toMonitor = new PassThrough()
  const fromMonitor = new PassThrough()
  monitor.attachQmp({ readable: toMonitor, writable: fromMonitor })
  const events: any[] = []
  const replies: ((message: any) => void)[] = []
  let text = ''
  fromMonitor.on('data', (chunk) => {
    const lines = (text + chunk).split('\r\n')
    text = lines.pop()!
    for (const line of lines) {
      const { timestamp: _, ...message } = JSON.parse(line)
      if (message.event) events.push(message)
      else if (!message.QMP) replies.shift()!(message)
    }
  })
  /** @returns what came as "return", or the error's description */
  const call = (execute: string, args?: object): Promise<any> =>
    new Promise((resolve) => {
      replies.push((message) => resolve(message.error ? message.error.desc : message.return))
      toMonitor.write(JSON.stringify({ execute, arguments: args }))
    })
  await call('qmp_capabilities')
  closers.push(async () => {
    await monitor.closeStorage()
    monitor[Symbol.dispose]()
    await migration[Symbol.asyncDispose]()
    await machine[Symbol.asyncDispose]()
    await drive.close().catch(() => {})
  })
  const until = async (found: (event: any) => boolean) => {
    for (let waited = 0; !events.some(found); waited += 2) {
      if (waited > 30_000) throw new Error(`only: ${JSON.stringify(events)}`)
      await delay(2)
    }
  }
  return { call, drive, machine, events, until, contents: () => readFileSync(path(`${name}.raw`)) }
}

const unixAddress = (socket: string) => ({ type: 'unix', data: { path: path(socket) } })
const nbdNode = (socket: string, name = 'disk', exported = 'disk') => ({
  driver: 'nbd',
  'node-name': name,
  server: { type: 'unix', path: path(socket) },
  export: exported,
})
const statuses = (events: any[], id: string) =>
  events.filter((e) => e.event === 'JOB_STATUS_CHANGE' && e.data.id === id).map((e) => e.data.status)
function filled(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(4 * MiB)
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i >> 12) + i
  return bytes
}

/** A destination that exports its disk as `disk`, and a source that has it as a node `disk`. */
async function pair() {
  const destination = await setUp('destination', { waiting: true })
  await destination.call('nbd-server-start', { addr: unixAddress('nbd.sock') })
  const exported = { type: 'nbd', id: 'e0', 'node-name': 'n0', name: 'disk', writable: true }
  expect(await destination.call('block-export-add', exported)).toEqual({})
  const source = await setUp('source', { bytes: filled() })
  expect(await source.call('blockdev-add', nbdNode('nbd.sock'))).toEqual({})
  return { source, destination }
}
const MIRROR = { 'job-id': 'j0', device: 'hd0', target: 'disk', sync: 'full' }
const ready = (e: any) => e.event === 'BLOCK_JOB_READY'
const ended = (e: any) => e.event === 'JOB_STATUS_CHANGE' && e.data.status === 'null'

describe('exports', () => {
  it('are refused as QEMU refuses them', async () => {
    const { call, events } = await setUp('destination', { waiting: true })
    expect(await call('nbd-server-add', { device: 'hd0' })).toBe('NBD server not running')
    expect(await call('nbd-server-stop')).toBe('NBD server not running')
    expect(await call('nbd-server-start', { addr: unixAddress('nbd.sock') })).toEqual({})
    expect(await call('nbd-server-start', { addr: unixAddress('nbd.sock') })).toBe('NBD server already running')
    const e0 = { type: 'nbd', id: 'e0', 'node-name': 'n0', name: 'hd0', writable: true }
    expect(await call('block-export-add', { ...e0, 'node-name': 'nope' })).toBe(
      "Cannot find device='' nor node-name='nope'",
    )
    expect(await call('block-export-add', e0)).toEqual({})
    expect(await call('block-export-add', e0)).toBe("Block export id 'e0' is already in use")
    expect(await call('block-export-add', { ...e0, id: 'e1' })).toBe("NBD server already has export named 'hd0'")
    expect(await call('nbd-server-add', { device: 'hd0', name: 'second', writable: true })).toEqual({})
    expect(await call('query-block-exports')).toEqual([
      { 'node-name': 'n0', 'shutting-down': false, type: 'nbd', id: 'second' },
      { 'node-name': 'n0', 'shutting-down': false, type: 'nbd', id: 'e0' },
    ])
    expect(await call('block-export-del', { id: 'zzz' })).toBe("Export 'zzz' is not found")
    expect(await call('nbd-server-remove', { name: 'second' })).toEqual({})
    expect(await call('nbd-server-stop')).toEqual({})
    expect(await call('query-block-exports')).toEqual([])
    expect(events.map((e) => [e.event, e.data.id])).toEqual([
      ['BLOCK_EXPORT_DELETED', 'second'],
      ['BLOCK_EXPORT_DELETED', 'e0'],
    ])
    expect(existsSync(path('nbd.sock'))).toBe(false)
  })

  it('nobody writes to a disk that a guest uses', async () => {
    const { call, machine, until } = await setUp('used')
    await call('nbd-server-start', { addr: unixAddress('nbd.sock') })
    expect(await call('block-export-add', { type: 'nbd', id: 'e0', 'node-name': 'n0', writable: true })).toBe(
      "Conflicts with use by hd0 as 'root', which does not allow 'write' on n0",
    )
    expect(await call('block-export-add', { type: 'nbd', id: 'e0', 'node-name': 'n0' })).toEqual({})
    const waiting = await setUp('waiting', { waiting: true })
    await waiting.call('nbd-server-start', { addr: unixAddress('other.sock') })
    await waiting.call('block-export-add', { type: 'nbd', id: 'e0', 'node-name': 'n0', writable: true })
    waiting.machine.start()
    await waiting.until((e) => e.event === 'BLOCK_EXPORT_DELETED')
    machine.start()
    await until((e) => e.event === 'RESUME')
    expect(await call('query-block-exports')).toHaveLength(1)
  })
})

describe('a mirror job', () => {
  it('copies, follows what is written, and ends as QEMU says it', async () => {
    const { source, destination } = await pair()
    expect(await source.call('blockdev-add', nbdNode('nbd.sock'))).toBe("Duplicate nodes with node-name='disk'")
    expect(await source.call('blockdev-mirror', { ...MIRROR, target: 'nope' })).toBe(
      "Cannot find device='nope' nor node-name='nope'",
    )
    expect(await source.call('blockdev-mirror', { ...MIRROR, 'job-id': '9' })).toBe("Invalid job ID '9'")
    expect(await source.call('blockdev-mirror', MIRROR)).toEqual({})
    await source.until(ready)
    expect(await source.call('query-block-jobs')).toEqual([
      {
        'auto-finalize': true,
        'io-status': 'ok',
        device: 'j0',
        'auto-dismiss': true,
        busy: false,
        len: 4 * MiB,
        offset: 4 * MiB,
        status: 'ready',
        paused: false,
        speed: 0,
        ready: true,
        type: 'mirror',
        'actively-synced': false,
      },
    ])
    expect(await source.call('query-jobs')).toEqual([
      { 'current-progress': 4 * MiB, status: 'ready', 'total-progress': 4 * MiB, type: 'mirror', id: 'j0' },
    ])
    expect(await source.call('blockdev-del', { 'node-name': 'disk' })).toBe('Node disk is in use')
    expect(await destination.call('block-export-del', { id: 'e0' })).toBe("export 'e0' still in use")
    await source.drive.write(MiB, new Uint8Array(KiB).fill(7))
    await expect(source.drive.inactivate()).rejects.toThrow(/being copied/)
    expect(await source.call('block-job-cancel', { device: 'j0' })).toEqual({})
    await source.until(ended)
    expect(statuses(source.events, 'j0')).toEqual([
      ...['created', 'running', 'ready', 'waiting', 'pending', 'concluded', 'null'],
    ])
    const order = source.events.map((e) => (e.event === 'JOB_STATUS_CHANGE' ? e.data.status : e.event))
    expect(order.slice(-4)).toEqual(['pending', 'BLOCK_JOB_COMPLETED', 'concluded', 'null'])
    expect(source.events.find((e) => e.event === 'BLOCK_JOB_COMPLETED').data).toEqual({
      device: 'j0',
      len: 4 * MiB + 64 * KiB,
      offset: 4 * MiB + 64 * KiB,
      speed: 0,
      type: 'mirror',
    })
    expect(await source.call('blockdev-del', { 'node-name': 'disk' })).toEqual({})
    // Its server may not have seen the client go.
    expect(await destination.call('block-export-del', { id: 'e0', mode: 'hard' })).toEqual({})
    expect(Buffer.compare(source.contents(), destination.contents())).toBe(0)
    expect(source.contents()[MiB]).toBe(7)
  })

  it('is cancelled before it is ready, or by force', async () => {
    const { source } = await pair()
    await source.call('blockdev-mirror', { ...MIRROR, speed: 1, 'auto-dismiss': false })
    expect(await source.call('block-job-complete', { device: 'j0' })).toBe(
      "Job 'j0' in state 'running' cannot accept command verb 'complete'",
    )
    expect(await source.call('block-job-pause', { device: 'j0' })).toEqual({})
    expect(await source.call('block-job-resume', { device: 'j0' })).toEqual({})
    expect(await source.call('block-job-resume', { device: 'j0' })).toBe("Can't resume a job that was not paused")
    expect(await source.call('block-job-cancel', { device: 'j0' })).toEqual({})
    await source.until((e) => e.event === 'BLOCK_JOB_CANCELLED')
    await source.until((e) => e.data.status === 'concluded')
    expect(await source.call('query-jobs')).toMatchObject([
      { id: 'j0', status: 'concluded', error: 'Operation canceled' },
    ])
    expect(await source.call('job-dismiss', { id: 'j0' })).toEqual({})
    expect(statuses(source.events, 'j0')).toEqual([
      ...['created', 'running', 'paused', 'running', 'aborting', 'concluded', 'null'],
    ])
    expect(await source.call('block-job-cancel', { device: 'j0' })).toBe("Block job 'j0' not found")
    await source.call('blockdev-mirror', { ...MIRROR, 'job-id': 'j1' })
    await source.until(ready)
    await source.call('job-cancel', { id: 'j1' })
    await source.until((e) => e.event === 'BLOCK_JOB_CANCELLED' && e.data.device === 'j1')
  })

  it('goes over to the copy, when somebody says so', async () => {
    const { source, destination } = await pair()
    await source.call('blockdev-mirror', { ...MIRROR, 'auto-finalize': false })
    await source.until(ready)
    await source.call('job-complete', { id: 'j0' })
    await source.until((e) => e.event === 'BLOCK_JOB_PENDING')
    const late = source.drive.write(2 * MiB, new Uint8Array(KiB).fill(9)) // waits
    await source.call('job-finalize', { id: 'j0' })
    await source.until(ended)
    await late
    await source.drive.flush()
    expect(source.contents()[2 * MiB]).not.toBe(9)
    expect(destination.contents()[2 * MiB]).toBe(9)
    expect((await source.call('query-block'))[0].inserted).toMatchObject({
      'node-name': 'disk',
      drv: 'nbd',
      file: `nbd+unix:///disk?socket=${path('nbd.sock')}`,
    })
    // Given up and taken back, as in a migration that failed.
    await source.drive.inactivate()
    await expect(source.drive.write(0, new Uint8Array(KiB))).rejects.toThrow()
    await source.drive.activate()
    await source.drive.write(0, new Uint8Array(KiB).fill(8))
    expect(destination.contents()[0]).toBe(8)
  })

  it.each([
    ['the link is cut', 'cut'],
    ['the target is full', 'full'],
  ] as const)('fails when %s; the disk is as it was and works on', async (_, how) => {
    const { source, destination } = await pair()
    const proxy = await cuttingProxy(path('nbd.sock'), path('proxy.sock'))
    await source.call('blockdev-add', nbdNode('proxy.sock', 'far'))
    await source.call('blockdev-mirror', { ...MIRROR, target: 'far', 'auto-dismiss': false })
    await source.until(ready)
    if (how === 'full') {
      destination.drive.write = async () => {
        throw new Error('cannot write', { cause: Object.assign(new Error('no space'), { code: 'ENOSPC' }) })
      }
    } else proxy.cut()
    await source.drive.write(MiB, new Uint8Array(KiB).fill(7))
    await source.until((e) => e.data?.status === 'concluded')
    expect(source.events.filter((e) => e.event.startsWith('BLOCK_JOB_')).map((e) => e.event)).toEqual([
      'BLOCK_JOB_READY',
      'BLOCK_JOB_ERROR',
      'BLOCK_JOB_COMPLETED',
    ])
    expect(source.events.find((e) => e.event === 'BLOCK_JOB_ERROR').data).toEqual({
      device: 'j0',
      operation: 'write',
      action: 'report',
    })
    const [{ error }] = await source.call('query-jobs')
    expect(error).toMatch(how === 'full' ? /ENOSPC/ : /hung up|closed|broke/)
    await source.call('job-dismiss', { id: 'j0' })
    expect(await source.call('blockdev-del', { 'node-name': 'far' })).toEqual({})
    await source.drive.write(MiB, new Uint8Array(KiB).fill(6))
    await source.drive.inactivate()
    expect(source.contents()[MiB]).toBe(6)
  })

  it('ends by yank where the target does not answer any more', async () => {
    const { source } = await pair()
    const proxy = await cuttingProxy(path('nbd.sock'), path('proxy.sock'))
    await source.call('blockdev-add', nbdNode('proxy.sock', 'far'))
    expect(await source.call('query-yank')).toEqual([
      { type: 'block-node', 'node-name': 'disk' },
      { type: 'block-node', 'node-name': 'far' },
    ])
    await source.call('blockdev-mirror', { ...MIRROR, target: 'far' })
    await source.until(ready)
    proxy.hold()
    await source.drive.write(MiB, new Uint8Array(KiB).fill(7))
    await source.call('block-job-cancel', { device: 'j0', force: true })
    expect(await source.call('yank', { instances: [{ type: 'block-node', 'node-name': 'none' }] })).toBe(
      'Instance not found',
    )
    expect(await source.call('yank', { instances: [{ type: 'block-node', 'node-name': 'far' }] })).toEqual({})
    await source.until(ended)
    expect(await source.call('query-yank')).toEqual([{ type: 'block-node', 'node-name': 'disk' }])
    expect(await source.call('blockdev-del', { 'node-name': 'far' })).toEqual({})
  })

  it.each([
    [{ sync: 'incremental' }, "Parameter 'sync' does not accept value 'incremental' here"],
    [{ 'copy-mode': 'write-blocking' }, "Parameter 'copy-mode' does not accept value 'write-blocking' here"],
    [{ granularity: 1000 }, "Parameter 'granularity' expects a power of 2 from 512B to 64MB"],
    [{ device: 'nope' }, "Cannot find device='nope' nor node-name='nope'"],
    [{ device: 'disk', target: 'n0' }, 'Need a root block node'],
    [{ target: 'n0' }, 'Node n0 is in use'],
    [{ what: 1 }, "Parameter 'what' is unexpected"],
  ])('is refused: %o', async (change, why) => {
    const { source } = await pair()
    expect(await source.call('blockdev-mirror', { ...MIRROR, ...change })).toBe(why)
    expect(await source.call('query-jobs')).toEqual([])
    expect(await source.call('blockdev-del', { 'node-name': 'disk' })).toEqual({})
  })

  it('is refused where the target is smaller, or is not there', async () => {
    const { source } = await pair()
    writeFileSync(path('small.raw'), new Uint8Array(MiB))
    const target = { device: 'hd0', sync: 'full', format: 'raw' }
    expect(await source.call('drive-mirror', { ...target, mode: 'existing', target: path('small.raw') })).toMatch(
      /the target has 1048576 bytes/,
    )
    expect(await source.call('drive-mirror', { ...target, mode: 'existing', target: path('none') })).toMatch(/none/)
    const uri = `nbd+unix:///nope?socket=${path('nbd.sock')}`
    expect(await source.call('drive-mirror', { ...target, mode: 'existing', target: uri })).toMatch(/no such export/)
    expect(await source.call('drive-mirror', { ...target, target: uri })).toMatch(/mode=existing/)
    expect((await source.call('query-named-block-nodes')).map((n: any) => n['node-name'])).toEqual(['n0', 'disk'])
  })

  it('drive-mirror makes its target, and lets go of it', async () => {
    const { source } = await pair()
    const target = { device: 'hd0', sync: 'full', format: 'qcow2', target: path('new.qcow2') }
    expect(await source.call('drive-mirror', target)).toEqual({})
    await source.until(ready)
    await source.call('block-job-cancel', { device: 'hd0' })
    await source.until(ended)
    const copy = await Drive.open(path('new.qcow2'))
    const bytes = new Uint8Array(4 * MiB)
    await copy.read(0, bytes)
    await copy.close()
    expect(Buffer.compare(bytes, source.contents())).toBe(0)
  })
})

/** Between an NBD client and its server. */
async function cuttingProxy(to: string, at: string) {
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const target = connect(to)
    for (const socket of [client, target]) {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => sockets.delete(socket))
    }
    client.pipe(target)
    target.pipe(client)
  })
  await new Promise<void>((resolve) => server.listen(at, resolve))
  const cut = () => {
    for (const socket of sockets) socket.destroy()
  }
  closers.push(async () => {
    cut()
    server.close()
  })
  return {
    cut,
    /** Nothing comes through any more. */
    hold() {
      for (const socket of sockets) {
        socket.unpipe()
        socket.pause()
      }
    },
  }
}

describe('dirty bitmaps', () => {
  const on = (name: string, more: object = {}) => ({ node: 'hd0', name, ...more })
  const listed = async ({ call }: Awaited<ReturnType<typeof setUp>>) =>
    (await call('query-block'))[0].inserted['dirty-bitmaps']

  it('say what was written since they were made or cleared, by the name of the drive or of the node', async () => {
    const vm = await setUp('bitmaps')
    const { call, drive } = vm
    expect(await listed(vm)).toBeUndefined()
    expect(await call('block-dirty-bitmap-add', on('a'))).toEqual({})
    expect(await call('block-dirty-bitmap-add', { node: 'n0', name: 'b', granularity: 512, disabled: true })).toEqual(
      {},
    )
    await drive.write(64 * KiB, new Uint8Array(KiB))
    const common = { persistent: false, busy: false }
    const both = [
      { name: 'b', count: 0, granularity: 512, recording: false, ...common },
      { name: 'a', count: 64 * KiB, granularity: 64 * KiB, recording: true, ...common },
    ]
    expect(await listed(vm)).toEqual(both)
    expect((await call('query-named-block-nodes'))[0]['dirty-bitmaps']).toEqual(both)
    // 64 bits with the second set.
    expect(await call('x-debug-block-dirty-bitmap-sha256', on('a'))).toEqual({
      sha256: createHash('sha256')
        .update(Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0))
        .digest('hex'),
    })

    await call('block-dirty-bitmap-disable', on('a'))
    await call('block-dirty-bitmap-enable', on('b'))
    await drive.discard(MiB, KiB)
    await drive.writeZeroes(MiB, 2 * KiB)
    expect((await listed(vm)).map(({ count }: any) => count)).toEqual([2 * KiB, 64 * KiB])
    await call('block-dirty-bitmap-merge', { node: 'n0', target: 'b', bitmaps: ['a', { node: 'hd0', name: 'b' }] })
    expect((await listed(vm)).map(({ count }: any) => count)).toEqual([66 * KiB, 64 * KiB])
    await call('block-dirty-bitmap-clear', on('b'))
    await call('block-dirty-bitmap-remove', on('a'))
    expect((await listed(vm)).map(({ name, count }: any) => [name, count])).toEqual([['b', 0]])
    // They are in no file, and do not keep the disk from being given up.
    await drive.inactivate()
    await drive.activate()
  })

  it.each([
    ['add', on('there'), 'Bitmap already exists: there'],
    ['add', { node: 'hdx', name: 'a' }, "Cannot find device='hdx' nor node-name='hdx'"],
    ['add', on(''), 'Bitmap name cannot be empty'],
    ['add', on('a', { granularity: 1000 }), 'Granularity must be power of 2 and at least 512'],
    ['add', on('a', { granularity: 2 ** 32 }), /'granularity'/],
    [
      'add',
      on('a', { persistent: true }),
      "Can't store persistent bitmaps to hd0: bitmaps in images are not supported",
    ],
    ['remove', on('gone'), "Dirty bitmap 'gone' not found"],
    ['clear', on('busy'), "Bitmap 'busy' is currently in use by another operation and cannot be used"],
    ['merge', { node: 'hd0', target: 'there', bitmaps: ['gone'] }, "Dirty bitmap 'gone' not found"],
    ['merge', { node: 'hd0', target: 'there', bitmaps: ['busy'] }, /in use by another/],
    ['merge', { node: 'hd0', target: 'there', bitmaps: [5] }, /bitmaps/],
  ])('block-dirty-bitmap-%s %o is refused in the words of QEMU', async (name, args, wanted) => {
    const vm = await setUp('refused')
    await vm.call('block-dirty-bitmap-add', on('there'))
    await vm.call('block-dirty-bitmap-add', on('busy'))
    vm.drive.bitmaps.find('busy')!.busy = true
    const before = await listed(vm)
    const said = await vm.call(`block-dirty-bitmap-${name}`, args)
    if (typeof wanted === 'string') expect(said).toBe(wanted)
    else expect(said).toMatch(wanted)
    expect(await listed(vm)).toEqual(before)
  })

  it('are as they were after a migration that failed', async () => {
    const vm = await setUp('failed')
    await vm.call('block-dirty-bitmap-add', on('a'))
    const capabilities = [{ capability: 'dirty-bitmaps', state: true }]
    expect(await vm.call('migrate-set-capabilities', { capabilities })).toEqual({})
    const before = await listed(vm)
    await vm.call('migrate', { uri: 'loop:nobody' })
    while ((await vm.call('query-migrate')).status !== 'failed') await delay(2)
    expect(await listed(vm)).toEqual(before)
    await vm.drive.write(0, new Uint8Array(KiB))
    expect((await listed(vm))[0].count).toBe(64 * KiB)
  })

  it('are mapped by a parameter, which is shown once it is set', async () => {
    const vm = await setUp('mapped')
    expect(await vm.call('query-migrate-parameters')).not.toHaveProperty('block-bitmap-mapping')
    const mapping = [{ 'node-name': 'n0', alias: 'disk', bitmaps: [{ name: 'a', alias: 'sent' }] }]
    expect(await vm.call('migrate-set-parameters', { 'block-bitmap-mapping': mapping })).toEqual({})
    expect((await vm.call('query-migrate-parameters'))['block-bitmap-mapping']).toEqual(mapping)
    const shown = await vm.call('human-monitor-command', { 'command-line': 'info migrate_parameters' })
    expect(shown).toContain("block-bitmap-mapping:\r\n  'n0' -> 'disk'\r\n    'a' -> 'sent'\r\n")
    expect(await vm.call('migrate-set-parameters', { 'block-bitmap-mapping': [...mapping, ...mapping] })).toBe(
      "Invalid mapping given for block-bitmap-mapping: The node name 'n0' is mapped twice",
    )
  })
})
