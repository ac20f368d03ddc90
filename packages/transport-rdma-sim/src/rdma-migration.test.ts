import { createMigration, type Migration } from '@ferryvm/migration'
import { describe, expect, it } from 'vitest'
import { createFakeMachine, type FakeMachine } from '../../migration/src/testing/fake-machine.ts'
import { type RdmaOptions, rdma } from './rdma.ts'
import { softwareDevice } from './software/software-device.ts'
import { observed, predict, zeroInLog, zeroNow } from './testing/traffic-model.ts'
import { FABRICS } from './testing/verbs-pair-testing.ts'
import { tally, wireLog } from './testing/wire-log.ts'

interface Pair {
  readonly a: FakeMachine
  readonly b: FakeMachine
  readonly from: Migration
  readonly to: Migration
}

const PAGES = 1200 // a last chunk that is no whole one

describe.each(FABRICS)('a migration over rdma on the %s fabric', (_, make) => {
  function pair(options: RdmaOptions = {}) {
    const log = wireLog(make())
    const [near, far] = [softwareDevice(log.fabric), softwareDevice(log.fabric)]
    const [a, b] = [0, 1].map(() => createFakeMachine({ ramPages: PAGES })) as [FakeMachine, FakeMachine]
    const source = observed(rdma({ device: near, ...options }))
    const destination = observed(rdma({ device: far, ...options }))
    const from = createMigration({ machine: a, transports: [source.transport] })
    const to = createMigration({ machine: b, transports: [destination.transport] })
    const asked = { ...source.asked, answers: destination.asked.answers }
    return { a, b, from, to, log, asked }
  }
  async function move({ from, to }: Pair): Promise<void> {
    const { uri, done } = await to.incoming('rdma:127.0.0.1:0')
    await Promise.all([from.migrate(uri), done])
  }

  it.each([
    { name: 'chunk by chunk', options: {} },
    { name: 'with unregistration', options: { unregister: true } },
    { name: 'all pinned', options: { pinAll: true } },
    { name: 'one way', options: { returnPath: false } },
  ])('brings a running guest over, $name', async ({ options }) => {
    const pair_ = pair(options)
    const { a, b, from, log } = pair_
    a.start()
    await move(pair_)
    expect(b.runState).toBe('running')
    await b.stop()
    expect(b.wrongPages()).toEqual([])
    expect(b.ticks).toBeGreaterThan(0n)
    const seen = tally(log.entries)
    const total = from.info().ram!.total
    expect(seen.WRITE!.bytes).toBeGreaterThan(0)
    expect(from.info().ram!.transferred, 'what went beside the stream counts').toBeGreaterThanOrEqual(seen.WRITE!.bytes)
    expect(seen.QEMU_FILE!.bytes, 'no page is in the stream').toBeLessThan(total / 50)
    const { returnPath, pinAll } = options as RdmaOptions
    expect(new Set(log.entries.map(({ connection }) => connection)).size).toBe(returnPath === false ? 1 : 2)
    expect(seen.REGISTER_REQUEST === undefined).toBe(pinAll === true)
    if (pinAll) expect(seen.COMPRESS, 'zero chunks are written where all is pinned').toBeUndefined()
    if ((options as RdmaOptions).unregister) {
      expect(seen.UNREGISTER_REQUEST!.count).toBe(seen.REGISTER_REQUEST!.count)
      expect(seen.UNREGISTER_FINISHED!.count).toBe(seen.UNREGISTER_REQUEST!.count)
    }
  })

  it.each([false, true])('a stopped guest costs exactly what the arithmetic says, pin-all %s', async (pinAll) => {
    const pair_ = pair()
    const { a, b, from, log, asked } = pair_
    from.setCapabilities([{ capability: 'rdma-pin-all', state: pinAll }])
    from.setParameters({ 'downtime-limit': 2_000_000, 'avail-switchover-bandwidth': 1e12 })
    // The block of 1200 pages has five chunks, the last of them not whole; the other block is one with contents.
    const ram = a.memory.blocks.find(({ idstr }) => idstr === 'fake.ram')!
    for (const at of [0x10_0000, 0x30_5004, ram.sizeBytes - 1]) ram.bytes[at] = 1
    await a.stop()
    await move(pair_)
    expect(tally(log.entries)).toEqual(predict(asked, pinAll, zeroNow))
    for (const [i, { bytes }] of a.memory.blocks.entries())
      expect(Buffer.compare(bytes, b.memory.blocks[i]!.bytes)).toBe(0)
    const total = from.info().ram!.total
    expect(tally(log.entries)).toMatchObject(
      pinAll
        ? { WRITE: { count: 6, bytes: total } }
        : { WRITE: { count: 4, bytes: total - (2 << 20) }, REGISTER_REQUEST: { count: 4 }, COMPRESS: { count: 2 } },
    )
  })

  it('a running guest, too, with as many zero runs as there were', async () => {
    const pair_ = pair()
    pair_.from.setParameters({ 'max-bandwidth': 20_000_000 })
    pair_.a.start()
    await move(pair_)
    const { log, asked } = pair_
    expect(asked.phases.length).toBeGreaterThan(2)
    expect(tally(log.entries)).toEqual(predict(asked, false, zeroInLog(log.entries)))
  })

  it('refuses capabilities that do not go with it, and the guest runs on', async () => {
    const { a, from } = pair()
    a.start()
    const transport = rdma({ device: softwareDevice(make()) })
    const context = { signal: new AbortController().signal, log: { debug() {}, warn() {}, guestError() {} } }
    const refused = async () =>
      transport.connect({ host: 'x', port: 1 }, { ...context, capabilities: new Set(['multifd']) })
    await expect(refused()).rejects.toThrow(/does not go with the capability multifd/)
    await expect(from.migrate('rdma:127.0.0.1:9')).rejects.toThrow(/nothing listens there/)
    expect(a.runState).toBe('running')
    await a.stop()
  })

  it('says where its peer is, and without an address listens for this host only', async () => {
    const warnings: string[] = []
    const log = { debug() {}, warn: (message: string) => void warnings.push(message), guestError() {} }
    const context = { signal: new AbortController().signal, log }
    const transport = rdma({ device: softwareDevice(make()) })
    const listener = await transport.listen(transport.parseAddress(':0'), context)
    expect(warnings).toEqual([expect.stringMatching(/^rdma::0 listens for this host only; .*0.0.0.0 for all/)])
    const near = await transport.connect(listener.address, context)
    const { value: far } = await listener[Symbol.asyncIterator]().next()
    // Within a process there is no network, and nobody to be asked for encryption.
    const expected = make === FABRICS[1]![1] ? '127.0.0.1' : undefined
    expect([near.remoteAddress, far.remoteAddress]).toEqual([expected, expected])
    await Promise.all([near.close(), far.close(), listener[Symbol.asyncDispose]()])
  })
})
