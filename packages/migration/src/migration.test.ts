import { type AddressInfo, connect, createServer } from 'node:net'
import { FerryError, nextTurn } from '@ferryvm/core'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { tcp, unix } from '../../transport-socket/src/index.ts'
import { createMigration, type Migration, type MigrationStatus } from './index.ts'
import { createFakeMachine, type FakeMachine, type FakeMachineOptions } from './testing/fake-machine.ts'
import { type LoopOptions, loopTransport } from './testing/loop-transport.ts'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]()
})

interface End {
  machine: FakeMachine
  migration: Migration
  statuses: MigrationStatus[]
  order: string[]
  transports: Parameters<typeof createMigration>[0]['transports']
}
function end(
  options: FakeMachineOptions,
  transports: Parameters<typeof createMigration>[0]['transports'],
  confirm = true,
): End {
  const machine = createFakeMachine(options)
  const migration = createMigration({ machine, transports, confirmCompletion: confirm })
  const statuses: MigrationStatus[] = []
  const order: string[] = []
  migration.on('status', (status) => {
    statuses.push(status)
    order.push(status)
  })
  migration.on('pass', (n) => order.push(`pass ${n}`))
  machine.on('stop', () => order.push('STOP'))
  machine.on('resume', () => order.push('RESUME'))
  open.push(machine, migration)
  return { machine, migration, statuses, order, transports }
}
function pair(options: FakeMachineOptions & LoopOptions & { confirm?: boolean } = {}): { a: End; b: End } {
  const transports = [loopTransport(options), tcp(), unix()]
  return { a: end(options, transports, options.confirm), b: end(options, transports, options.confirm) }
}
async function runFor(machine: FakeMachine, turns: number): Promise<void> {
  for (let i = 0; i < turns; i++) await nextTurn()
  expect(machine.runState).toBe('running')
}

describe('precopy (protocol.md section 1, ram.md sections 1 to 3)', () => {
  for (const [name, uri] of [
    ['in process', 'loop:x'],
    ['over tcp', 'tcp:127.0.0.1:0'],
    ['over unix', `unix:/tmp/ferry-mig-${process.pid}.sock`],
  ] as const) {
    it(`moves a guest that dirties memory ${name}, with nothing lost`, async () => {
      const { a, b } = pair({ ramPages: 2048 })
      a.machine.device.value = 77
      a.machine.start()
      await runFor(a.machine, 50)
      const arriving = await b.migration.incoming(uri)
      await a.migration.migrate(arriving.uri)
      await arriving.done
      expect(a.machine.runState).toBe('postmigrate')
      expect(b.machine.runState).toBe('running')
      expect(b.machine.device.value).toBe(77)
      const ticks = b.machine.ticks
      await runFor(b.machine, 20)
      expect(b.machine.ticks).toBeGreaterThan(ticks)
      expect(b.machine.wrongPages()).toEqual([])
      expect(a.statuses).toEqual(['setup', 'active', 'device', 'completed'])
      expect(b.statuses).toEqual(['setup', 'active', 'completed'])
      // STOP, device, the final sync, completed; RESUME before the destination's completed.
      expect(a.order.slice(-4)).toEqual(['STOP', 'device', expect.stringMatching(/^pass /), 'completed'])
      expect(b.order).toEqual(['setup', 'active', 'RESUME', 'completed'])
      expect(a.machine.memory.dirtyLog.enabled).toBe(false)
      const info = a.migration.info()
      expect(info).toMatchObject({
        status: 'completed',
        ram: { remaining: 0, total: (2048 + 4) * 4096, 'page-size': 4096 },
      })
      expect(info.ram!.normal + info.ram!.duplicate).toBeGreaterThanOrEqual(2052)
    })
  }

  it('sends sections by priority and reports each while it happens', async () => {
    const { a, b } = pair()
    const seen: string[] = []
    a.migration.on('section', ({ type, idstr, instanceId, priority }) =>
      seen.push(`${type} ${idstr}/${instanceId} ${priority}`),
    )
    const loaded: string[] = []
    b.migration.on('section', ({ type, idstr }) => loaded.push(`${type} ${idstr}`))
    const arriving = await b.migration.incoming('loop:x')
    await a.migration.migrate('loop:x')
    await arriving.done
    expect(seen[0]).toBe('start ram/0 0')
    const full = seen.filter((s) => s.startsWith('full'))
    expect(full).toEqual([
      'full fake-iommu/0 1',
      'full 0000:00:01.0/fake-device/0 0',
      'full guest/0 0',
      'full globalstate/0 0',
    ])
    expect(loaded).toEqual(seen.map((s) => s.split('/').slice(0, -1).join('/')))
  })

  it('lets network cards say where the guest is, as often as the parameter says, and only where it has arrived', async () => {
    for (const rounds of [0, 1, 3]) {
      let heard = 0
      const card = { id: 'n0', type: 'virtio-net', path: '', device: { announce: () => void heard++ } }
      const { a, b } = pair({ ramPages: 2, devices: [card] })
      b.migration.setParameters({ 'announce-rounds': rounds, 'announce-initial': 0, 'announce-step': 1 })
      a.machine.start()
      const arriving = await b.migration.incoming('loop:x')
      await a.migration.migrate('loop:x')
      await arriving.done
      await vi.waitFor(() => expect(heard).toBe(rounds), { timeout: 20_000 })
    }
  })

  it('asks for confirmation only where an answer can come back, and only if it is to', async () => {
    for (const [duplex, confirm, asked] of [
      [true, true, true],
      [true, false, false],
      [false, true, false],
    ] as const) {
      const chunks: Uint8Array[] = []
      const { a, b } = pair({ ramPages: 2, duplex, confirm, record: (bytes) => chunks.push(bytes.slice()) })
      const arriving = await b.migration.incoming('loop:x')
      await a.migration.migrate('loop:x')
      await arriving.done
      // stream.md section 7: right behind the configuration, "fake".
      const command = Buffer.concat(chunks)
        .subarray(8 + 5 + 4, 8 + 5 + 4 + 14)
        .toString('hex')
      expect(command === '08000100000800020004' + '00000001').toBe(asked)
    }
  })

  it('where nobody answers, gives the guest up only when the channel says that all has arrived', async () => {
    const { a, b } = pair({ duplex: false })
    let finish: (channel: 'asked') => Promise<void> = async () => {
      throw new Error('the disk is full')
    }
    const [loop] = a.transports
    const { connect } = loop!
    Object.assign(loop!, {
      connect: async (...args: Parameters<typeof connect>) => ({
        ...(await connect(...args)),
        finish: () => finish('asked'),
      }),
    })
    a.machine.start()
    const first = await b.migration.incoming('loop:x')
    const arrived = first.done.catch(() => {})
    await expect(a.migration.migrate('loop:x')).rejects.toThrow('the disk is full')
    expect(a.migration.status).toBe('failed')
    await runFor(a.machine, 5)
    expect(a.machine.wrongPages()).toEqual([])
    await arrived

    const c = end({}, a.transports)
    const asked: string[] = []
    finish = async (what) => void asked.push(what, a.machine.runState)
    const second = await c.migration.incoming('loop:x')
    await a.migration.migrate('loop:x')
    await second.done
    expect(asked).toEqual(['asked', 'finish-migrate'])
    expect(a.migration.status).toBe('completed')
  })

  it('a stopped machine arrives stopped', async () => {
    const { a, b } = pair()
    a.machine.start()
    await runFor(a.machine, 3)
    await a.machine.stop('paused')
    const arriving = await b.migration.incoming('loop:x')
    await a.migration.migrate('loop:x')
    await arriving.done
    expect(b.machine.runState).toBe('paused')
    expect(b.machine.wrongPages()).toEqual([])
  })

  it('keeps to max-bandwidth in windows of 100 ms and converges by downtime-limit', async () => {
    const { a, b } = pair({ ramPages: 1024, writesPerTurn: 1 })
    // Fill the memory: 4 MiB at 8 MiB/s takes half a second.
    const ram = a.machine.memory.blocks[1]!
    a.migration.setParameters({ 'max-bandwidth': 8 << 20, 'downtime-limit': 1 })
    a.machine.start()
    await runFor(a.machine, 2000)
    expect(ram.bytes.some((x) => x !== 0)).toBe(true)
    const arriving = await b.migration.incoming('loop:x')
    const began = performance.now()
    const { done } = a.migration.start('loop:x')
    await new Promise((resolve) => setTimeout(resolve, 150))
    expect(a.migration.forecast()!).toMatchObject({
      totalBytes: a.machine.memory.blocks.reduce((n, b) => n + b.sizeBytes, 0),
    })
    // More than all of its memory takes; with less it would be left to chance, as the guest writes faster than that.
    a.migration.setParameters({ 'downtime-limit': 2000 })
    await done
    await arriving.done
    const ms = performance.now() - began
    const sent = a.migration.info().ram!['precopy-bytes']
    // However the host schedules us: a window's budget for each window that can have begun, and one batch over all of them.
    const windowBytes = (8 << 20) / 10
    expect(sent).toBeLessThanOrEqual((Math.floor(ms / 100) + 2) * windowBytes + (512 << 10))
    expect(b.machine.wrongPages()).toEqual([])
  })
})

describe('failure', () => {
  it('refuses what cannot work before anything changes', async () => {
    const { a, b } = pair()
    expect(() => a.migration.start('carrier-pigeon:x')).toThrow(/scheme "carrier-pigeon" is unknown/)
    expect(() => a.migration.start('exec:cat')).toThrow(/not available/)
    expect(a.migration.status).toBe('none')
    expect(a.migration.info()).toEqual({})
    using _ = a.machine.sections.block('host-passthrough: holds host file handles')
    expect(() => a.migration.start('loop:x')).toThrow(/host file handles/)
    expect(a.migration.info()['blocked-reasons']).toHaveLength(1)
    b.migration.defer()
    expect(() => b.migration.start('loop:x')).toThrow(/has not arrived/)
  })

  it('a refused connection fails the migration and the guest runs on', async () => {
    const { a } = pair()
    a.machine.start()
    await expect(a.migration.migrate('tcp:127.0.0.1:1')).rejects.toThrow(
      /cannot connect to tcp:127.0.0.1:1: connection refused/,
    )
    expect(a.migration.status).toBe('failed')
    expect(a.migration.info()['error-desc']).toMatch(/connection refused/)
    await runFor(a.machine, 3)
  })

  it('a device that cannot be saved: the guest goes on, and a second try works', async () => {
    const { a, b } = pair()
    a.machine.start()
    a.machine.failSave = new Error('the firmware said no')
    const first = await b.migration.incoming('loop:x')
    await expect(a.migration.migrate('loop:x')).rejects.toThrow(
      /0000:00:01.0\/fake-device\/0 cannot be saved.*the firmware said no/,
    )
    await expect(first.done).rejects.toThrow()
    await runFor(a.machine, 5)
    a.machine.failSave = undefined
    const second = await b.migration.incoming('loop:x')
    await a.migration.migrate('loop:x')
    await second.done
    expect(b.machine.wrongPages()).toEqual([])
  })

  it('another machine type is refused, and the source runs on', async () => {
    const transports = [loopTransport()]
    const a = end({ name: 'virt' }, transports)
    const b = end({ name: 'sifive_u' }, transports)
    a.machine.start()
    const arriving = await b.migration.incoming('loop:x')
    await expect(a.migration.migrate('loop:x')).rejects.toThrow()
    await expect(arriving.done).rejects.toMatchObject({ code: 'FERRY_STREAM_CONFIGURATION', field: 'name' })
    await runFor(a.machine, 3)
  })

  it('a destination that fails on the last, already buffered bytes does not take the guest with it', async () => {
    const transports = [tcp()]
    const a = end({}, transports)
    const b = end({}, transports)
    b.machine.sections.seal()
    const broken = createFakeMachine({ ramPages: 128 }) // RAM of another size
    const there = createMigration({ machine: broken, transports })
    open.push(there)
    a.machine.start()
    const arriving = await there.incoming('tcp:127.0.0.1:0')
    await expect(a.migration.migrate(arriving.uri)).rejects.toMatchObject({ code: expect.stringMatching(/^FERRY_/) })
    await expect(arriving.done).rejects.toThrow(/fake.ram: the sender's block has 0x100000 bytes, ours 0x80000/)
    await runFor(a.machine, 3)
  })

  for (const when of ['setup', 'active', 'pre-switchover', 'device'] as const) {
    it(`cancel in ${when} leaves the guest running here, and a second try works`, async () => {
      const { a, b } = pair({ ramPages: 512 })
      a.machine.start()
      await runFor(a.machine, 30)
      a.migration.setCapabilities([{ capability: 'pause-before-switchover', state: true }])
      const first = await b.migration.incoming('loop:x')
      a.migration.on('status', (status) => {
        if (status === when) queueMicrotask(() => a.migration.cancel())
        else if (status === 'pre-switchover') queueMicrotask(() => a.migration.continueSwitchover())
      })
      await expect(a.migration.migrate('loop:x')).rejects.toMatchObject({ code: 'FERRY_MIGRATION_CANCELLED' })
      await expect(first.done).rejects.toThrow()
      expect(a.statuses.slice(-2)).toEqual(['cancelling', 'cancelled'])
      await runFor(a.machine, 10)
      expect(a.machine.wrongPages()).toEqual([])
      expect(a.machine.memory.dirtyLog.enabled).toBe(false)
    })
  }

  /** A pair of tiny machines that is used again and again: source running, destination waiting. */
  function tinyPair(wire: LoopOptions, confirm = true) {
    const transports = [loopTransport(wire)]
    const tiny = { ramPages: 2, romPages: 1, writesPerTurn: 1 }
    return { a: end(tiny, transports, confirm), b: end(tiny, transports, confirm) }
  }
  async function streamLength(confirm = true): Promise<number> {
    let total = 0
    const { a, b } = tinyPair({ record: (bytes) => (total += bytes.length) }, confirm)
    const arriving = await b.migration.incoming('loop:x')
    await a.migration.migrate('loop:x')
    await arriving.done
    return total
  }
  const outcome = (done: Promise<void>) =>
    done.then(
      () => undefined,
      (error: unknown) => error,
    )

  it('a wire cut after any byte: typed errors on both sides, the guest runs on here and only here', async () => {
    const total = await streamLength()
    expect(total).toBeGreaterThan(1000)
    const wire: LoopOptions = {}
    const { a, b } = tinyPair(wire)
    a.machine.start()
    for (let cutAfter = 0; cutAfter < total; cutAfter++) {
      wire.cutAfter = cutAfter
      const arriving = await b.migration.incoming('loop:x')
      const [here, there] = await Promise.all([outcome(a.migration.migrate('loop:x')), outcome(arriving.done)])
      expect(here, `cut after ${cutAfter}`).toBeInstanceOf(Error)
      expect(FerryError.isInstance(there), `cut after ${cutAfter}: ${there}`).toBe(true)
      expect(a.machine.runState).toBe('running')
      expect(b.machine.runState).toBe('inmigrate')
    }
    wire.cutAfter = undefined
    const arriving = await b.migration.incoming('loop:x')
    await a.migration.migrate('loop:x')
    await arriving.done
    expect(b.machine.wrongPages()).toEqual([])
  })

  it('a TCP connection that dies after any number of bytes: the guest runs on here and only here', async () => {
    let total = 0
    let cutAfter = Number.POSITIVE_INFINITY
    let target = 0
    const proxy = createServer((near) => {
      const far = connect(target, '127.0.0.1')
      let forwarded = 0
      near.on('data', (bytes: Buffer) => {
        const part = bytes.subarray(0, cutAfter - forwarded)
        forwarded += part.length
        total = Math.max(total, forwarded)
        far.write(part)
        if (forwarded >= cutAfter) {
          far.end()
          near.destroy()
        }
      })
      near.on('end', () => far.end())
      far.on('data', (bytes) => near.writable && near.write(bytes))
      far.on('end', () => near.end())
      for (const socket of [near, far]) socket.on('error', () => {})
    })
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
    open.push({ [Symbol.asyncDispose]: async () => void proxy.close() })
    const { port } = proxy.address() as AddressInfo
    const tiny = { ramPages: 2, romPages: 1, writesPerTurn: 1 }
    const move = async (a: End, b: End) => {
      const arriving = await b.migration.incoming('tcp:127.0.0.1:0')
      target = Number(arriving.uri.split(':').at(-1))
      return Promise.all([outcome(a.migration.migrate(`tcp:127.0.0.1:${port}`)), outcome(arriving.done)])
    }
    // The length of a stream from a machine that stands still; the running one's differs by a few pages.
    const still = [end(tiny, [tcp()]), end(tiny, [tcp()])] as const
    expect(await move(...still)).toEqual([undefined, undefined])
    const a = end(tiny, [tcp()])
    const b = end(tiny, [tcp()])
    await a.machine.stop('paused')
    const length = total
    for (cutAfter = 1; cutAfter < length; cutAfter += cutAfter < 60 || cutAfter > length - 60 ? 1 : 53) {
      const [here, there] = await move(a, b)
      expect(FerryError.isInstance(here), `cut after ${cutAfter}: ${here}`).toBe(true)
      expect(FerryError.isInstance(there), `cut after ${cutAfter}: ${there}`).toBe(true)
      expect(a.machine.runState).toBe('paused')
      expect(b.machine.runState).toBe('inmigrate')
    }
    cutAfter = Number.POSITIVE_INFINITY
    a.machine.start()
    expect(await move(a, b)).toEqual([undefined, undefined])
    expect(b.machine.runState).toBe('running')
  })

  it('a flipped bit anywhere: a typed error and the guest runs here, or it arrived; never a hang, a crash, two guests or none', async () => {
    const total = await streamLength()
    const wire: LoopOptions = {}
    const { a, b } = tinyPair(wire)
    let there = b.migration
    a.machine.start()
    let tried = 0
    let detected = 0
    for (let byte = 0; byte < total; byte += byte < 300 || byte > total - 2600 ? 1 : 41) {
      wire.flip = { byte, bit: byte % 8 }
      const arriving = await there.incoming('loop:x')
      // A flipped length can make the destination wait for bytes that never come; people cancel, and so does this test.
      const patience = setTimeout(() => a.migration.cancel(), 40)
      const here = await outcome(a.migration.migrate('loop:x'))
      clearTimeout(patience)
      tried++
      if (here) {
        detected++
        expect(here).toBeInstanceOf(Error)
        expect(FerryError.isInstance(await outcome(arriving.done)), `byte ${byte}`).toBe(true)
        expect(a.machine.runState, `byte ${byte}`).toBe('running')
        expect(b.machine.runState, `byte ${byte}`).toBe('inmigrate')
      } else {
        await arriving.done
        expect(a.machine.runState).toBe('postmigrate')
        // The test's own doing: the same machines once more.
        a.machine.start()
        await there[Symbol.asyncDispose]()
        await b.machine.stop()
        b.machine.setRunState('prelaunch')
        there = createMigration({ machine: b.machine, transports: b.transports })
      }
    }
    // What a flip cannot betray: contents of pages and of registers, and the description that nobody reads.
    expect(detected).toBeGreaterThan(120)
    expect(tried).toBeGreaterThan(2000)
  }, 180_000)
})

it('the code of all sections is there before the guest stands still, on both sides', async () => {
  const { a, b } = pair({ ramPages: 8 })
  const [sending, waiting] = [a, b].map(({ machine }) =>
    machine.sections.entries().flatMap(({ device }) => (device ? [vi.spyOn(device, 'prepare')] : [])),
  )
  const calls = (of: typeof sending) => of.map(({ mock }) => mock.calls.length)
  const atStop: number[] = []
  a.machine.on('stop', () => atStop.push(...calls(sending), ...calls(waiting)))
  a.machine.start()
  const arriving = await b.migration.incoming('loop:x')
  // Nobody has come yet.
  await vi.waitFor(() => expect(Math.min(...calls(waiting))).toBeGreaterThan(0), 20_000)
  await a.migration.migrate(arriving.uri)
  await arriving.done
  expect(atStop.length).toBeGreaterThanOrEqual(4)
  expect(Math.min(...atStop)).toBeGreaterThan(0)
})
