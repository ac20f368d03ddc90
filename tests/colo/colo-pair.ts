/** Two machines of ours in one process, and COLO between them. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { type CheckpointFacts, type ColoOptions, createColo, heartbeatGuard } from '@ferryvm/colo'
import { lockFileFence } from '@ferryvm/colo/node'
import type { Channel } from '@ferryvm/core'
import { createGuestMonitor, embeddedGuestImage, type GuestMonitor } from '@ferryvm/embedded-guest'
import type { Colo } from '@ferryvm/migration'
import { unix } from '@ferryvm/transport-socket'
import { expect } from 'vitest'
import { createDisk, createVm, diskBehindIommu, type TestVm } from '../harness/vm.ts'

const kernel = embeddedGuestImage({
  dirtyBytes: 4 * 2 ** 20,
  dirtyBytesPerSecond: 4 * 2 ** 20,
  lcgStepsPerSecond: 200_000,
  linesPerSecond: 20,
})

export async function until(what: () => boolean, why: string, timeoutMs = 60_000): Promise<void> {
  for (const end = performance.now() + timeoutMs; !what(); ) {
    if (performance.now() > end) throw new Error(`it did not come to pass that ${why}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

export interface SidesOptions {
  /** Of both sides. */
  readonly both?: ColoOptions
  readonly guarded?: boolean
  /** A guard of one side's own. */
  readonly guards?: { readonly first?: ColoOptions['guard']; readonly second?: ColoOptions['guard'] }
  /** Puts something else in the place of a side's COLO. */
  readonly replaced?: (name: Name, colo: Colo) => Colo
  /** Of the second machine; the first has 32 MiB. */
  readonly secondRamBytes?: number
  /** Default true. */
  readonly secondKnowsColo?: boolean
}
type Name = 'first' | 'second'

let pairs = 0

/** Two machines; in the first a guest has been at work for a while, the second waits for it at `uri`. */
export async function createSides(folder: string, options: SidesOptions = {}) {
  const n = ++pairs
  const guest = createGuestMonitor()
  const disk = createDisk(join(folder, `disk-${n}.img`), 8 * 2 ** 20)
  const checkpoints: CheckpointFacts[] = []
  const exits: string[] = []
  const channels: Channel[] = []
  const paths = [1, 2].map((path) => join(folder, `hb-${n}-${path}.sock`))
  const fence = join(folder, `fence-${n}`)
  const session = randomBytes(16).toString('hex')
  const keep = (channel: Channel) => {
    channels.push(channel)
    return channel
  }
  const guard = () =>
    heartbeatGuard({
      paths: paths.map((path) => ({ transport: unix(), address: unix().parseAddress(path) })),
      session,
      fence: lockFileFence(fence),
    })
  const side = async (name: Name) => {
    const control = createColo({
      ...options.both,
      guard: options.guards?.[name] ?? (options.guarded ? guard : undefined),
      onCheckpoint: (facts) => void checkpoints.push(facts),
    })
    control.onExit(({ mode, reason }) => exits.push(`${name}: ${mode} ${reason}`))
    const vm = await createVm({
      kernel,
      ramBytes: (name === 'second' && options.secondRamBytes) || 32 * 2 ** 20,
      devices: await diskBehindIommu(disk),
      onOutput: (text) => guest.push(text),
      migrationOptions: {
        colo: options.replaced?.(name, control) ?? control,
        channelLayers: () => [{ name: 'kept', wrap: async (channel) => keep(channel) }],
      },
    })
    const state = name === 'first' || (options.secondKnowsColo ?? true)
    vm.migration.setCapabilities([{ capability: 'x-colo', state }])
    vm.migration.setParameters({ 'x-checkpoint-delay': 30 })
    return { vm, control }
  }
  const [here, there] = [await side('first'), await side('second')]
  const { uri, done: arrived } = await there.vm.migration.incoming('tcp:127.0.0.1:0')
  here.vm.machine.start()
  await guest.until((g) => (g.last?.requests ?? 0) > 10, 60_000)
  const cut = () => {
    for (const channel of channels) void channel.close(new Error('the link was cut'))
  }
  return { here, there, guest, checkpoints, exits, cut, paths, fence, uri, arrived }
}

/** A pair in COLO, with a guest that has been at it for some checkpoints. */
export async function createPair(
  folder: string,
  options: SidesOptions & { via?: (uri: string) => Promise<string> } = {},
) {
  const sides = await createSides(folder, options)
  const { done: left } = sides.here.vm.migration.start((await options.via?.(sides.uri)) ?? sides.uri)
  await until(() => sides.checkpoints.length >= 5, 'five checkpoints were taken')
  return { ...sides, left }
}

/** The guest goes on in `vm`, and has lost nothing. */
export async function verdict(vm: TestVm, guest: GuestMonitor): Promise<void> {
  const lines = guest.lines
  await guest.until((g) => g.lines > lines + 5, 60_000)
  vm.type('q')
  await guest.until((g) => g.verdicts.length > 0, 60_000)
  expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
  expect(guest.problems).toEqual([])
  expect(guest.verdicts[0]!.lines).toBe(guest.lines)
}
