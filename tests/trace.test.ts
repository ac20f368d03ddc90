import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Drive } from '@ferryvm/block/node'
import { onTrace, switchTraceEvents, type TraceValue, traceEvents } from '@ferryvm/core'
import { afterEach, describe, expect, it } from 'vitest'
import { startOurs } from './bench/bench-guest.ts'
import { createDisk, createVm, type TestVm } from './harness/vm.ts'
import { scratchFolder } from './stock-qemu/stock-qemu.ts'

/** QEMU 10.0's trace points of migration: names, and the kinds of their arguments in order. Spec: trace-events.md. */
const stock: Readonly<Record<string, Readonly<Record<string, string>>>> = JSON.parse(
  readFileSync(join(import.meta.dirname, '__fixtures__/trace-events.json'), 'utf8'),
)

/** What only a failure, or a neighbour that other tests have, brings about. */
const RARE = [
  'vmstate_load_field_error',
  'vmstate_subsection_load_bad',
  'multifd_send_error',
  'source_return_path_thread_bad_end',
  'source_return_path_thread_switchover_acked',
  'migration_socket_outgoing_error',
  'migration_exec_outgoing',
  'migration_exec_incoming',
  'migration_fd_outgoing',
  'migration_fd_incoming',
  'savevm_send_colo_enable',
  'savevm_send_switchover_start',
  'savevm_section_skip',
  'save_xbzrle_page_overflow',
  'save_xbzrle_page_skipping',
  'get_queued_page_not_dirty',
  'migration_block_save_device_dirty',
]

const RAM_BYTES = 64 * 2 ** 20

const seen = new Map<string, Readonly<Record<string, TraceValue>>>()

async function withEverythingTraced(run: () => Promise<void>): Promise<void> {
  switchTraceEvents('*', true)
  using _ = onTrace((event, values) => void seen.set(event, values))
  try {
    await run()
  } finally {
    switchTraceEvents('*', false)
  }
}

const on = (vm: TestVm, ...capabilities: string[]) =>
  vm.migration.setCapabilities(capabilities.map((capability) => ({ capability, state: true })))

async function pair() {
  const from = await startOurs(RAM_BYTES)
  const to = await createVm({ ramBytes: RAM_BYTES, onOutput: (text) => from.console.push(text) })
  return {
    from,
    to,
    async [Symbol.asyncDispose]() {
      await from[Symbol.asyncDispose]()
      await to[Symbol.asyncDispose]()
    },
  }
}

async function untilStatus(vm: TestVm, status: string): Promise<void> {
  while (vm.migration.status !== status) await delay(5)
}

describe('trace events', { timeout: 120_000 }, () => {
  afterEach(() => void switchTraceEvents('*', false))

  it('have the names and arguments of stock QEMU', () => {
    const ours = traceEvents().filter(({ event }) => !event.startsWith('test_'))
    expect(ours.length).toBeGreaterThan(100)
    for (const { event, args } of ours) expect([event, args]).toEqual([event, stock[event]])
  })

  it('fire: XBZRLE', async () => {
    await withEverythingTraced(async () => {
      await using both = await pair()
      const { from, to } = both
      for (const vm of [from.vm, to]) on(vm, 'xbzrle')
      const incoming = await to.migration.incoming('tcp:127.0.0.1:0')
      await Promise.all([from.vm.migration.migrate(incoming.uri), incoming.done])
    })
    expect(seen.get('migrate_set_state')).toEqual({ new_state: 'completed' })
  })

  it('fire: auto-converge, and the wait for a bandwidth limit', async () => {
    await withEverythingTraced(async () => {
      await using both = await pair()
      const { from, to } = both
      on(from.vm, 'auto-converge')
      const { migration } = from.vm
      // A pass over what the guest writes all the time takes nearly half a second.
      migration.setParameters({ 'max-bandwidth': 20 << 20, 'downtime-limit': 0, 'cpu-throttle-initial': 30 })
      from.console.start('beat', 8192)
      const incoming = await to.migration.incoming('tcp:127.0.0.1:0')
      const { done } = migration.start(incoming.uri)
      while (!seen.has('cpu_throttle_set') && migration.status !== 'completed') await delay(20)
      migration.setParameters({ 'max-bandwidth': 0, 'downtime-limit': 10_000 })
      await Promise.all([done, incoming.done])
    })
    expect(seen.get('cpu_throttle_set')).toEqual({ new_throttle_pct: expect.any(Number) })
  })

  it('fire: a file, and a migration that is given up', async () => {
    const folder = scratchFolder()
    try {
      await withEverythingTraced(async () => {
        await using both = await pair()
        const { from, to } = both
        from.vm.migration.setParameters({ 'max-bandwidth': 1 << 20 })
        await from.console.run('fill', 48)
        const given = from.vm.migration.migrate(`file:${join(folder.path, 'cancelled')}`)
        await untilStatus(from.vm, 'active')
        from.vm.migration.cancel()
        await expect(given).rejects.toThrow()
        from.vm.migration.setParameters({ 'max-bandwidth': 0 })
        on(from.vm, 'background-snapshot')
        await from.vm.migration.migrate(`file:${join(folder.path, 'background')}`)
        from.vm.migration.setCapabilities([{ capability: 'background-snapshot', state: false }])
        await from.vm.migration.migrate(`file:${join(folder.path, 'stream')}`)
        await (await to.migration.incoming(`file:${join(folder.path, 'stream')}`)).done
        await expect(to.migration.migrate(`file:${folder.path}`)).rejects.toThrow()
      })
    } finally {
      folder.remove()
    }
    expect(seen.get('migrate_error')!.error_desc).toMatch(/directory/i)
  })

  it('fire: disks in the stream', async () => {
    const folder = scratchFolder()
    const vms: TestVm[] = []
    try {
      await withEverythingTraced(async () => {
        for (const name of ['a', 'b', 'c']) {
          const backend = await Drive.open(createDisk(join(folder.path, name), 3 << 20), { format: 'raw' })
          const migrationOptions = { blockDevices: [{ name: 'hd0', backend }], settings: { blockMigration: true } }
          vms.push(await createVm({ ramBytes: RAM_BYTES, onOutput: () => {}, migrationOptions }))
        }
        const [from, whole, incremental] = vms as [TestVm, TestVm, TestVm]
        for (const [source, to, option] of [
          [from, whole, 'block'],
          [whole, incremental, 'incremental'],
        ] as const) {
          const incoming = await to.migration.incoming('tcp:127.0.0.1:0')
          await Promise.all([source.migration.start(incoming.uri, { [option]: true }).done, incoming.done])
          expect(source.migration.capability('block')).toBe(false)
        }
      })
    } finally {
      for (const vm of vms) await vm[Symbol.asyncDispose]()
      folder.remove()
    }
    expect(seen.get('migration_block_progression')).toEqual({ percent: 100 })
  })

  it('fire: dirty bitmaps', async () => {
    const folder = scratchFolder()
    const vms: TestVm[] = []
    try {
      await withEverythingTraced(async () => {
        for (const name of ['a', 'b']) {
          const backend = await Drive.open(createDisk(join(folder.path, name), 3 << 20), { format: 'raw' })
          const migrationOptions = { blockDevices: [{ name: 'hd0', backend }] }
          vms.push(await createVm({ ramBytes: RAM_BYTES, onOutput: () => {}, migrationOptions }))
          if (name === 'b') break
          backend.bitmaps.add('marked').log.mark(0, 1)
          backend.bitmaps.add('clean')
        }
        const [from, to] = vms as [TestVm, TestVm]
        on(from, 'dirty-bitmaps')
        const incoming = await to.migration.incoming('tcp:127.0.0.1:0')
        await Promise.all([from.migration.migrate(incoming.uri), incoming.done])
      })
    } finally {
      for (const vm of vms) await vm[Symbol.asyncDispose]()
      folder.remove()
    }
    expect(seen.get('send_bitmap_bits')).toMatchObject({ start_sector: 0, nr_sectors: 6144 })
  })

  it('fire: multifd', async () => {
    await withEverythingTraced(async () => {
      await using both = await pair()
      const { from, to } = both
      for (const vm of [from.vm, to]) {
        on(vm, 'multifd')
        vm.migration.setParameters({ 'multifd-channels': 2 })
      }
      await from.console.run('fill', 48)
      const incoming = await to.migration.incoming('tcp:127.0.0.1:0')
      await Promise.all([from.vm.migration.migrate(incoming.uri), incoming.done])
    })
    expect([0, 1]).toContain(seen.get('multifd_recv_new_channel')!.id)
  })

  it('fire: postcopy with its own channel, a break and a recovery', async () => {
    await withEverythingTraced(async () => {
      await using both = await pair()
      const { from, to } = both
      for (const vm of [from.vm, to]) on(vm, 'postcopy-ram', 'postcopy-preempt')
      await from.console.run('fill', 48)
      const source = from.vm.migration
      source.setParameters({ 'max-bandwidth': 4 << 20, 'max-postcopy-bandwidth': 1 << 20, 'downtime-limit': 1 })
      from.console.start('beat', 8192)
      const incoming = await to.migration.incoming('tcp:127.0.0.1:0')
      const { done } = source.start(incoming.uri)
      await untilStatus(from.vm, 'active')
      source.startPostcopy()
      await untilStatus(to, 'postcopy-active')
      await untilStatus(from.vm, 'postcopy-active')
      while (!seen.has('get_queued_page')) await delay(5)
      source.pause()
      await untilStatus(from.vm, 'postcopy-paused')
      await untilStatus(to, 'postcopy-paused')
      const uri = await to.migration.recover('tcp:127.0.0.1:0')
      source.start(uri, { resume: true })
      await untilStatus(to, 'postcopy-active')
      source.setParameters({ 'max-postcopy-bandwidth': 0 })
      await Promise.all([done, incoming.done])
    })
  })

  it('have all fired by now, but for the rare ones', () => {
    const silent = traceEvents()
      .map(({ event }) => event)
      .filter((event) => !seen.has(event) && !RARE.includes(event) && !event.startsWith('test_'))
    expect(silent).toEqual([])
    for (const [event, values] of seen)
      expect([event, Object.keys(values)]).toEqual([event, Object.keys(stock[event]!)])
  })
})
