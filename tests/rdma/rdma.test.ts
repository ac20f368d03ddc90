/** Guests over `rdma:`, within one process and between two, and what the protocol's arithmetic says that they cost. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { type Fabric, inProcessFabric, rdma, socketFabric, softwareDevice } from '@ferryvm/transport-rdma-sim'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { observed, predict, zeroInLog, zeroNow } from '../../packages/transport-rdma-sim/src/testing/traffic-model.ts'
import { tally, wireLog } from '../../packages/transport-rdma-sim/src/testing/wire-log.ts'
import { buildLinuxInitramfs, findLinuxGuest, linuxGuestMissing } from '../../tooling/guest/linux-guest.ts'
import { createLinuxWorkloadMonitor, linuxWorkload } from '../../tooling/guest/linux-workload.ts'
import { type EmuProcess, emu } from '../harness/emu.ts'
import { createDisk, createVm, diskBehindIommu, type TestVm, type TestVmOptions } from '../harness/vm.ts'
import { speakQmp } from '../stock-qemu/stock-qemu.ts'
import { embeddedGuest } from './fault-guests.ts'
import { randomFaultRun } from './random-faults.ts'

const MiB = 2 ** 20
const FABRICS = [
  ['in-process', inProcessFabric],
  ['socket', socketFabric],
] as const
const linux = findLinuxGuest()
const noLinux = linuxGuestMissing() ?? (linux?.opensbi ? undefined : 'no OpenSBI firmware (package opensbi)')
if (noLinux) console.warn(`skipped: ${noLinux}`)
const required = Boolean(process.env.FERRY_REQUIRE_QEMU)

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ferryvm-rdma-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

/** A machine of this process whose rdma goes over `fabric`, and what is asked of it. */
async function vmOver(fabric: Fabric, options: TestVmOptions) {
  const { transport, asked } = observed(rdma({ device: softwareDevice(fabric) }))
  const vm = await createVm({ ...options, migrationOptions: { transports: [transport] } })
  return { vm, asked }
}
type Side = Awaited<ReturnType<typeof vmOver>>

/** Moves the guest and compares the traffic with what the arithmetic gives. */
async function moveAndCompare(
  from: Side,
  to: Side,
  log: ReturnType<typeof wireLog>,
  options: { pinAll?: boolean; stopped?: boolean } = {},
): Promise<void> {
  const { pinAll = false, stopped = false } = options
  log.entries.length = 0
  if (stopped) await from.vm.machine.stop()
  from.vm.migration.setCapabilities([{ capability: 'rdma-pin-all', state: pinAll }])
  const { uri, done } = await to.vm.migration.incoming('rdma:127.0.0.1:0')
  await Promise.all([from.vm.migration.migrate(uri), done])
  const asked = { ...from.asked, answers: to.asked.answers }
  const zero = stopped ? zeroNow : zeroInLog(log.entries)
  expect(tally(log.entries)).toEqual(predict(asked, pinAll, zero))
  const total = from.vm.migration.info().ram!.total
  const pages = asked.phases.flatMap((phase) => phase.pages)
  expect(new Set(pages.map(({ block, offset }) => `${block.idstr} ${offset}`)).size * 4096).toBe(total)
  if (!stopped) return
  expect(pages.length * 4096, 'each page once').toBe(total)
  to.vm.machine.start()
}

describe.each(FABRICS)('over the %s fabric', (_, make) => {
  it('the embedded guest moves as it runs, then as it stands, and costs what the arithmetic says', {
    timeout: 120_000,
  }, async () => {
    const kernel = embeddedGuestImage({
      dirtyBytes: 4 * MiB,
      dirtyBytesPerSecond: 4 * MiB,
      lcgStepsPerSecond: 200_000,
      linesPerSecond: 20,
    })
    const disk = createDisk(join(folder, 'disk.img'), 8 * MiB)
    const guest = createGuestMonitor()
    const log = wireLog(make())
    const side = async () =>
      vmOver(log.fabric, {
        kernel,
        ramBytes: 32 * MiB,
        devices: await diskBehindIommu(disk),
        onOutput: (text) => guest.push(text),
      })
    let here = await side()
    const open: TestVm[] = [here.vm]
    try {
      here.vm.machine.start()
      await guest.until((g) => (g.last?.requests ?? 0) > 10, 30_000)
      for (const options of [{}, { pinAll: true }, { stopped: true }, { stopped: true, pinAll: true }]) {
        const there = await side()
        open.push(there.vm)
        await moveAndCompare(here, there, log, options)
        here = there
        const { lines } = guest
        await guest.until((g) => g.lines > lines + 3, 30_000)
        expect(guest.problems).toEqual([])
      }
      here.vm.type('q')
      await guest.until((g) => g.verdicts.length > 0, 60_000)
      expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
    } finally {
      for (const vm of open) await vm[Symbol.asyncDispose]()
    }
  })

  it('the embedded guest goes before its memory: what is left travels in the stream', { timeout: 60_000 }, async () => {
    const guest = createGuestMonitor()
    const kernel = embeddedGuestImage({ dirtyBytes: 16 * MiB, dirtyBytesPerSecond: 8 * MiB, linesPerSecond: 20 })
    const log = wireLog(make())
    const side = () => vmOver(log.fabric, { kernel, ramBytes: 32 * MiB, onOutput: (text) => guest.push(text) })
    const [from, to] = [(await side()).vm, (await side()).vm]
    try {
      for (const { migration } of [from, to]) {
        migration.setCapabilities([{ capability: 'postcopy-ram', state: true }])
        migration.setParameters({ 'max-bandwidth': 4 * MiB })
      }
      from.machine.start()
      await guest.until((g) => g.lines > 10, 30_000)
      const { uri, done } = await to.migration.incoming('rdma:127.0.0.1:0')
      const sent = from.migration.start(uri)
      from.migration.startPostcopy()
      await Promise.all([sent.done, done])
      expect(from.migration.info().ram!['postcopy-bytes']).toBeGreaterThan(MiB)
      expect(tally(log.entries).QEMU_FILE!.bytes).toBeGreaterThan(MiB)
      const { lines } = guest
      await guest.until((g) => g.lines > lines + 3, 30_000)
      to.type('q')
      await guest.until((g) => g.verdicts.length > 0, 30_000)
      expect(guest.problems).toEqual([])
      expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
    } finally {
      await Promise.all([from[Symbol.asyncDispose](), to[Symbol.asyncDispose]()])
    }
  })

  it.skipIf(noLinux && !required)(
    'Linux moves under load, and costs what the arithmetic says',
    { timeout: 300_000 },
    async () => {
      const workload = createLinuxWorkloadMonitor()
      const log = wireLog(make())
      const side = () =>
        vmOver(log.fabric, {
          bios: readFileSync(linux!.opensbi!),
          kernel: readFileSync(linux!.kernel),
          initrd: buildLinuxInitramfs(linux!, { initScript: linuxWorkload() }),
          append: 'console=ttyS0 quiet',
          ramBytes: 128 * MiB,
          onOutput: (text) => workload.push(text),
        })
      const here = await side()
      const there = await side()
      try {
        here.vm.machine.start()
        await workload.until((w) => w.rounds > 2, 180_000)
        await moveAndCompare(here, there, log)
        await here.vm[Symbol.asyncDispose]()
        const { rounds } = workload
        await workload.until((w) => w.rounds > rounds + 1, 60_000)
        there.vm.type('q\n')
        await workload.until((w) => w.verdict !== undefined, 120_000)
        expect(workload.problems).toEqual([])
        expect(workload.verdict).toMatchObject({ ok: true })
      } finally {
        await Promise.all([here.vm[Symbol.asyncDispose](), there.vm[Symbol.asyncDispose]()])
      }
    },
  )
})

describe('between two processes', () => {
  interface Process extends EmuProcess {
    qmp(execute: string, parameters?: Record<string, unknown>): Promise<any>
  }
  const running: Process[] = []
  afterEach(async () => {
    for (const { child } of running) child.kill('SIGKILL')
    await Promise.all(running.splice(0).map(({ exited }) => exited))
  })

  async function start(args: readonly string[], onOutput: (text: string) => void): Promise<Process> {
    const socket = join(folder, `qmp${running.length}`)
    const started = emu(
      ['run', '-serial', 'stdio', '-monitor', 'none', '-qmp', `unix:${socket},server=on`, ...args],
      folder,
    )
    started.child.stdout!.on('data', onOutput)
    const dead = () => started.child.exitCode !== null
    await expect.poll(() => existsSync(socket) || dead(), { timeout: 30_000 }).toBe(true)
    const connection = connect(socket)
    await new Promise((resolve, reject) => connection.once('connect', resolve).once('error', reject))
    const qmp = speakQmp(connection)
    await qmp('qmp_capabilities')
    const process = { ...started, qmp }
    running.push(process)
    return process
  }

  async function move(from: Process, to: Process): Promise<any> {
    const [address] = (await to.qmp('query-migrate'))['socket-address']
    const addr = { transport: 'rdma', host: address.host, port: address.port }
    await from.qmp('migrate', { channels: [{ 'channel-type': 'main', addr }] })
    for (;;) {
      const info = await from.qmp('query-migrate')
      if (['completed', 'failed', 'cancelled'].includes(info.status)) return info
      await delay(10)
    }
  }
  const incoming = ['-incoming', 'rdma:127.0.0.1:0']

  it('the embedded guest goes there and back, with and without pin-all; a cut leaves it where it is', {
    timeout: 120_000,
  }, async () => {
    const disk = createDisk(join(folder, 'disk.img'), 4 * MiB)
    const args = [
      ...['-m', '32M', '-guest', 'dirtyBytes=4M,dirtyBytesPerSecond=4M,lcgStepsPerSecond=200000,linesPerSecond=20'],
      ...['-drive', `file=${disk},if=none,id=d,format=raw`, '-device', 'virtio-blk-pci,drive=d'],
    ]
    const guest = createGuestMonitor()
    const push = (text: string) => guest.push(text)
    const goesOn = async () => {
      const { lines } = guest
      await guest.until((g) => g.lines > lines + 3, 30_000)
      expect(guest.problems).toEqual([])
    }
    let here = await start(args, push)
    await guest.until((g) => (g.last?.requests ?? 0) > 10, 30_000)
    for (const state of [false, true]) {
      const there = await start([...args, ...incoming], push)
      await here.qmp('migrate-set-capabilities', { capabilities: [{ capability: 'rdma-pin-all', state }] })
      const info = await move(here, there)
      expect(info, here.out.stderr).toMatchObject({ status: 'completed' })
      expect(info.ram.duplicate > 0).toBe(!state)
      await here.qmp('quit')
      here = there
      await goesOn()
    }
    // The destination is killed in the middle: the source notices, and its guest runs on.
    const doomed = await start([...args, ...incoming], push)
    await here.qmp('migrate-set-parameters', { 'max-bandwidth': 2 * MiB })
    const moved = move(here, doomed)
    await expect.poll(async () => (await here.qmp('query-migrate')).status, { timeout: 20_000 }).toBe('active')
    doomed.child.kill('SIGKILL')
    expect(await moved).toMatchObject({ status: 'failed', 'error-desc': expect.stringMatching(/rdma|connection/) })
    await goesOn()
    here.type('q')
    await guest.until((g) => g.verdicts.length > 0, 30_000)
    expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
  })

  it.skipIf(noLinux && !required)('Linux moves under load', { timeout: 300_000 }, async () => {
    const initrd = join(folder, 'initrd.gz')
    writeFileSync(initrd, buildLinuxInitramfs(linux!, { initScript: linuxWorkload() }))
    const args = ['-m', '128M', '-bios', linux!.opensbi!, '-kernel', linux!.kernel, '-initrd', initrd]
    args.push('-append', 'console=ttyS0 quiet')
    const workload = createLinuxWorkloadMonitor()
    const push = (text: string) => workload.push(text)
    const here = await start(args, push)
    const there = await start([...args, ...incoming], push)
    await workload.until((w) => w.rounds > 2, 180_000)
    expect(await move(here, there), here.out.stderr).toMatchObject({ status: 'completed' })
    const { rounds } = workload
    await workload.until((w) => w.rounds > rounds + 1, 60_000)
    there.type('q\n')
    await workload.until((w) => w.verdict !== undefined, 120_000)
    expect(workload.problems).toEqual([])
    expect(workload.verdict).toMatchObject({ ok: true })
  })
})

it('four random faults leave a running guest whole, at the source or at the destination', {
  timeout: 300_000,
}, async () => {
  // `pnpm rdma:faults --guest=embedded` takes more of them.
  for (let i = 0; i < 4; i++) {
    await randomFaultRun(i % 2 ? socketFabric : inProcessFabric, 7100 + i, () => embeddedGuest(folder))
  }
})

it('sixteen random faults have the outcome that the protocol prescribes', { timeout: 120_000 }, async () => {
  // `pnpm rdma:faults` takes more of them.
  const runs = []
  for (let i = 0; i < 16; i++) runs.push(await randomFaultRun(i % 2 ? socketFabric : inProcessFabric, 7000 + i))
  expect(runs.every(({ fired }) => fired)).toBe(true)
  expect(new Set(runs.map(({ outcome }) => outcome))).toEqual(new Set(['completed', 'failed']))
})
