import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { ChannelClosedError, defineTransport } from '@ferryvm/core'
import { CAPABILITIES, createMigration, PARAMETERS } from '@ferryvm/migration'
import { afterEach, describe, expect, it } from 'vitest'
import { createFakeMachine } from '../../../migration/src/testing/fake-machine.ts'
import { createMonitor } from '../index.ts'
import { qmpCommands } from './commands.ts'
import { QMP_EVENTS } from './events.ts'
import { JsonStream } from './json-stream.ts'
import type { SchemaInfo } from './schema.ts'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]()
})

/** Takes what is sent and never lets a write settle, until it is closed: a peer that does not read any more. */
const silentPeer = () =>
  defineTransport<string>({
    scheme: 'silent',
    features: new Set(),
    parseAddress: (text) => text,
    formatAddress: (text) => text,
    async connect() {
      let close = (_: Error) => {}
      const closed = new Promise<never>((_, reject) => {
        close = reject
      })
      closed.catch(() => {})
      return {
        features: new Set(),
        read: () => closed,
        write: () => closed,
        shutdown: async () => {},
        close: async (reason) => close(new ChannelClosedError('closed', { cause: reason })),
      }
    },
    async listen() {
      throw new Error('nobody comes')
    },
  })

function client(enable: string[] = []) {
  const machine = createFakeMachine({ name: 'virt', ramPages: 64 })
  const migration = createMigration({ machine, transports: [silentPeer()] })
  open.push(machine, migration)
  const monitor = createMonitor({ machine, migration })
  const readable = new PassThrough()
  const writable = new PassThrough()
  monitor.attachQmp({ readable, writable })
  const stream = new JsonStream()
  const replies: any[] = []
  writable.on('data', (bytes: Buffer) => {
    for (const event of stream.push(bytes.toString())) if ('value' in event) replies.push(event.value)
  })
  const send = async (request: object) => {
    readable.write(JSON.stringify({ ...request, id: 1 }))
    const end = performance.now() + 20_000
    for (;;) {
      const at = replies.findIndex((r) => r.id === 1)
      if (at >= 0) return replies.splice(at, 1)[0]
      if (performance.now() > end) throw new Error('no answer')
      await new Promise((done) => setTimeout(done, 2))
    }
  }
  const ready = send({ execute: 'qmp_capabilities', arguments: { enable } })
  return { machine, migration, send, ready }
}

describe('query-qmp-schema', () => {
  it('describes every command and event, and every type they lead to', async () => {
    const { send, ready } = client()
    await ready
    const schema: SchemaInfo[] = (await send({ execute: 'query-qmp-schema' })).return
    const byName = new Map(schema.map((entry) => [entry.name, entry]))
    expect(byName.size).toBe(schema.length)
    const names = (metaType: string) => schema.filter((e) => e['meta-type'] === metaType).map((e) => e.name)
    expect(names('command').sort()).toEqual(['qmp_capabilities', ...qmpCommands.keys()].sort())
    expect(names('event').sort()).toEqual(Object.keys(QMP_EVENTS).sort())
    const leadsTo = (entry: SchemaInfo): string[] => {
      switch (entry['meta-type']) {
        case 'command':
          return [entry['arg-type'], entry['ret-type']]
        case 'event':
          return [entry['arg-type']]
        case 'array':
          return [entry['element-type']]
        case 'object':
        case 'alternate':
          return entry.members.map((m) => m.type)
        default:
          return []
      }
    }
    expect(schema.flatMap(leadsTo).filter((name) => !byName.has(name))).toEqual([])

    /** As clients ask: `migrate-set-parameters/arg-type/xbzrle-cache-size`. */
    const member = (command: string, name: string) => {
      const entry = byName.get(command) as SchemaInfo & { 'arg-type': string }
      const args = byName.get(entry['arg-type']) as SchemaInfo & { members: { name: string; type: string }[] }
      return args.members.find((m) => m.name === name)
    }
    expect(member('migrate', 'uri')).toEqual({ name: 'uri', type: 'str', default: null })
    expect(member('snapshot-save', 'job-id')).toEqual({ name: 'job-id', type: 'str' })
    for (const name of Object.keys(PARAMETERS)) expect(member('migrate-set-parameters', name)).toBeDefined()
    const list = byName.get(member('migrate-set-capabilities', 'capabilities')!.type) as SchemaInfo & {
      'element-type': string
    }
    const element = byName.get(list['element-type']) as SchemaInfo & { members: { name: string; type: string }[] }
    const capability = byName.get(element.members.find((m) => m.name === 'capability')!.type)
    expect(capability).toMatchObject({ 'meta-type': 'enum', values: [...CAPABILITIES] })
    expect(byName.get('yank')).toMatchObject({ 'allow-oob': true })
    expect(byName.get('stop')).toMatchObject({ 'allow-oob': false })
  })

  const stock = stockMissing()
  it.skipIf(stock)(
    `has what stock QEMU has of the arguments of the same commands${stock ? ` (skipped: ${stock})` : ''}`,
    { timeout: 60_000 },
    async () => {
      const theirs = await stockSchema()
      const { send, ready } = client()
      await ready
      const ours: SchemaInfo[] = (await send({ execute: 'query-qmp-schema' })).return
      const typesOf = (schema: readonly any[], command: string) => {
        const byName = new Map(schema.map((e) => [e.name, e]))
        const entry = byName.get(command)
        const kind = (type: string) => byName.get(type)['json-type'] ?? byName.get(type)['meta-type']
        return (
          entry &&
          new Map<string, string>(byName.get(entry['arg-type']).members.map((m: any) => [m.name, kind(m.type)]))
        )
      }
      for (const command of [
        'migrate_cancel',
        'snapshot-save',
        'snapshot-delete',
        'job-dismiss',
        'pmemsave',
        'migrate-recover',
        'yank',
        'announce-self',
      ]) {
        expect(typesOf(ours, command), command).toEqual(typesOf(theirs, command))
      }
    },
  )
})

describe('yank', () => {
  it('ends a migration whose peer stopped reading; the guest runs on', async () => {
    const { machine, migration, send, ready } = client(['oob'])
    await ready
    machine.start()
    expect(await send({ execute: 'query-yank' })).toMatchObject({ return: [] })
    const gone = { instances: [{ type: 'migration' }] }
    expect((await send({ execute: 'yank', arguments: gone })).error).toEqual({
      class: 'DeviceNotFound',
      desc: 'Instance not found',
    })
    await send({ execute: 'migrate', arguments: { uri: 'silent:x' } })
    expect(await send({ execute: 'query-yank' })).toMatchObject({ return: [{ type: 'migration' }] })
    expect(await send({ 'exec-oob': 'yank', arguments: gone })).toMatchObject({ return: {} })
    const end = performance.now() + 20_000
    while (migration.status !== 'failed' && performance.now() < end) await new Promise((done) => setTimeout(done, 2))
    expect(migration.status).toBe('failed')
    expect(migration.error).toMatchObject({ code: 'FERRY_MIGRATION_YANKED' })
    expect(machine.runState).toBe('running')
    expect(await send({ execute: 'query-yank' })).toMatchObject({ return: [] })
    const other = { instances: [{ type: 'chardev', id: 'x' }] }
    expect((await send({ execute: 'yank', arguments: other })).error.class).toBe('DeviceNotFound')
  })

  it('goes past commands that wait; without oob asked for there is no exec-oob', async () => {
    const { send, ready } = client()
    await ready
    expect((await send({ 'exec-oob': 'query-yank' })).error.desc).toContain('exec-oob')
    expect((await send({ 'exec-oob': 'stop' })).error.desc).toContain('does not support OOB')
  })
})

function stockMissing(): string | undefined {
  try {
    execFileSync('qemu-system-riscv64', ['--version'], { stdio: 'ignore' })
    return undefined
  } catch {
    return process.env.CI || process.env.FERRY_REQUIRE_QEMU ? undefined : 'qemu-system-riscv64 is not installed'
  }
}

async function stockSchema(): Promise<readonly any[]> {
  const qemu = spawn('qemu-system-riscv64', ['-M', 'none', '-display', 'none', '-S', '-qmp', 'stdio'])
  const stream = new JsonStream()
  const values: any[] = []
  qemu.stdout.on('data', (bytes: Buffer) => {
    for (const event of stream.push(bytes.toString())) if ('value' in event) values.push(event.value)
  })
  qemu.stdin.write('{"execute":"qmp_capabilities"}{"execute":"query-qmp-schema"}{"execute":"quit"}')
  await once(qemu, 'close')
  return values.find((v) => Array.isArray(v.return)).return
}
