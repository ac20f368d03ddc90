/** Postcopy between two machines of ours: devices, monitors and harts that meet memory which is not there yet. */
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import type { MigrationStatus } from '@ferryvm/migration'
import { createMonitor } from '@ferryvm/monitor'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createDisk, createVm, diskBehindIommu, type TestVm } from './harness/vm.ts'
import { scratchFolder } from './stock-qemu/stock-qemu.ts'

const MiB = 2 ** 20
let folder: ReturnType<typeof scratchFolder>
beforeEach(() => {
  folder = scratchFolder()
})
afterEach(() => folder.remove())

interface Move extends AsyncDisposable {
  readonly statuses: { readonly from: MigrationStatus[]; readonly to: MigrationStatus[] }
  readonly from: TestVm
  readonly to: TestVm
  readonly guest: ReturnType<typeof createGuestMonitor>
  readonly sent: Promise<void>
  readonly arrived: Promise<void>
  check(): Promise<void>
}

/** In postcopy-active, with a destination that gets little but what it asks for. */
async function inPostcopy({ harts = 1, order = 'best' as 'best' | 'worst', preempt = false } = {}): Promise<Move> {
  const disk = createDisk(`${folder.path}/disk.img`, 8 * MiB)
  const kernel = embeddedGuestImage({
    dirtyBytes: 16 * MiB,
    dirtyBytesPerSecond: 8 * MiB,
    lcgStepsPerSecond: 200_000,
    linesPerSecond: 20,
  })
  const guest = createGuestMonitor()
  const side = async () => {
    const devices = await diskBehindIommu(disk, { order })
    const vm = await createVm({ kernel, harts, ramBytes: 32 * MiB, devices, onOutput: (text) => guest.push(text) })
    const wanted = ['postcopy-ram', 'postcopy-blocktime', ...(preempt ? ['postcopy-preempt'] : [])]
    vm.migration.setCapabilities(wanted.map((capability) => ({ capability, state: true })))
    vm.migration.setParameters({ 'max-bandwidth': 4 * MiB, 'max-postcopy-bandwidth': MiB / 4 })
    return vm
  }
  const [from, to] = [await side(), await side()]
  const statuses = { from: [] as MigrationStatus[], to: [] as MigrationStatus[] }
  from.migration.on('status', (status) => statuses.from.push(status))
  to.migration.on('status', (status) => statuses.to.push(status))
  from.machine.start()
  await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)
  const { uri, done: arrived } = await to.migration.incoming('tcp:127.0.0.1:0')
  const { done: sent } = from.migration.start(uri)
  from.migration.startPostcopy()
  await until(from, 'postcopy-active')
  return {
    from,
    to,
    guest,
    statuses,
    sent,
    arrived,
    async check() {
      from.migration.setParameters({ 'max-postcopy-bandwidth': 0 })
      await Promise.all([sent, arrived])
      expect(to.machine.memory.missing.count).toBe(0)
      const { lines } = guest
      await guest.until((g) => g.lines > lines + 3, 30_000)
      to.type('q')
      await guest.until((g) => g.verdicts.length > 0, 30_000)
      expect(guest.problems).toEqual([])
      expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
      expect(from.machine.runState).toBe('postmigrate')
    },
    async [Symbol.asyncDispose]() {
      await from[Symbol.asyncDispose]()
      await to[Symbol.asyncDispose]()
    },
  }
}

async function until({ migration }: TestVm, wanted: MigrationStatus): Promise<void> {
  while (migration.status !== wanted) {
    if (migration.status === 'failed') throw migration.error
    await delay(2)
  }
}

describe('a guest whose memory follows it', { timeout: 60_000 }, () => {
  for (const [order, preempt] of [
    ['best', false],
    ['worst', true],
  ] as const) {
    it(`works its disk through VT-d, ${order} order of creation${preempt ? ', with a channel for requests' : ''}`, async () => {
      await using move = await inPostcopy({ order, preempt })
      const { guest, to, from } = move
      const requests = guest.last!.requests
      await guest.until((g) => g.last!.requests > requests + 20, 30_000)
      expect(to.machine.memory.missing.count).toBeGreaterThan(100)
      const info = from.migration.info()
      expect(info.ram!['postcopy-requests']).toBeGreaterThan(5)
      expect(info).toMatchObject({ status: 'postcopy-active', downtime: expect.any(Number) })
      expect(() => from.migration.cancel()).toThrow(/cannot be cancelled/)
      await move.check()
      expect(from.migration.info().ram!['postcopy-bytes']).toBeGreaterThan(MiB)
      expect(move.statuses).toEqual({
        from: ['setup', 'active', 'device', 'postcopy-active', 'completed'],
        to: ['setup', 'active', 'postcopy-active', 'completed'],
      })
      const arrived = to.migration.info()
      expect(arrived['postcopy-blocktime']).toBeGreaterThan(0)
      expect(arrived['postcopy-vcpu-blocktime']).toEqual([arrived['postcopy-blocktime']])
    })
  }

  it('stops, shows memory and goes on while the channel is broken', async () => {
    await using move = await inPostcopy({ harts: 2 })
    const { from, to } = move
    const monitor = createMonitor({ machine: to.machine, migration: to.migration })
    from.migration.pause()
    await Promise.all([until(from, 'postcopy-paused'), until(to, 'postcopy-paused')])
    // Harts that wait for a page stand between two instructions.
    await to.machine.stop('paused')
    // A page that nobody has asked for, as far as the destination has one.
    const { missing, blocks } = to.machine.memory
    const ram = blocks.find(({ idstr }) => idstr === 'riscv_virt_board.ram')!
    const page = [...Array(ram.sizeBytes / 4096).keys()].find((p) => missing.has(ram.offset / 4096 + p))!
    const address = 0x8000_0000 + page * 4096
    let shown: string | undefined
    const showing = monitor.executeHmp(`xp /1xw 0x${address.toString(16)}`).then((text) => {
      shown = text
    })
    await delay(50)
    expect(shown).toBeUndefined()
    expect(() => to.migration.pause()).toThrow(/postcopy-active/)
    const uri = await to.migration.recover('tcp:127.0.0.1:0')
    from.migration.start(uri, { resume: true })
    await showing
    const there = Buffer.from(from.machine.memory.blocks.find((b) => b.idstr === ram.idstr)!.bytes).readUInt32LE(
      page * 4096,
    )
    expect(shown).toContain(`0x${there.toString(16).padStart(8, '0')}`)
    to.machine.start()
    await move.check()
    expect(move.statuses.from.slice(3)).toEqual([
      ...(['postcopy-active', 'postcopy-paused', 'postcopy-recover-setup'] as const),
      ...(['postcopy-recover', 'postcopy-active', 'completed'] as const),
    ])
    expect(move.statuses.to.slice(2)).toEqual([
      ...(['postcopy-active', 'postcopy-paused', 'postcopy-recover', 'postcopy-active', 'completed'] as const),
    ])
  })

  it.each(['from', 'to'] as const)(
    'waits for another channel after a yank at the end it goes %s, and goes on',
    async (end) => {
      await using move = await inPostcopy()
      const { from, to } = move
      const { migration } = move[end]
      expect(migration.connected).toBe(true)
      migration.yank()
      await Promise.all([until(from, 'postcopy-paused'), until(to, 'postcopy-paused')])
      const uri = await to.migration.recover('tcp:127.0.0.1:0')
      from.migration.start(uri, { resume: true })
      await move.check()
    },
  )

  it('is not reached: a yank at the destination before the guest runs there leaves it at the source', async () => {
    const guest = createGuestMonitor()
    const kernel = embeddedGuestImage({ dirtyBytes: 8 * MiB, linesPerSecond: 20 })
    await using from = await createVm({ kernel, ramBytes: 32 * MiB, onOutput: (text) => guest.push(text) })
    await using to = await createVm({ kernel, ramBytes: 32 * MiB, onOutput: (text) => guest.push(text) })
    from.migration.setParameters({ 'max-bandwidth': MiB })
    from.machine.start()
    await guest.until((g) => g.lines > 2, 30_000)
    const { uri, done } = await to.migration.incoming('tcp:127.0.0.1:0')
    const { done: sent } = from.migration.start(uri)
    await Promise.all([until(from, 'active'), until(to, 'active')])
    expect(to.migration.connected).toBe(true)
    to.migration.yank()
    await expect(done).rejects.toMatchObject({ code: 'FERRY_MIGRATION_YANKED' })
    await expect(sent).rejects.toThrow()
    expect(to.migration.connected).toBe(false)
    expect([from.machine.runState, to.machine.runState]).toEqual(['running', 'inmigrate'])
    const { lines } = guest
    await guest.until((g) => g.lines > lines + 3, 30_000)
    expect(guest.problems).toEqual([])
  })

  it('may be moved as ever with the capability on, and refuses what makes no sense then', async () => {
    const guest = createGuestMonitor()
    const kernel = embeddedGuestImage({ dirtyBytes: MiB, linesPerSecond: 20 })
    const side = () => createVm({ kernel, ramBytes: 32 * MiB, onOutput: (text) => guest.push(text) })
    await using from = await side()
    await using to = await side()
    for (const { migration } of [from, to]) {
      expect(() => migration.startPostcopy()).toThrow(/no migration was started/)
      expect(() => migration.pause()).toThrow(/postcopy/)
      expect(() => migration.start('tcp:127.0.0.1:1', { resume: true })).toThrow(/no paused postcopy/)
      await expect(migration.recover('tcp:127.0.0.1:0')).rejects.toThrow(/no paused postcopy/)
      migration.setCapabilities([{ capability: 'postcopy-ram', state: true }])
    }
    from.machine.start()
    await guest.until((g) => g.lines > 2, 30_000)
    const { uri, done } = await to.migration.incoming('tcp:127.0.0.1:0')
    await from.migration.migrate(uri)
    await done
    const { lines } = guest
    await guest.until((g) => g.lines > lines + 3, 30_000)
    expect(guest.problems).toEqual([])
    expect(to.machine.memory.missing.count).toBe(0)
  })

  it('does not run at the source again when that lets go of it', async () => {
    await using move = await inPostcopy()
    const { from, to, sent } = move
    const resumed: string[] = []
    from.machine.on('resume', () => resumed.push('source'))
    from.migration.pause()
    await Promise.all([until(from, 'postcopy-paused'), until(to, 'postcopy-paused')])
    await from.migration[Symbol.asyncDispose]()
    await expect(sent).rejects.toThrow()
    expect([from.machine.runState, resumed]).toEqual(['finish-migrate', []])
  })

  it('is reset while its image is not all there', async () => {
    await using move = await inPostcopy()
    const { from, to, guest } = move
    while (to.machine.runState !== 'running') await delay(2)
    const printed = guest.text.length
    const reset = to.machine.reset()
    from.migration.setParameters({ 'max-postcopy-bandwidth': 0 })
    await reset
    await Promise.all([move.sent, move.arrived])
    // It counts its lines from the start again.
    while (!/^T [12] /m.test(guest.text.slice(printed))) await delay(10)
    expect(to.machine.runState).toBe('running')
    expect(to.machine.memory.missing.count).toBe(0)
  })

  it('a destination that cannot load the device state says so, and the guest goes on at the source', async () => {
    await using move = await inPostcopyWithOtherDevices()
    await expect(move.sent).rejects.toThrow(/failed to load the stream/)
    await expect(move.arrived).rejects.toThrow()
    expect(move.from.machine.runState).toBe('running')
    const { lines } = move.guest
    await move.guest.until((g) => g.lines > lines + 3, 30_000)
    expect(move.guest.problems).toEqual([])
    expect(move.to.machine.runState).toBe('inmigrate')
  })
})

async function inPostcopyWithOtherDevices() {
  const disk = createDisk(`${folder.path}/disk.img`, 8 * MiB)
  const kernel = embeddedGuestImage({ dirtyBytes: 4 * MiB, linesPerSecond: 20 })
  const guest = createGuestMonitor()
  const side = async (withDisk: boolean) => {
    const devices = withDisk ? await diskBehindIommu(disk) : []
    const vm = await createVm({ kernel, ramBytes: 32 * MiB, devices, onOutput: (text) => guest.push(text) })
    vm.migration.setCapabilities([{ capability: 'postcopy-ram', state: true }])
    return vm
  }
  const [from, to] = [await side(true), await side(false)]
  from.machine.start()
  await guest.until((g) => g.lines > 5, 30_000)
  const { uri, done: arrived } = await to.migration.incoming('tcp:127.0.0.1:0')
  from.migration.setParameters({ 'max-bandwidth': 4 * MiB })
  const { done: sent } = from.migration.start(uri)
  from.migration.startPostcopy()
  return {
    from,
    to,
    guest,
    sent,
    arrived,
    async [Symbol.asyncDispose]() {
      await from[Symbol.asyncDispose]()
      await to[Symbol.asyncDispose]()
    },
  }
}
