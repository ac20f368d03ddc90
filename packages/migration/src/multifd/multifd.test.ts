import { setTimeout as delay } from 'node:timers/promises'
import {
  type Channel,
  createChannelPair,
  FerryError,
  GuestMemory,
  nextTurn,
  PAGE_BYTES,
  silentLogger,
} from '@ferryvm/core'
import { nodeCompressions } from '@ferryvm/core/node'
import { afterEach, describe, expect, it } from 'vitest'
import { createMigration } from '../migration.ts'
import { createZeroPageTest } from '../ram/zero-page.ts'
import { createFakeMachine } from '../testing/fake-machine.ts'
import { type LoopOptions, loopTransport } from '../testing/loop-transport.ts'
import { acceptChannels } from './accept-channels.ts'
import { IncomingMultifd } from './incoming-multifd.ts'
import { FLAG_SYNC, HEADER_BYTES, initMessage, packetHeader, parsePacket } from './multifd-packet.ts'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]()
})

interface Way {
  readonly before82?: boolean
  readonly parameters?: Record<string, unknown>
  readonly there?: Record<string, unknown>
}
function pair({ before82 = false, parameters = {}, there = {} }: Way, loop: LoopOptions = {}) {
  const transports = [loopTransport(loop)]
  const end = (own: Record<string, unknown>) => {
    const machine = createFakeMachine({ ramPages: 1024, writesPerTurn: 16 })
    const migration = createMigration({
      machine,
      transports,
      compressions: nodeCompressions,
      settings: { multifdBefore82: before82 },
    })
    migration.setCapabilities([{ capability: 'multifd', state: true }])
    migration.setParameters({ 'max-bandwidth': 0, ...parameters, ...own })
    open.push(machine, migration)
    return { machine, migration }
  }
  return { a: end({}), b: end(there) }
}
const outcome = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: Error) => error,
  )

describe('a migration with multifd (ram.md section 8)', () => {
  const ways: [string, Way][] = [
    ['packets with zero pages', {}],
    ['as before 8.2', { before82: true }],
    ['zero pages in the main stream', { parameters: { 'zero-page-detection': 'legacy', 'multifd-channels': 1 } }],
    ['no search for zero pages', { parameters: { 'zero-page-detection': 'none', 'multifd-channels': 7 } }],
    ['zlib', { parameters: { 'multifd-compression': 'zlib', 'multifd-zlib-level': 6 } }],
    ['zstd, as before 8.2', { before82: true, parameters: { 'multifd-compression': 'zstd' } }],
  ]
  it.each(ways)('%s: a guest that writes memory loses nothing', async (_, way) => {
    const { a, b } = pair(way)
    a.machine.start()
    for (let i = 0; i < 50; i++) await nextTurn()
    const { uri, done } = await b.migration.incoming('loop:x')
    await a.migration.migrate(uri)
    await done
    expect(b.machine.runState).toBe('running')
    expect(b.machine.wrongPages()).toEqual([])
    const { ram } = a.migration.info()
    expect(ram!.transferred).toBeGreaterThan(ram!['multifd-bytes'])
    expect(ram!['multifd-bytes']).toBeGreaterThan(HEADER_BYTES)
  })

  it.each([
    ['as before 8.2', true],
    ['packets with zero pages', false],
  ])('%s: channels that take little at a time hold nothing up for ever', async (_, before82) => {
    // Sections of two packets over one channel, which takes the first of a section only when the peer knows of the one before.
    const { a, b } = pair({ before82, parameters: { 'multifd-channels': 1, 'max-bandwidth': 10 << 20 } })
    const ram = b.machine.memory.blocks[1]!
    a.machine.memory.blocks[1]!.bytes.fill(1)
    const { uri, done } = await b.migration.incoming('loop:x')
    await Promise.all([a.migration.migrate(uri), done])
    expect(ram.bytes.every((byte) => byte === 1)).toBe(true)
  })

  it.each<[string, Way, RegExp]>([
    [
      'another compression',
      { there: { 'multifd-compression': 'zlib' } },
      /compressed in another way .*; multifd-compression is zlib here/,
    ],
    [
      'fewer channels than the sender',
      { there: { 'multifd-channels': 1 } },
      /there are to be 1 channels; both sides need the same multifd-channels/,
    ],
  ])('%s at the destination: it says so, and the guest stays', async (_, way, message) => {
    const { a, b } = pair(way)
    a.machine.start()
    const { uri, done } = await b.migration.incoming('loop:x')
    const [sent, arrived] = await Promise.all([outcome(a.migration.migrate(uri)), outcome(done)])
    expect(`${arrived?.message} ${sent?.message}`).toMatch(message)
    expect(a.machine.runState).toBe('running')
    expect(b.machine.runState).not.toBe('running')
  })

  it('channels that are cut anywhere: typed errors, and the guest runs on here and only here', async () => {
    for (const cutAfter of [0, 10, 63, 64, 65, 500, 1000, 1407, 1408, 1409, 2752, 5000, 9000, 40_000, 100_000]) {
      const { a, b } = pair({}, { cutAfter })
      // So that as much as that goes over every channel, whatever the guest writes.
      if (cutAfter >= 40_000) for (const { bytes } of a.machine.memory.blocks) bytes.fill(1)
      a.machine.start()
      const { uri, done } = await b.migration.incoming('loop:x')
      const sent = await outcome(a.migration.migrate(uri))
      // A sender whose connections break before they are accepted leaves a destination that goes on waiting.
      void b.migration[Symbol.asyncDispose]()
      const arrived = await outcome(done)
      if (sent === undefined) throw new Error(`cut after ${cutAfter}: nobody noticed`)
      expect(arrived, `cut after ${cutAfter}`).toSatisfy(FerryError.isInstance)
      expect(a.machine.runState, `cut after ${cutAfter}`).toBe('running')
      expect(b.machine.runState).not.toBe('running')
      await a.machine.stop()
    }
  })

  it('a flipped bit anywhere: a typed error and the guest runs here, or it arrived', async () => {
    let failures = 0
    for (let i = 0; i < 40; i++) {
      const { a, b } = pair(
        { parameters: i % 2 ? { 'multifd-compression': 'zlib' } : {} },
        { flip: { byte: Math.floor((i * i * 37) % 4000), bit: i % 8 } },
      )
      a.machine.start()
      const { uri, done } = await b.migration.incoming('loop:x')
      const leaving = outcome(a.migration.migrate(uri))
      const arriving = outcome(done)
      // A sync that lost its flag looks like a peer that stopped; it takes somebody to give up.
      const first = await Promise.race([
        Promise.all([leaving, arriving]),
        leaving.then((e) => e ?? arriving),
        delay(1000),
      ])
      if (first !== undefined || a.migration.status !== 'completed') {
        failures++
        a.migration.cancel()
        await leaving
        await b.migration[Symbol.asyncDispose]()
      }
      const [sent, arrived] = await Promise.all([leaving, arriving])
      for (const error of [sent, arrived]) if (error) expect(error, String(error)).toSatisfy(FerryError.isInstance)
      const running = [a, b].filter(({ machine }) => machine.runState === 'running')
      expect(running, `flip ${i}: ${sent} ${arrived}`).toHaveLength(1)
      await a.machine.stop()
      await b.machine.stop()
    }
    expect(failures).toBeGreaterThan(5)
  })
})

describe('packets', () => {
  const good = { blockName: 'ram', dataBytes: 2 * PAGE_BYTES, normal: [0, 4096], zero: [8192] }
  const change = (edit: (view: DataView) => void) => {
    const bytes = packetHeader(0, 5, good)
    edit(new DataView(bytes.buffer))
    return bytes
  }
  it('come back as they were', () => {
    expect(parsePacket(packetHeader(0, 5, good), 0, 'none', 0)).toEqual({ flags: 0, packetNum: 5n, ...good })
    const sync = { flags: FLAG_SYNC, packetNum: 6n, blockName: '', dataBytes: 0, normal: [], zero: [] }
    expect(parsePacket(packetHeader(FLAG_SYNC, 6), 0, 'none', 0)).toEqual(sync)
  })
  it('without pages may have what an earlier one left', () => {
    const bytes = change((view) => {
      view.setUint32(16, 0)
      view.setUint32(32, 0)
    })
    expect(parsePacket(bytes, 0, 'none', 0)).toMatchObject({ dataBytes: 0, blockName: '', normal: [] })
  })
  it.each<[string, (view: DataView) => void, RegExp]>([
    ['another magic', (v) => v.setUint32(0, 1), /channel 3: a packet begins with 0x1 \(offset 77\)/],
    ['another version', (v) => v.setUint32(4, 2), /version 2/],
    ['more pages than fit', (v) => v.setUint32(12, 129), /a packet of 129 pages/],
    ['more pages than it says', (v) => v.setUint32(12, 2), /of 2 pages has 2 with contents and 1 zero/],
    ['a huge number of pages', (v) => v.setUint32(16, 0xffff_ffff), /4294967295 with contents/],
    ['another size', (v) => v.setUint32(20, 4096), /2 pages has 4096 bytes/],
    ['a compression that is off here', (v) => v.setUint32(8, 4), /multifd-compression is none here/],
  ])('with %s are refused', (_, edit, message) => {
    expect(() => parsePacket(change(edit), 3, 'none', 77)).toThrow(message)
  })
  it('with much compressed data are refused', () => {
    const bytes = packetHeader(2, 5, { ...good, dataBytes: 2 ** 31 })
    expect(() => parsePacket(bytes, 3, 'zlib', 0)).toThrow(/has 2147483648 bytes/)
  })
})

describe('connections that come in', () => {
  function destination(channels: number, times: { silenceMs?: number; allChannelsMs?: number } = {}) {
    const memory = new GuestMemory()
    const ram = memory.addBlock('ram', 4 * PAGE_BYTES)
    let failure: Error | undefined
    const multifd = new IncomingMultifd({
      channels,
      uuid: undefined,
      memory,
      isZero: createZeroPageTest(memory),
      method: 'none',
      createDecompressor: undefined,
      stats: { zeroPages: 0, normalPages: 0 },
      failed: (error) => (failure = error),
    })
    const queue: Channel[] = []
    let wake = () => {}
    const connections = (async function* () {
      for (;;) {
        const next = queue.shift()
        if (next) yield next
        else await new Promise<void>((resolve) => (wake = resolve))
      }
    })()
    const warnings: string[] = []
    const log = { ...silentLogger, warn: (message: string) => void warnings.push(message) }
    const abort = new AbortController()
    const main = acceptChannels(connections, multifd, { channels, log, signal: abort.signal, ...times })
    main.catch(() => {})
    return {
      ram,
      multifd,
      warnings,
      main,
      failure: () => failure,
      async connect(...bytes: Uint8Array[]) {
        const [near, far] = createChannelPair()
        queue.push(far)
        wake()
        await near.write(bytes)
        return near
      },
    }
  }
  const MAIN = Uint8Array.of(0x51, 0x45, 0x56, 0x4d)

  it('are told apart by what they say first, in any order, and strangers do not disturb', async () => {
    const d = destination(2)
    const strangers = [await d.connect(Uint8Array.of(0x47, 0x45, 0x54, 0x20)), await d.connect(Uint8Array.of(1))]
    await d.connect(initMessage(undefined, 1))
    await d.connect(initMessage(undefined, 1))
    await d.connect(
      initMessage(
        Uint8Array.from({ length: 16 }, () => 7),
        0,
      ),
    )
    await d.connect(MAIN)
    await d.connect(MAIN)
    await d.connect(initMessage(undefined, 0))
    const { reader } = await d.main
    expect(reader.peekByte(0)).toBe(0x51)
    expect(await strangers[0]!.read(new Uint8Array(1)).valueOf()).toBe(0) // turned away
    expect(d.warnings.join('\n')).toMatch(/begins with 0x47455420/)
    expect(d.warnings.join('\n')).toMatch(/channel 1: there is a channel of that number already/)
    expect(d.warnings.join('\n')).toMatch(/another UUID/)
    expect(d.warnings.join('\n')).toMatch(/a main channel is here already/)
    await d.multifd.close()
  })

  it('that say nothing are turned away after a while, and only so many are heard', async () => {
    const d = destination(1, { silenceMs: 30 })
    for (let i = 0; i < 20; i++) await d.connect()
    while (d.warnings.length < 20) await nextTurn()
    expect(d.warnings.filter((w) => /too many connections/.test(w)).length).toBe(20 - 6)
    expect(d.warnings.filter((w) => /it said nothing for 30 ms/.test(w)).length).toBe(6)
    await d.connect(MAIN)
    await d.connect(initMessage(undefined, 0))
    await d.main
    await d.multifd.close()
  })

  it('that stay away make it fail, with the numbers', async () => {
    const d = destination(4, { allChannelsMs: 30 })
    await d.connect(MAIN)
    await d.connect(initMessage(undefined, 0))
    await expect(d.main).rejects.toThrow('1 of 4 multifd channels and the main channel came within 30 ms')
    await d.multifd.close()
  })

  it.each<[string, Uint8Array[], RegExp]>([
    [
      'a block that is not here',
      [packetHeader(0, 0, { blockName: 'x\u001b', dataBytes: 0, normal: [], zero: [0] })],
      /no RAM block "x\?"/,
    ],
    [
      'a page beyond the end',
      [packetHeader(0, 0, { blockName: 'ram', dataBytes: 0, normal: [], zero: [4 * PAGE_BYTES] })],
      /ram has no page at 0x4000/,
    ],
    [
      'a page between pages',
      [packetHeader(0, 0, { blockName: 'ram', dataBytes: 0, normal: [], zero: [8] })],
      /no page at 0x8/,
    ],
    ['half a packet', [packetHeader(0, 0).subarray(0, 700)], /the stream ended/],
  ])('a packet with %s fails the migration', async (_, packets, message) => {
    const d = destination(1)
    await d.connect(MAIN)
    const channel = await d.connect(initMessage(undefined, 0), ...packets)
    await channel.shutdown('write')
    await d.main
    while (!d.failure()) await nextTurn()
    expect(d.failure()!.message).toMatch(message)
    await expect(d.multifd.session.flush!()).rejects.toThrow(message)
    await d.multifd.close()
  })

  it('a channel that ends before the others are done is an error at the next sync', async () => {
    const d = destination(2)
    await d.connect(MAIN)
    const first = await d.connect(initMessage(undefined, 0), packetHeader(FLAG_SYNC, 0))
    await d.connect(initMessage(undefined, 1), packetHeader(FLAG_SYNC, 1))
    await d.main
    await d.multifd.session.flush!()
    await first.shutdown('write')
    await expect(d.multifd.session.flush!()).rejects.toThrow('channel 0: it ended too early')
    await d.multifd.close()
  })
})
