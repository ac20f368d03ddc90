/** Twins of a running guest: both go on from the same moment, neither sees what the other writes. */
import { createGuestMonitor, embeddedGuestImage, type GuestMonitor } from '@ferryvm/embedded-guest'
import { type ForkMachineOptions, forkMachine } from '@ferryvm/migration'
import { afterEach, describe, expect, it } from 'vitest'
import { createVm, type TestVm } from './harness/vm.ts'

const MiB = 2 ** 20
const kernel = embeddedGuestImage({
  dirtyBytes: 4 * MiB,
  dirtyBytesPerSecond: 8 * MiB,
  lcgStepsPerSecond: 200_000,
  linesPerSecond: 20,
  earlyTimer: true,
})

interface Side {
  readonly vm: TestVm
  readonly guest: GuestMonitor
  /** All that it, and those before it, have printed. */
  readonly text: () => string
}
const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]()
})

async function createSide(before = '', transports?: Parameters<typeof createVm>[0]['migrationOptions']): Promise<Side> {
  const guest = createGuestMonitor()
  let text = before
  if (before) guest.push(before)
  const vm = await createVm({
    kernel,
    ramBytes: 32 * MiB,
    onOutput(more) {
      text += more
      guest.push(more)
    },
    migrationOptions: transports,
  })
  open.push(vm)
  return { vm, guest, text: () => text }
}

const runs = ({ guest }: Side) => {
  const { lines } = guest
  return guest.until((g) => g.lines > lines + 2, 60_000)
}

async function fork(parent: Side, options?: ForkMachineOptions) {
  // What the parent has printed when it is forked is what the twin's guest believes to have printed.
  let printed = ''
  const stopped = parent.vm.machine.on('stop', () => void (printed = parent.text()))
  const make = (point: Parameters<Parameters<typeof forkMachine>[1]>[0]) =>
    createSide(printed, { transports: [point] }).then((side) => ({ ...side, ...side.vm }))
  const { twin, point, done } = await forkMachine(parent.vm.migration, make, options)
  stopped[Symbol.dispose]()
  return { twin, point, done }
}

async function isWhole({ vm, guest }: Side) {
  vm.type('q')
  await guest.until((g) => g.verdicts.length > 0, 60_000)
  expect(guest.problems).toEqual([])
  expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
}

async function startParent(): Promise<Side> {
  const parent = await createSide()
  parent.vm.machine.start()
  await parent.guest.until((g) => g.lines > 3, 60_000)
  return parent
}

describe('fork', { timeout: 120_000 }, () => {
  it('a twin and its parent go on, each with its own memory', async () => {
    const parent = await startParent()
    const { twin } = await fork(parent)
    await Promise.all([runs(parent), runs(twin)])
    expect(parent.vm.machine.runState).toBe('running')
    expect(twin.machine.memory.missing.count).toBeGreaterThan(0)
    await isWhole(parent)
    await isWhole(twin)
  })

  it('ten in a row, and one of a twin that has not all of its memory', async () => {
    const parent = await startParent()
    const twins: Side[] = []
    for (let n = 0; n < 9; n++) twins.push((await fork(parent)).twin)
    await Promise.all(twins.map(runs))
    const { twin: of } = await fork(twins[4]!)
    await runs(of)
    await runs(parent)
    for (const side of [of, ...twins, parent]) await isWhole(side)
  })

  it('a twin that fetches all ends the fork, and outlives its parent', async () => {
    const parent = await startParent()
    const { twin, point, done } = await fork(parent, { prefetch: true, maxKeptBytes: MiB })
    await done
    expect(twin.migration.status).toBe('completed')
    expect([point.closed, point.keptBytes]).toEqual([true, 0])
    await isWhole(parent)
    await parent.vm[Symbol.asyncDispose]()
    await runs(twin)
    await isWhole(twin)
  })

  it('of a machine that stands is one that stands', async () => {
    const parent = await startParent()
    await parent.vm.machine.stop()
    const { twin, done } = await fork(parent, { prefetch: true })
    await done
    expect([parent.vm.machine.runState, twin.machine.runState]).toEqual(['paused', 'paused'])
    twin.machine.start()
    await runs(twin)
    await isWhole(twin)
  })

  it('what fails leaves the parent running, and free', async () => {
    const parent = await startParent()
    const { migration, machine } = parent.vm
    const never = async () => {
      throw new Error('no room for a twin')
    }
    await expect(forkMachine(migration, never)).rejects.toThrow('no room for a twin')
    const other = await createVm({ kernel, ramBytes: 16 * MiB, onOutput() {} })
    open.push(other)
    const point = await migration.fork()
    await runs(parent)
    expect(point.keptBytes).toBeGreaterThan(0)
    point[Symbol.dispose]()
    expect(point.keptBytes).toBe(0)
    await expect(point.readAt(new Uint8Array(1), 0)).rejects.toMatchObject({ code: 'FERRY_FORK' })
    const blocker = machine.sections.block('not today')
    await expect(migration.fork()).rejects.toMatchObject({ code: 'FERRY_MIGRATION_BLOCKED' })
    blocker[Symbol.dispose]()
    expect(machine.runState).toBe('running')
    await expect(other.migration.fork()).rejects.toMatchObject({ code: 'FERRY_MIGRATION_STATE' })
    await isWhole(parent)
  })
})
