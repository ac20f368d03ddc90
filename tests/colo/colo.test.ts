/**
 * COLO between two machines of ours in one process: the guest goes on where the last checkpoint stood, and what it had shown
 * to the world by then is on the disk and in its memory.
 */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type CheckpointFacts, type ColoOptions, createColo, heartbeatGuard } from '@ferryvm/colo'
import { lockFileFence } from '@ferryvm/colo/node'
import { type Channel, silentLogger } from '@ferryvm/core'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { unix } from '@ferryvm/transport-socket'
import { afterAll, describe, expect, it } from 'vitest'
import { createDisk, createVm, diskBehindIommu, type TestVm } from '../harness/vm.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferryvm-colo-'))
afterAll(() => rmSync(folder, { recursive: true }))

const kernel = embeddedGuestImage({
  dirtyBytes: 4 * 2 ** 20,
  dirtyBytesPerSecond: 4 * 2 ** 20,
  lcgStepsPerSecond: 200_000,
  linesPerSecond: 20,
})

async function until(what: () => boolean, why: string, timeoutMs = 60_000): Promise<void> {
  for (const end = performance.now() + timeoutMs; !what(); ) {
    if (performance.now() > end) throw new Error(`it did not come to pass that ${why}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

let pairs = 0

/** A pair in COLO, with a guest that has been at it for some checkpoints. */
async function colo(options: { both?: ColoOptions; guarded?: boolean } = {}) {
  const n = ++pairs
  const guest = createGuestMonitor()
  const disk = createDisk(join(folder, `disk-${n}.img`), 8 * 2 ** 20)
  const checkpoints: CheckpointFacts[] = []
  const exits: string[] = []
  const channels: Channel[] = []
  const paths = [1, 2].map((path) => join(folder, `hb-${n}-${path}.sock`))
  const session = randomBytes(16).toString('hex')
  const keep = (channel: Channel) => {
    channels.push(channel)
    return channel
  }
  const side = async (name: string) => {
    const guard = () =>
      heartbeatGuard({
        paths: paths.map((path) => ({ transport: unix(), address: unix().parseAddress(path) })),
        session,
        fence: lockFileFence(join(folder, `fence-${n}`)),
      })
    const control = createColo({
      ...options.both,
      guard: options.guarded ? guard : undefined,
      onCheckpoint: (facts) => void checkpoints.push(facts),
    })
    control.onExit(({ mode, reason }) => exits.push(`${name}: ${mode} ${reason}`))
    const vm = await createVm({
      kernel,
      ramBytes: 32 * 2 ** 20,
      devices: await diskBehindIommu(disk),
      onOutput: (text) => guest.push(text),
      migrationOptions: {
        colo: control,
        channelLayers: () => [{ name: 'kept', wrap: async (channel) => keep(channel) }],
      },
    })
    vm.migration.setCapabilities([{ capability: 'x-colo', state: true }])
    vm.migration.setParameters({ 'x-checkpoint-delay': 30 })
    return { vm, control }
  }
  const [here, there] = [await side('first'), await side('second')]
  const incoming = await there.vm.migration.incoming('tcp:127.0.0.1:0')
  here.vm.machine.start()
  await guest.until((g) => (g.last?.requests ?? 0) > 10, 60_000)
  const { done } = here.vm.migration.start(incoming.uri)
  await until(() => checkpoints.length >= 5, 'five checkpoints were taken')
  const cut = () => {
    for (const channel of channels) void channel.close(new Error('the link was cut'))
  }
  return { here, there, guest, checkpoints, exits, cut, paths, arrived: incoming.done, left: done }
}

async function verdict(vm: TestVm, guest: ReturnType<typeof createGuestMonitor>): Promise<void> {
  const lines = guest.lines
  await guest.until((g) => g.lines > lines + 5, 60_000)
  vm.type('q')
  await guest.until((g) => g.verdicts.length > 0, 60_000)
  expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
  expect(guest.problems).toEqual([])
  expect(guest.verdicts[0]!.lines).toBe(guest.lines)
}

describe('COLO', { timeout: 180_000 }, () => {
  it.each([false, true])(
    'a secondary takes over where the last checkpoint stood (its guest runs meanwhile: %s)',
    async (secondaryRuns) => {
      const { here, there, guest, exits, arrived } = await colo({ both: { secondaryRuns } })
      expect([here.control.status, there.control.status]).toEqual([
        { mode: 'primary', lastMode: 'none', reason: 'none' },
        { mode: 'secondary', lastMode: 'none', reason: 'none' },
      ])
      expect([here.vm.migration.status, there.vm.migration.status]).toEqual(['colo', 'colo'])
      // The primary is gone between one moment and the next.
      await here.vm[Symbol.asyncDispose]()
      await until(() => exits.includes('second: secondary error'), 'the secondary reported it')
      there.control.lostHeartbeat()
      await arrived
      expect(there.vm.migration.status).toBe('completed')
      expect(there.control.status).toEqual({ mode: 'none', lastMode: 'secondary', reason: 'request' })
      await verdict(there.vm, guest)
      await there.vm[Symbol.asyncDispose]()
    },
  )

  it('a primary whose secondary is gone lets out what it held, and goes on', async () => {
    const { here, there, guest, exits, left } = await colo()
    await there.vm[Symbol.asyncDispose]()
    await until(() => exits.includes('first: primary error'), 'the primary reported it')
    here.control.lostHeartbeat()
    await left
    expect(here.vm.migration.status).toBe('completed')
    expect(() => here.control.lostHeartbeat()).toThrow(/not in COLO/)
    await verdict(here.vm, guest)
    await here.vm[Symbol.asyncDispose]()
  })

  it('a guest that is ended on purpose is not brought back', async () => {
    const { here, there, arrived, exits } = await colo({ guarded: true })
    await here.vm[Symbol.asyncDispose]()
    await expect(arrived).rejects.toMatchObject({ code: 'FERRY_COLO_FENCED' })
    expect(there.vm.machine.runState).toBe('postmigrate')
    expect(exits).toEqual(['second: secondary error'])
    await there.vm[Symbol.asyncDispose]()
  })

  it('of two sides that live and lose only the channel between them, the primary goes on', async () => {
    const { here, there, guest, cut, arrived, left, exits } = await colo({ guarded: true })
    cut()
    await left
    await expect(arrived).rejects.toMatchObject({ code: 'FERRY_COLO_FENCED' })
    expect(exits.toSorted()).toEqual(['first: primary request', 'second: secondary error'])
    expect(there.vm.machine.runState).toBe('postmigrate')
    await there.vm[Symbol.asyncDispose]()
    await verdict(here.vm, guest)
    await here.vm[Symbol.asyncDispose]()
  })

  it('one heartbeat path of two may be lost, and a stranger on it is nobody', async () => {
    const { here, there, checkpoints, paths, exits } = await colo({ guarded: true })
    const [first] = paths
    const stranger = await unix().connect(unix().parseAddress(first!), {
      signal: AbortSignal.timeout(10_000),
      log: silentLogger,
    })
    await stranger.write([new Uint8Array(22)])
    expect(await stranger.read(new Uint8Array(1))).toBe(0)
    rmSync(first!) // nobody can connect there any more
    const seen = checkpoints.length
    await until(() => checkpoints.length > seen + 30, 'checkpoints went on')
    expect(exits).toEqual([])
    expect(here.vm.migration.status).toBe('colo')
    await here.vm[Symbol.asyncDispose]()
    await there.vm[Symbol.asyncDispose]()
  })
})
