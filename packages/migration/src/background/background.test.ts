import { nextTurn, PAGE_BYTES } from '@ferryvm/core'
import { afterEach, describe, expect, it } from 'vitest'
import { createMigration, type MigrationStatus } from '../index.ts'
import { createZeroPageTest } from '../ram/zero-page.ts'
import { createFakeMachine, type FakeMachineOptions } from '../testing/fake-machine.ts'
import { type LoopOptions, loopTransport } from '../testing/loop-transport.ts'
import { MemoryMoment } from './memory-moment.ts'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]()
})

function end(options: FakeMachineOptions, transports: Parameters<typeof createMigration>[0]['transports']) {
  const machine = createFakeMachine(options)
  const migration = createMigration({ machine, transports })
  const order: (MigrationStatus | string)[] = []
  migration.on('status', (status) => order.push(status))
  migration.on('pass', () => order.push('pass'))
  machine.on('stop', () => order.push('STOP'))
  machine.on('resume', () => order.push('RESUME'))
  open.push(machine, migration)
  return { machine, migration, order }
}
function pair(options: FakeMachineOptions & LoopOptions = {}) {
  const transports = [loopTransport(options)]
  const a = end(options, transports)
  a.migration.setCapabilities([{ capability: 'background-snapshot', state: true }])
  return { a, b: end(options, transports) }
}
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await nextTurn()
}

describe('a background snapshot (ram.md section 3)', () => {
  it('is the machine of one moment, which goes on meanwhile, and afterwards', async () => {
    const { a, b } = pair({ ramPages: 1024, writesPerTurn: 64 })
    a.machine.start()
    await turns(50)
    a.migration.setParameters({ 'max-bandwidth': 16 << 20 })
    const arriving = await b.migration.incoming('loop:x', { autostart: false })
    const { done } = a.migration.start('loop:x')
    let atStop: bigint | undefined
    a.machine.on('stop', () => void (atStop = a.machine.ticks))
    await done
    await arriving.done
    expect(b.machine.ticks).toBe(atStop)
    expect(b.machine.wrongPages()).toEqual([])
    expect(b.machine.runState).toBe('paused')
    // Much was written while pages were sent, so that the test is one.
    expect(a.machine.ticks).toBeGreaterThan(atStop! + 20n)
    expect(a.machine.wrongPages()).toEqual([])
    expect(a.machine.runState).toBe('running')
    expect(a.order).toEqual(['RESUME', 'setup', 'active', 'STOP', 'RESUME', 'completed'])
    expect(a.machine.memory.dirtyLog.enabled).toBe(false)
    const info = a.migration.info()
    expect(info.ram!.normal + info.ram!.duplicate).toBe(1024 + 4)
    expect(info).toMatchObject({
      downtime: expect.any(Number),
      ram: { remaining: 0, 'dirty-sync-count': 0, 'postcopy-requests': 0 },
    })
    expect(a.migration.forecast()).toBeUndefined()

    // And once more: nothing is left of the first.
    const { done: second } = a.migration.start('loop:nobody')
    await expect(second).rejects.toThrow('nobody listens')
    expect(a.machine.runState).toBe('running')
    await turns(20)
    expect(a.machine.wrongPages()).toEqual([])
  })

  it('of a machine that stands leaves it standing', async () => {
    const { a, b } = pair()
    await a.machine.stop()
    a.machine.device.value = 5
    const arriving = await b.migration.incoming('loop:x')
    await a.migration.migrate('loop:x')
    await arriving.done
    expect([a.machine.runState, b.machine.runState]).toEqual(['paused', 'paused'])
    expect(b.machine.device.value).toBe(5)
    expect(a.order).toEqual(['setup', 'active', 'completed'])
  })

  it('that cannot be written, or is given up, leaves the guest running and free', async () => {
    const { a, b } = pair({ ramPages: 4096, writesPerTurn: 64 })
    a.machine.start()
    a.machine.failSave = new Error('no state today')
    await b.migration.incoming('loop:x')
    await expect(a.migration.migrate('loop:x')).rejects.toThrow(/fake-device/)
    expect(a.machine.runState).toBe('running')
    await turns(20)
    expect(a.machine.wrongPages()).toEqual([])
    const { guards } = a.machine.memory
    expect(guards.has(a.machine.memory.blocks[1]!.offset / PAGE_BYTES)).toBe(false)
  })

  it('is cancelled while memory is written', async () => {
    const { a, b } = pair({ ramPages: 4096, writesPerTurn: 64 })
    a.machine.start()
    a.migration.setParameters({ 'max-bandwidth': 1 << 20 })
    const arriving = await b.migration.incoming('loop:x')
    arriving.done.catch(() => {})
    const { done } = a.migration.start('loop:x')
    while (!a.order.includes('STOP')) await nextTurn()
    await turns(5)
    a.migration.cancel()
    await expect(done).rejects.toThrow('cancelled')
    expect(a.migration.status).toBe('cancelled')
    expect(a.machine.runState).toBe('running')
    await turns(20)
    expect(a.machine.wrongPages()).toEqual([])
  })

  it("does not go together with what QEMU does not let it go with, in QEMU's words", () => {
    const { a } = pair()
    for (const capability of ['postcopy-ram', 'multifd', 'xbzrle', 'auto-converge', 'return-path', 'compress']) {
      expect(() => a.migration.setCapabilities([{ capability, state: true }])).toThrow(
        `Background-snapshot is not compatible with ${capability}`,
      )
    }
    a.migration.setCapabilities([{ capability: 'mapped-ram', state: true }])
  })
})

describe('the memory of a moment', () => {
  it('holds harts back when it keeps too much, until enough was saved', async () => {
    const { machine } = end({ ramPages: 20_000 }, [])
    const { memory } = machine
    const ram = memory.blocks[1]!
    const first = ram.offset / PAGE_BYTES
    for (let page = 0; page < 20_000; page++) ram.bytes[page * PAGE_BYTES] = page % 250
    const kept: number[] = []
    using moment = new MemoryMoment(memory, createZeroPageTest(memory), (page) => kept.push(page - first))
    moment.take([ram])
    let page = 0
    while (memory.guards.claim(first + page)) ram.bytes[page++ * PAGE_BYTES] = 255
    // 64 MiB of pages that are not zero; each 250th is.
    expect(page).toBe(16_384 + Math.ceil(page / 250))
    expect(kept).toHaveLength(page)
    let may = false
    void memory.guards.writable(first + page).then(() => (may = true))
    for (let done = 0; done < 2000; done++) {
      expect(moment.isZero(ram, done * PAGE_BYTES)).toBe(done % 250 === 0)
      expect(moment.bytes(ram, done * PAGE_BYTES)[0]).toBe(done % 250)
      moment.done(ram, done * PAGE_BYTES)
    }
    await nextTurn()
    expect([may, memory.guards.claim(first + page)]).toEqual([false, false])
    for (let done = 2000; done < 6000; done++) moment.done(ram, done * PAGE_BYTES)
    await nextTurn()
    expect([may, memory.guards.claim(first + page)]).toEqual([true, true])
  })
})
