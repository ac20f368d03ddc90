/** Trace events of TLS, RDMA and COLO; those of everything else are in trace.test.ts. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTrace, silentLogger, switchTraceEvents, type TraceValue, traceEvents, withLayer } from '@ferryvm/core'
import { createMigration } from '@ferryvm/migration'
import { rdma } from '@ferryvm/transport-rdma-sim'
import { tcp } from '@ferryvm/transport-socket'
import { loadTlsCredentials, tls } from '@ferryvm/transport-tls'
import { initTlsFolder } from '@ferryvm/transport-tls/pki'
import { afterAll, describe, expect, it } from 'vitest'
import { createFakeMachine } from '../packages/migration/src/testing/fake-machine.ts'
import { createPair, until, verdict } from './colo/colo-pair.ts'

const stock: Readonly<Record<string, Readonly<Record<string, string>>>> = JSON.parse(
  readFileSync(join(import.meta.dirname, '__fixtures__/trace-events.json'), 'utf8'),
)
const folder = mkdtempSync(join(tmpdir(), 'ferry-trace-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** What comes only when a link is too slow for what is written to it. */
const RARE = ['qemu_rdma_write_one_block', 'qemu_rdma_write_one_queue_full']

const seen = new Map<string, Readonly<Record<string, TraceValue>>[]>()

async function traced(patterns: readonly string[], run: () => Promise<void>): Promise<void> {
  for (const pattern of patterns) switchTraceEvents(pattern, true)
  using _ = onTrace((event, values) => void seen.set(event, [...(seen.get(event) ?? []), values]))
  try {
    await run()
  } finally {
    for (const pattern of patterns) switchTraceEvents(pattern, false)
  }
}

/** Of the events that a pattern means: they are stock's, and all have fired. */
function expectAllFired(pattern: string): void {
  const events = traceEvents(pattern)
  expect(events.length).toBeGreaterThan(0)
  for (const { event, args } of events) expect([event, args]).toEqual([event, stock[event]])
  expect(events.map(({ event }) => event).filter((event) => !seen.has(event) && !RARE.includes(event))).toEqual([])
  for (const [event, values] of seen)
    expect([event, Object.keys(values[0]!)]).toEqual([event, Object.keys(stock[event]!)])
}

describe('trace events', { timeout: 120_000 }, () => {
  it('fire: TLS that both ends accept, and TLS that one refuses', async () => {
    await initTlsFolder(folder, { hosts: ['here.example'] })
    const [client, server] = await Promise.all(
      (['client', 'server'] as const).map((endpoint) => loadTlsCredentials({ kind: 'x509', dir: folder, endpoint })),
    )
    const context = { signal: new AbortController().signal, log: silentLogger }
    const meet = async (hostname: string) => {
      const transport = withLayer(tcp(), tls({ hostname, credentials: [client!, server!] }))
      await using listener = await transport.listen(transport.parseAddress('127.0.0.1:0'), context)
      const far = listener[Symbol.asyncIterator]().next()
      const near = await transport.connect(listener.address, context)
      await near.close()
      await (await far).value.close()
    }
    await traced(['migration_tls_*'], async () => {
      await meet('here.example')
      await expect(meet('there.example')).rejects.toThrow('here.example')
      // A client that says no TLS at all.
      const transport = withLayer(tcp(), tls({ credentials: [server!] }))
      await using listener = await transport.listen(transport.parseAddress('127.0.0.1:0'), context)
      const plain = await tcp().connect(listener.address, context)
      await plain.write([new TextEncoder().encode('QEVM, and not TLS')])
      void listener[Symbol.asyncIterator]().next()
      await until(() => seen.has('migration_tls_incoming_handshake_error'), 'the server minded')
      await plain.close()
    })
    expect(seen.get('migration_tls_outgoing_handshake_start')![0]).toEqual({ hostname: 'here.example' })
    expectAllFired('migration_tls_*')
  })

  it('fire: RDMA with everything pinned, and chunk by chunk', async () => {
    await traced(['rdma_*', 'qemu_rdma_*'], async () => {
      for (const options of [{ pinAll: true }, { pinAll: false, unregister: true }]) {
        const [a, b] = [createFakeMachine({ ramPages: 600 }), createFakeMachine({ ramPages: 600 })]
        const [from, to] = [a, b].map((machine) => createMigration({ machine, transports: [rdma(options)] })) as [
          any,
          any,
        ]
        // Memory that nobody has written to: chunks of zeros, with which only a destination that pins by chunks is told so.
        if (options.pinAll) a.start()
        else await a.stop()
        const { uri, done } = await to.incoming('rdma:127.0.0.1:0')
        await Promise.all([from.migrate(uri), done])
        await b.stop()
        expect(b.wrongPages()).toEqual([])
      }
    })
    expect(new Set(seen.get('qemu_rdma_accept_pin_state')!.map(({ pin }) => pin))).toEqual(new Set([true, false]))
    expectAllFired('rdma_*')
    expectAllFired('qemu_rdma_*')
  })

  it('fire: COLO, and a failover', async () => {
    await traced(['colo_*'], async () => {
      const { here, there, guest, exits, arrived } = await createPair(folder)
      await here.vm[Symbol.asyncDispose]()
      await until(() => exits.includes('second: secondary error'), 'the secondary reported it')
      there.control.lostHeartbeat()
      await arrived
      await verdict(there.vm, guest)
      await there.vm[Symbol.asyncDispose]()
    })
    expect(seen.get('colo_failover_set_state')!.map(({ new_state }) => new_state)).toEqual([
      'require',
      'active',
      'completed',
    ])
    expect(seen.get('colo_send_message')!.map(({ msg }) => msg)).toContain('vmstate-size')
    expectAllFired('colo_*')
  })
})
