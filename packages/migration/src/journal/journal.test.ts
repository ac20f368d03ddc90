import { createChannelPair, nextTurn, type SeekableChannel, type Transport } from '@ferryvm/core'
import { afterEach, describe, expect, it } from 'vitest'
import { createMigration } from '../index.ts'
import { createFakeMachine } from '../testing/fake-machine.ts'
import { loopTransport } from '../testing/loop-transport.ts'
import { decodeHeader, encodeHeader, newHeader, SLOT_BYTES } from './journal-format.ts'
import { type ReconcileOptions, reconcile } from './reconcile.ts'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]()
})

/** Files in memory, by name; `fails` makes the writes to one fail. */
function memoryFiles() {
  const files = new Map<string, { bytes: Uint8Array; size: number }>()
  let fails: string | undefined
  const channel = (name: string): SeekableChannel => {
    const data = files.get(name)!
    return {
      features: new Set(['seekable']),
      position: 0,
      seek() {},
      read: () => 0,
      write() {},
      async readAt(into, at) {
        const part = data.bytes.subarray(at, Math.min(at + into.length, data.size))
        into.set(part)
        return part.length
      },
      async writeAt(buffers, at) {
        if (fails === name) throw new Error('no space left')
        for (const buffer of buffers) {
          data.bytes.set(buffer, at)
          at += buffer.length
        }
        data.size = Math.max(data.size, at)
      },
      shutdown: async () => {},
      close: async () => {},
    }
  }
  const transport: Transport<string> = {
    scheme: 'file',
    features: new Set(['seekable']),
    parseAddress: (text) => text,
    async connect(name) {
      files.set(name, { bytes: new Uint8Array(8 << 20), size: 0 })
      return channel(name)
    },
    listen: () => Promise.reject(new Error('not here')),
  }
  return { transport, files, channel, failAt: (name: string | undefined) => (fails = name) }
}

const PAGES = 512

function setup() {
  const files = memoryFiles()
  const loop: { cutAfter?: number } = {}
  const transports = [loopTransport(loop), files.transport]
  const side = (journal?: string) => {
    const machine = createFakeMachine({ ramPages: PAGES })
    const migration = createMigration({ machine, transports, postcopyJournal: journal && `file:${journal}` })
    migration.setCapabilities([{ capability: 'postcopy-ram', state: true }])
    open.push(machine, migration)
    return { machine, migration }
  }
  return { ...files, loop, side, source: side('s'), destination: side('d') }
}

/** What the guest that was put together is like, in a machine of its own. */
async function putTogether(
  { channel, side }: ReturnType<typeof setup>,
  options?: ReconcileOptions,
  names: readonly [string, string?] = ['s', 'd'],
) {
  const [near, far] = createChannelPair({})
  const { machine, migration } = side()
  const loaded = migration.loadState(far)
  loaded.catch(() => {})
  const there = names[1] === undefined ? undefined : channel(names[1])
  const result = await reconcile(channel(names[0]), there, near, options).finally(() => near.shutdown('write'))
  await loaded
  return { ...result, machine }
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await nextTurn()
}

/** To the moment in which the guest runs at the destination and most of its memory is not there. */
async function halfWay(both: ReturnType<typeof setup>) {
  const { source, destination } = both
  source.machine.start()
  await until(() => source.machine.ticks > 200n)
  source.migration.setParameters({ 'max-bandwidth': 1 << 20, 'max-postcopy-bandwidth': 1 << 20, 'downtime-limit': 1 })
  const arriving = await destination.migration.incoming('loop:x')
  const stood = new Promise<bigint>((resolve) => source.machine.on('stop', () => resolve(source.machine.ticks)))
  const { done } = source.migration.start('loop:x')
  for (const promise of [arriving.done, done]) promise.catch(() => {})
  source.migration.startPostcopy()
  const ticks = await stood
  await until(() => destination.migration.status === 'postcopy-active' && source.migration.status === 'postcopy-active')
  return { done, arrived: arriving.done, ticks }
}

const headerOf = ({ files }: ReturnType<typeof setup>, name: string) =>
  decodeHeader(files.get(name)!.bytes.subarray(0, 2 * SLOT_BYTES))

describe('page journals', () => {
  it('give back the guest of the switch from the source alone, if it is allowed to go back', async () => {
    const both = setup()
    const { ticks } = await halfWay(both)
    await until(() => headerOf(both, 's').whole)
    expect(headerOf(both, 's')).toMatchObject({ role: 'source', ran: true, completed: false })
    for (const names of [['s'], ['s', 'd']] as const) {
      await until(() => headerOf(both, 'd').ran)
      await expect(putTogether(both, {}, names)).rejects.toMatchObject({ code: 'FERRY_JOURNAL' })
      const { moment, machine, pagesOfSource } = await putTogether(both, { goBack: true }, names)
      expect([moment, machine.ticks, machine.wrongPages()]).toEqual(['back', ticks, []])
      expect(pagesOfSource).toBe(PAGES + 4)
    }
  })

  it('give back the guest as it stood at the destination', async () => {
    const both = setup()
    const { destination, source } = both
    await halfWay(both)
    await until(() => headerOf(both, 'd').ran)
    await expect(destination.migration.saveJournal()).rejects.toThrow('nothing to save')
    source.migration.pause()
    await until(() => destination.migration.status === 'postcopy-paused')
    await expect(putTogether(both)).rejects.toThrow('has run the guest')
    await destination.migration.saveJournal()
    expect(destination.machine.runState).toBe('postmigrate')
    await until(() => destination.migration.status === 'failed')
    const { moment, machine, pagesOfSource, pagesOfDestination } = await putTogether(both)
    expect(moment).toBe('destination')
    expect(pagesOfSource).toBeGreaterThan(0)
    expect(pagesOfSource + pagesOfDestination).toBe(PAGES + 4)
    expect(machine.ticks).toBe(destination.machine.ticks)
  })

  it('say that there is nothing to do when the guest has arrived', async () => {
    const both = setup()
    const { source } = both
    const { done, arrived } = await halfWay(both)
    source.migration.setParameters({ 'max-postcopy-bandwidth': 0 })
    await Promise.all([done, arrived])
    await expect(putTogether(both, { goBack: true })).rejects.toThrow('whole at the destination')
  })

  it('that cannot be written keep the guest at the source', async () => {
    const both = setup()
    const { source, destination } = both
    both.failAt('s')
    source.machine.start()
    await until(() => source.machine.ticks > 200n)
    const arriving = await destination.migration.incoming('loop:x')
    arriving.done.catch(() => {})
    source.migration.setParameters({ 'max-bandwidth': 1 << 20, 'downtime-limit': 1 })
    const { done } = source.migration.start('loop:x')
    done.catch(() => {})
    source.migration.startPostcopy()
    await expect(done).rejects.toThrow('no space left')
    expect(source.machine.runState).toBe('running')
  })

  it('are looked at closely before anything is read from them', async () => {
    const both = setup()
    const prefix = '51455645'.padEnd(32, '0')
    const blocks = [{ name: 'ram', sizeBytes: 8192 }]
    const header = newHeader({ role: 'source', prefix, ramSectionId: 2, blocks })
    const read = (...slots: Uint8Array[]) => {
      const head = new Uint8Array(2 * SLOT_BYTES)
      for (const [i, slot] of slots.entries()) head.set(slot, i * SLOT_BYTES)
      return decodeHeader(head)
    }
    expect(() => read()).toThrow('no page journal')
    expect(read(encodeHeader({ ...header, sequence: 4 }), encodeHeader({ ...header, sequence: 5 })).sequence).toBe(5)
    const torn = encodeHeader({ ...header, sequence: 6 })
    torn[40]! ^= 1
    expect(read(torn, encodeHeader({ ...header, sequence: 5 })).sequence).toBe(5)
    for (const [change, problem] of [
      [{ version: 2 }, 'version 2'],
      [{ blocks: [] }, 'blocks'],
      [{ blocks: [{ name: 'ram', sizeBytes: 2 ** 40 }] }, 'ram has'],
      [{ blocks: [...blocks, ...blocks] }, 'the name of a block'],
      [{ prefix: 'xx' }, 'prefix'],
      [{ devices: { at: 0, bytes: 2 ** 40 } }, 'devices'],
    ] as const) {
      expect(() => read(encodeHeader({ ...header, ...change } as never))).toThrow(problem)
    }
    await both.transport.connect('s', undefined as never)
    await both.transport.connect('d', undefined as never)
    await both.channel('s').writeAt([encodeHeader({ ...header, devices: { at: 2 ** 22, bytes: 9 } })], 0)
    await both.channel('d').writeAt([encodeHeader({ ...header, role: 'destination' })], 0)
    const out = createChannelPair({})[0]
    await expect(reconcile(both.channel('s'), both.channel('d'), out)).rejects.toThrow('ends within its device state')
    await expect(reconcile(both.channel('d'), both.channel('s'), out)).rejects.toThrow('is one of a destination')
  })
})
