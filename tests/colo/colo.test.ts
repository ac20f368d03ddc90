/**
 * COLO between two machines of ours in one process: the guest goes on where the last checkpoint stood, and what it had shown
 * to the world by then is on the disk and in its memory.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLogger } from '@ferryvm/core'
import { unix } from '@ferryvm/transport-socket'
import { afterAll, describe, expect, it } from 'vitest'
import { createPair, until, verdict } from './colo-pair.ts'
import { Relay } from './relay.ts'

const folder = mkdtempSync(join(tmpdir(), 'ferryvm-colo-'))
afterAll(() => rmSync(folder, { recursive: true }))

describe('COLO', { timeout: 180_000 }, () => {
  it.each([false, true])(
    'a secondary takes over where the last checkpoint stood (its guest runs meanwhile: %s)',
    async (secondaryRuns) => {
      const { here, there, guest, exits, arrived } = await createPair(folder, { both: { secondaryRuns } })
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
    const { here, there, guest, exits, left } = await createPair(folder)
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
    const { here, there, arrived, exits } = await createPair(folder, { guarded: true })
    await here.vm[Symbol.asyncDispose]()
    await expect(arrived).rejects.toMatchObject({ code: 'FERRY_COLO_FENCED' })
    expect(there.vm.machine.runState).toBe('postmigrate')
    expect(exits).toEqual(['second: secondary error'])
    await there.vm[Symbol.asyncDispose]()
  })

  it('of two sides that live and lose only the channel between them, the primary goes on', async () => {
    const { here, there, guest, cut, arrived, left, exits } = await createPair(folder, { guarded: true })
    cut()
    await left
    await expect(arrived).rejects.toMatchObject({ code: 'FERRY_COLO_FENCED' })
    expect(exits.toSorted()).toEqual(['first: primary request', 'second: secondary error'])
    expect(there.vm.machine.runState).toBe('postmigrate')
    await there.vm[Symbol.asyncDispose]()
    await verdict(here.vm, guest)
    await here.vm[Symbol.asyncDispose]()
  })

  it('a link that falls silent while both sides live ends the pair, and the primary goes on', async () => {
    let relay!: Relay
    const { here, there, guest, arrived, left } = await createPair(folder, {
      guarded: true,
      both: { answerTimeoutMs: 3000 },
      async via(uri) {
        relay = await Relay.open(join(folder, 'silent.sock'), Number(uri.split(':').at(-1)))
        return `unix:${relay.path}`
      },
    })
    relay.stall()
    await left
    // The secondary has heard nothing yet: it is the heartbeat that ends.
    await expect(arrived).rejects.toMatchObject({ code: 'FERRY_COLO_FENCED' })
    relay.close()
    await there.vm[Symbol.asyncDispose]()
    await verdict(here.vm, guest)
    await here.vm[Symbol.asyncDispose]()
  })

  it('one heartbeat path of two may be lost, and a stranger on it is nobody', async () => {
    const { here, there, checkpoints, paths, exits } = await createPair(folder, { guarded: true })
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
