/** Before the first checkpoint of a pair is complete the guest is the primary's, whatever happens to the secondary. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ColoGuardError } from '@ferryvm/colo'
import type { Colo, ColoPrimaryLink } from '@ferryvm/migration'
import { afterAll, describe, expect, it } from 'vitest'
import { createSides, type SidesOptions, until, verdict } from './colo-pair.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferryvm-colo-'))
afterAll(() => rmSync(folder, { recursive: true }))

type Sides = Awaited<ReturnType<typeof createSides>>

const unreadable = async (): Promise<never> => {
  throw new ColoGuardError('pair.json: permission denied')
}

/** A COLO whose primary half is `primary`. */
const replacing = (primary: Colo['primary']): SidesOptions['replaced'] => {
  return (name, colo) => (name === 'first' ? { ...forwarded(colo), primary } : colo)
}
const forwarded = (colo: Colo): Colo => ({
  get status() {
    return colo.status
  },
  prepare: () => colo.prepare(),
  primary: (link) => colo.primary(link),
  secondary: (link) => colo.secondary(link),
  lostHeartbeat: () => colo.lostHeartbeat(),
  stop: () => colo.stop(),
  onExit: (listener) => colo.onExit(listener),
})

const MESSAGE = { request: 1, send: 3 } as const
async function say(link: ColoPrimaryLink, ...ids: number[]): Promise<void> {
  for (const id of ids) link.writer.putBe32(id)
  await link.writer.flush()
}
async function hear(link: ColoPrimaryLink, id: number): Promise<void> {
  await link.reader.fill(4)
  expect(link.reader.getBe32()).toBe(id)
}

async function end({ here, there }: Sides): Promise<void> {
  await here.vm[Symbol.asyncDispose]()
  await there.vm[Symbol.asyncDispose]()
}

describe('a pair that forms', { timeout: 120_000 }, () => {
  it('a primary that cannot set up its guard sends nothing, and its guest runs on', async () => {
    const sides = await createSides(folder, { guarded: true, guards: { first: unreadable } })
    const { here, there, guest } = sides
    await expect(here.vm.migration.start(sides.uri).done).rejects.toMatchObject({ code: 'FERRY_COLO_GUARD' })
    expect(here.vm.machine.runState).toBe('running')
    expect(there.vm.machine.runState).toBe('inmigrate')
    expect(there.vm.migration.status).not.toBe('active')
    await verdict(here.vm, guest)
    await end(sides)
  })

  it('a secondary that cannot set up its guard says so before it has the guest', async () => {
    const sides = await createSides(folder, { guarded: true, guards: { second: unreadable } })
    const { here, there, guest } = sides
    const { done } = here.vm.migration.start(sides.uri)
    await expect(sides.arrived).rejects.toMatchObject({ code: 'FERRY_COLO_GUARD' })
    await expect(done).rejects.toThrow()
    expect(there.vm.machine.runState).toBe('inmigrate')
    await verdict(here.vm, guest)
    await end(sides)
  })

  it('a fence that is taken already is found before the guest is sent', async () => {
    const sides = await createSides(folder, { guarded: true })
    const { here, guest } = sides
    writeFileSync(sides.fence, '')
    await expect(here.vm.migration.start(sides.uri).done).rejects.toThrow(/is there already/)
    rmSync(sides.fence)
    expect(here.vm.migration.status).toBe('failed')
    expect(here.vm.machine.runState).toBe('running')
    // Nothing has reached the secondary, so the same pair may form now.
    here.vm.migration.start(sides.uri)
    await until(() => sides.checkpoints.length >= 3, 'checkpoints are taken')
    await verdict(here.vm, guest)
    await end(sides)
  })

  it('a heartbeat path that cannot be listened on is found before the guest runs there', async () => {
    const sides = await createSides(folder, { guarded: true })
    const { here, guest } = sides
    mkdirSync(join(sides.paths[1]!, 'in-the-way'), { recursive: true })
    const { done } = here.vm.migration.start(sides.uri)
    await expect(sides.arrived).rejects.toMatchObject({
      code: 'FERRY_COLO_GUARD',
      message: expect.stringMatching(/^heartbeat path 2: /),
    })
    await expect(done).rejects.toThrow()
    expect(existsSync(sides.fence)).toBe(false)
    await verdict(here.vm, guest)
    await end(sides)
  })

  it('a primary that rolls back when the secondary is ready keeps the guest: the secondary claims nothing', async () => {
    const primary = async (link: ColoPrimaryLink): Promise<never> => {
      await hear(link, 0)
      throw new Error('changed its mind')
    }
    const sides = await createSides(folder, { guarded: true, replaced: replacing(primary) })
    await secondaryKeepsOut(sides)
  })

  it('a link that breaks within the first checkpoint leaves the guest to the primary', async () => {
    const primary = async (link: ColoPrimaryLink): Promise<never> => {
      await hear(link, 0)
      await say(link, MESSAGE.request)
      await hear(link, 2)
      await say(link, MESSAGE.send)
      await link.sendMemory()
      throw new Error('the link broke')
    }
    const sides = await createSides(folder, { guarded: true, replaced: replacing(primary) })
    await secondaryKeepsOut(sides)
  })

  it('nobody can make a secondary take over before its first checkpoint', async () => {
    const asked = Promise.withResolvers<void>()
    const primary = async (link: ColoPrimaryLink): Promise<never> => {
      await hear(link, 0)
      await asked.promise
      throw new Error('gave up')
    }
    const sides = await createSides(folder, { replaced: replacing(primary) })
    const { done } = sides.here.vm.migration.start(sides.uri)
    done.catch(() => {})
    await until(() => sides.there.control.status.mode === 'secondary', 'the secondary is ready')
    expect(() => sides.there.control.lostHeartbeat()).toThrow(/no checkpoint of this pair is complete/)
    asked.resolve()
    await expect(sides.arrived).rejects.toMatchObject({ code: 'FERRY_COLO_FENCED' })
    await verdict(sides.here.vm, sides.guest)
    await end(sides)
  })

  async function secondaryKeepsOut(sides: Sides): Promise<void> {
    const { here, there, guest } = sides
    await expect(here.vm.migration.start(sides.uri).done).rejects.toThrow()
    await expect(sides.arrived).rejects.toMatchObject({ code: 'FERRY_COLO_FENCED' })
    expect(there.vm.machine.runState).toBe('postmigrate')
    expect(existsSync(sides.fence)).toBe(false)
    await verdict(here.vm, guest)
    await end(sides)
  }
})
