import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { nextTurn } from '@ferryvm/core'
import { createMigration } from '@ferryvm/migration'
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest'
import { createFakeMachine } from '../../migration/src/testing/fake-machine.ts'
import { loopTransport } from '../../migration/src/testing/loop-transport.ts'
import { createMonitor, type MonitorOptions } from './index.ts'

/** What libvirt sends for "no limit", 9223372036853727232, as JSON.parse reads it. */
const NO_LIMIT = Number('9223372036853727232')
const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]()
})
const folder = mkdtempSync(join(tmpdir(), 'ferry-monitor-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function setup(options: Partial<MonitorOptions> = {}, transports = [loopTransport()]) {
  const machine = createFakeMachine({ name: 'virt', ramPages: 64 })
  const migration = createMigration({ machine, transports })
  const monitor = createMonitor({ machine, migration, ...options })
  open.push(machine, migration)
  return { machine, migration, monitor }
}
function connect({ monitor }: ReturnType<typeof setup>) {
  const toMonitor = new PassThrough()
  const fromMonitor = new PassThrough()
  monitor.attachQmp({ readable: toMonitor, writable: fromMonitor })
  let text = ''
  let ended = false
  fromMonitor.on('data', (bytes) => (text += bytes))
  fromMonitor.on('end', () => (ended = true))
  let taken = 0
  const next = async (): Promise<any> => {
    // By the clock: some replies wait for a file, and turns are short.
    for (const until = performance.now() + 20_000; performance.now() < until; ) {
      const end = text.indexOf('\r\n', taken)
      if (end >= 0) {
        const line = text.slice(taken, end)
        taken = end + 2
        return JSON.parse(line)
      }
      await nextTurn()
    }
    throw new Error('no message')
  }
  const send = (message: unknown) => toMonitor.write(typeof message === 'string' ? message : JSON.stringify(message))
  return {
    next,
    send,
    ended: () => ended,
    /** Sends and collects events up to the reply. */
    async call(execute: string, args?: object): Promise<any> {
      send({ execute, arguments: args, id: 'call' })
      const events: any[] = []
      for (;;) {
        const message = await next()
        if (message.event) events.push(message)
        else return { ...message, events }
      }
    },
  }
}
async function negotiated(made: ReturnType<typeof setup>) {
  const client = connect(made)
  await client.next()
  expect((await client.call('qmp_capabilities', { enable: ['oob'] })).return).toEqual({})
  return client
}

describe('QMP sessions', () => {
  it('greets, insists on negotiation, and echoes ids of any type', async () => {
    const client = connect(setup())
    const greeting = await client.next()
    expect(greeting.QMP.version.qemu).toEqual({ major: 10, minor: 0, micro: 0 })
    expect(greeting.QMP.capabilities).toEqual(['oob'])
    client.send('{"execute":"query-status"}')
    expect(await client.next()).toEqual({
      error: { class: 'CommandNotFound', desc: "Expecting capabilities negotiation with 'qmp_capabilities'" },
    })
    client.send('{"execute":"qmp_capabilities","id":{"a":[1]}}{"execute":"query-target","id":0}{"execute":"query-kvm"}')
    expect(await client.next()).toEqual({ return: {}, id: { a: [1] } })
    expect(await client.next()).toEqual({ return: { arch: 'riscv64' }, id: 0 })
    expect(await client.next()).toEqual({ return: { enabled: false, present: false } })
    client.send({ execute: 'qmp_capabilities' })
    expect(await client.next()).toMatchObject({ error: { class: 'CommandNotFound' } })
  })

  it('names what is wrong with a command', async () => {
    const client = await negotiated(setup())
    const error = async (message: unknown) => {
      client.send(message)
      return (await client.next()).error
    }
    expect(await error({ execute: 'fly' })).toEqual({
      class: 'CommandNotFound',
      desc: 'The command fly has not been found',
    })
    expect(await error('[]')).toMatchObject({ desc: 'QMP input must be a JSON object' })
    expect(await error('{"a":}')).toMatchObject({ desc: 'Invalid JSON syntax' })
    expect(await error({ arguments: {} })).toMatchObject({ desc: "QMP input lacks member 'execute'" })
    expect(await error({ execute: 'stop', extra: 1 })).toMatchObject({ desc: "QMP input member 'extra' is unexpected" })
    expect(await error({ execute: 'stop', arguments: [] })).toMatchObject({
      desc: "QMP input member 'arguments' must be an object",
    })
    expect(await error({ execute: 'stop', arguments: { now: true } })).toMatchObject({
      desc: "Parameter 'now' is unexpected",
    })
    expect(await error({ execute: 'pmemsave', arguments: { val: 0 } })).toMatchObject({
      desc: "Parameter 'size' is missing",
    })
    expect(await error({ execute: 'migrate', arguments: { uri: 5 } })).toMatchObject({
      desc: "Invalid parameter type for 'uri', expected: string",
    })
    expect(await error({ 'exec-oob': 'stop' })).toMatchObject({ desc: 'The command stop does not support OOB' })
    expect(await error({ execute: 'migrate-set-parameters', arguments: { 'warp-factor': 9 } })).toMatchObject({
      class: 'GenericError',
      desc: 'parameter "warp_factor" does not exist',
    })
  })

  it('lists every command that it has, and itself', async () => {
    const client = await negotiated(setup())
    const names = (await client.call('query-commands')).return.map((c: { name: string }) => c.name)
    expect(names).toEqual([...names].sort())
    for (const name of [
      'qmp_capabilities',
      'query-commands',
      'migrate_cancel',
      'migrate-incoming',
      'human-monitor-command',
    ]) {
      expect(names).toContain(name)
    }
  })

  it('RESUME and STOP come before the reply to cont and stop; with a timestamp', async () => {
    const made = setup()
    const client = await negotiated(made)
    const before = Date.now() / 1000
    const { events } = await client.call('cont')
    expect(events.map((e: any) => e.event)).toEqual(['RESUME'])
    expect(events[0].timestamp.seconds).toBeGreaterThanOrEqual(Math.floor(before))
    expect(events[0].timestamp.microseconds).toBeLessThan(1e6)
    expect((await client.call('query-status')).return).toMatchObject({ status: 'running', running: true })
    expect((await client.call('stop')).events.map((e: any) => e.event)).toEqual(['STOP'])
    expect((await client.call('query-status')).return).toMatchObject({ status: 'paused', running: false })
    expect((await client.call('system_powerdown')).events.map((e: any) => e.event)).toEqual(['POWERDOWN'])
    expect((await client.call('system_reset')).events).toMatchObject([{ event: 'RESET', data: { guest: false } }])
  })

  it('quit: reply, SHUTDOWN, end of the connection', async () => {
    const client = await negotiated(setup())
    client.send({ execute: 'quit', id: 1 })
    expect(await client.next()).toEqual({ return: {}, id: 1 })
    expect(await client.next()).toMatchObject({ event: 'SHUTDOWN', data: { guest: false, reason: 'host-qmp-quit' } })
    for (let i = 0; i < 10 && !client.ended(); i++) await nextTurn()
    expect(client.ended()).toBe(true)
  })

  it('a client that reads nothing is cut off, and its memory freed', { timeout: 60_000 }, async () => {
    const { monitor } = setup()
    const toMonitor = new PassThrough()
    const fromMonitor = new PassThrough()
    fromMonitor.on('error', () => {})
    monitor.attachQmp({ readable: toMonitor, writable: fromMonitor })
    toMonitor.write('{"execute":"qmp_capabilities"}')
    const ask = '{"execute":"query-commands"}'.repeat(200)
    for (let sent = 0; !fromMonitor.destroyed && sent < 20_000; sent += 200) {
      toMonitor.write(ask)
      await nextTurn()
    }
    expect(fromMonitor.destroyed).toBe(true)
  })

  it('answers what libvirt, go-qemu and scripts ask', async () => {
    const made = setup({
      name: 'n',
      uuid: '00112233-4455-6677-8899-aabbccddeeff',
      blocks: () => [{ device: 'hd0', file: '/d.img', readOnly: true }],
    })
    const client = await negotiated(made)
    expect((await client.call('query-version')).return).toMatchObject({ qemu: { major: 10 }, package: 'ferryvm' })
    expect((await client.call('query-name')).return).toEqual({ name: 'n' })
    expect((await client.call('query-uuid')).return).toEqual({ UUID: '00112233-4455-6677-8899-aabbccddeeff' })
    expect((await client.call('query-block')).return).toMatchObject([
      { device: 'hd0', inserted: { file: '/d.img', ro: true } },
    ])
    expect((await client.call('query-machines')).return).toMatchObject([{ name: 'virt' }])
    expect((await client.call('query-cpus-fast')).return).toEqual([])
    expect((await client.call('query-chardev')).return).toEqual([])
    const path = join(folder, 'mem')
    made.machine.memory.blocks[1]!.bytes.set([1, 2, 3, 4], 4096)
    await client.call('pmemsave', { val: 0x8000_1000, size: 4, filename: path })
    expect([...readFileSync(path)]).toEqual([1, 2, 3, 4])
  })
})

describe('migration over QMP (protocol.md section 2)', () => {
  it('from -incoming defer to completed, with events in order', async () => {
    const transports = [loopTransport()]
    const a = setup({}, transports)
    const b = setup({}, transports)
    b.migration.defer()
    const source = await negotiated(a)
    const destination = await negotiated(b)
    a.machine.start()
    await source.next() // RESUME
    expect((await destination.call('cont')).return).toEqual({}) // starts it once it is here
    await destination.call('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] })
    await source.call('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] })
    expect((await source.call('query-migrate')).return).toEqual({})
    const waiting = await destination.call('migrate-incoming', { uri: 'loop:x' })
    expect(waiting.events).toMatchObject([{ event: 'MIGRATION', data: { status: 'setup' } }])
    expect((await source.call('migrate', { uri: 'loop:x' })).return).toEqual({})
    const events: string[] = []
    for (;;) {
      const { event, data } = await source.next()
      events.push(event === 'MIGRATION' ? data.status : event)
      if (data?.status === 'completed') break
    }
    expect(events.slice(0, 2)).toEqual(['MIGRATION_PASS', 'active']) // the first sync belongs to the setup
    expect(events.slice(-4)).toEqual(['STOP', 'device', 'MIGRATION_PASS', 'completed'])
    const there: string[] = []
    for (;;) {
      const { event, data } = await destination.next()
      there.push(event === 'MIGRATION' ? data.status : event)
      if (data?.status === 'completed') break
    }
    expect(there).toEqual(['active', 'RESUME', 'completed'])
    expect((await source.call('query-migrate')).return).toMatchObject({ status: 'completed', ram: { remaining: 0 } })
    expect((await source.call('query-status')).return.status).toBe('postmigrate')
    expect((await source.call('migrate', { uri: 'loop:x' })).error).toMatchObject({ class: 'GenericError' })
    expect((await destination.call('query-status')).return).toMatchObject({ status: 'running' })
  })

  it('tells how a running migration will go on, and that none runs', async () => {
    const transports = [loopTransport()]
    const a = setup({}, transports)
    const b = setup({}, transports)
    b.migration.defer()
    const source = await negotiated(a)
    const destination = await negotiated(b)
    const forecast = async () => (await source.call('x-query-migrate-forecast')).return
    const inWords = async () =>
      (await source.call('human-monitor-command', { 'command-line': 'info migrate_forecast' })).return
    expect(await forecast()).toEqual({})
    expect(await inWords()).toContain('no precopy migration runs')
    const ram = a.machine.memory.blocks[1]!
    for (let at = 0; at < ram.sizeBytes; at += 4096) ram.bytes[at] = 1
    // It must still run when it is looked at, however busy the host is: it would take a minute, and no burst makes it believe that the
    // rest goes within the limit.
    const slow = ram.sizeBytes / 64
    await source.call('migrate-set-parameters', {
      'max-bandwidth': slow,
      'avail-switchover-bandwidth': slow,
      'downtime-limit': 1,
    })
    await destination.call('migrate-incoming', { uri: 'loop:x' })
    await source.call('migrate', { uri: 'loop:x' })
    // On a busy host one look may find that it is too early to say again.
    const {
      'remaining-time': remaining,
      downtime,
      advice,
    } = await vi.waitFor(async () => {
      const now = await forecast()
      expect(now.verdict).toBe('converges')
      return now
    }, 20_000)
    expect(remaining.p10).toBeLessThan(remaining.p90)
    expect(downtime.p50).toBeGreaterThan(0)
    expect(advice).toEqual([])
    await vi.waitFor(async () => expect(await inWords()).toMatch(/^ends in [\d.]+ s \(.* of downtime/), 20_000)
    await source.call('migrate_cancel')
  })

  it('lets network cards say again where the guest is: announce-self', async () => {
    const heard: string[] = []
    const card = (id: string) => ({
      id,
      type: 'virtio-net',
      path: '',
      device: { announce: () => void heard.push(id) },
    })
    const machine = createFakeMachine({ name: 'virt', ramPages: 64, devices: [card('a'), card('b')] })
    const migration = createMigration({ machine, transports: [] })
    open.push(machine, migration)
    const client = await negotiated(setup({ machine, migration }))
    machine.start()
    const times = { initial: 1, max: 2, rounds: 1, step: 1 }
    expect((await client.call('announce-self', times)).return).toEqual({})
    expect((await client.call('announce-self', { ...times, interfaces: ['b'], id: 'again' })).return).toEqual({})
    expect(heard).toEqual(['a', 'b', 'b'])
    expect((await client.call('announce-self', {})).error.desc).toBe("Parameter 'initial' is missing")
    expect((await client.call('announce-self', { ...times, rounds: 1001 })).error.desc).toContain("'rounds'")
    migration.setParameters({ 'announce-rounds': 1 })
    const hmp = (line: string) => client.call('human-monitor-command', { 'command-line': line })
    expect((await hmp('announce_self a,nobody')).return).toBe('')
    expect((await hmp('announce_self')).return).toBe('')
    expect(heard.slice(3)).toEqual(['a', 'a', 'b'])
  })

  it('switches trace events', async () => {
    const client = await negotiated(setup())
    const state = async (name: string) => (await client.call('trace-event-get-state', { name })).return
    const hmp = async (line: string) =>
      (await client.call('human-monitor-command', { 'command-line': line })).return as string
    expect(await state('vmstate_save')).toEqual([{ name: 'vmstate_save', state: 'disabled' }])
    await client.call('trace-event-set-state', { name: 'vmstate_s*', enable: true })
    expect(await state('vmstate_save')).toEqual([{ name: 'vmstate_save', state: 'enabled' }])
    expect((await state('vmstate_*')).length).toBeGreaterThan(10)
    expect(await hmp('info trace-events vmstate_save')).toBe('vmstate_save : state 1\r\n')
    await hmp('trace-event vmstate_s* off')
    expect(await hmp('info trace-events vmstate_save')).toBe('vmstate_save : state 0\r\n')
    expect((await client.call('trace-event-get-state', { name: 'no_such' })).error.desc).toContain('no_such')
  })

  it('refuses what makes no sense, by kind', async () => {
    const client = await negotiated(setup())
    const desc = async (name: string, args: object = {}) => (await client.call(name, args)).error?.desc
    expect(await desc('migrate-incoming', { uri: 'loop:x' })).toContain('-incoming defer')
    expect(await desc('migrate', {})).toContain('exactly one of')
    expect(await desc('migrate', { uri: 'loop:x', resume: true })).toContain('no paused postcopy')
    expect(await desc('migrate', { uri: 'pigeon:x' })).toContain('"pigeon" is unknown')
    expect(await desc('migrate-continue', { state: 'pre-switchover' })).toContain('state none')
    expect(
      await desc('migrate-set-capabilities', { capabilities: [{ capability: 'dirty-limit', state: true }] }),
    ).toContain('not implemented')
    expect(await desc('migrate-set-capabilities', { capabilities: [{ capability: 'multifd', state: false }] })).toBe(
      undefined,
    )
    expect(await desc('migrate-set-parameters', { 'downtime-limit': 2000001 })).toContain('downtime_limit')
    expect(await desc('migrate_cancel')).toBe(undefined)
    expect((await client.call('query-migrate')).return).toEqual({})
    await client.call('migrate-set-parameters', { 'max-bandwidth': NO_LIMIT })
    expect((await client.call('query-migrate-parameters')).return['max-bandwidth']).toBe(NO_LIMIT)
    const failed = await client.call('migrate', {
      channels: [{ 'channel-type': 'main', addr: { transport: 'socket', type: 'unix', path: '/x' } }],
    })
    expect(failed.error.desc).toContain('scheme "unix" is not available')
    for (const [addr, uri] of [
      [{ transport: 'file', filename: '/x', offset: 4096 }, 'file:/x,offset=4096'],
      [{ transport: 'exec', args: ['/bin/sh', '-c', 'cat > x'] }, 'exec:cat > x'],
      [{ transport: 'exec', args: ['/bin/nc', "it's", '1'] }, "exec:exec '/bin/nc' 'it'\\''s' '1'"],
    ] as const) {
      const answer = await client.call('migrate', { channels: [{ 'channel-type': 'main', addr }] })
      expect(answer.error.desc).toContain(`"${uri}"`)
    }
  })

  it('a guest that cannot be loaded is reported, unless exit-on-error is false', async () => {
    for (const exitOnError of [true, false]) {
      const transports = [loopTransport()]
      let reported: Error | undefined
      const a = setup({}, transports)
      const b = setup({ onIncomingFailed: (error) => (reported = error) }, transports)
      b.machine.memory.addBlock('surplus', 4096)
      a.machine.memory.addBlock('missing-there', 4096)
      b.migration.defer()
      const client = await negotiated(b)
      await client.call('migrate-incoming', { uri: 'loop:x', 'exit-on-error': exitOnError })
      await expect(a.migration.migrate('loop:x')).rejects.toThrow()
      for (let i = 0; i < 5; i++) await nextTurn()
      expect((await client.call('query-migrate')).return).toMatchObject({
        status: 'failed',
        'error-desc': expect.stringContaining('missing-there: this machine has no RAM block of that name'),
      })
      expect(reported !== undefined).toBe(exitOnError)
    }
  })
})

describe('the human monitor (protocol.md section 6)', () => {
  it('shows the order in which state is sent, by priority', async () => {
    const { monitor } = setup()
    const lines = (await monitor.executeHmp('info savevm-handlers')).trimEnd().split('\n')
    expect(lines.map((l) => l.trim().split(/\s+/).slice(0, 4))).toEqual([
      ['name', 'instance', 'priority', 'version'],
      ['fake-iommu', '0', '1', '1'],
      ['0000:00:01.0/fake-device', '0', '0', '2'],
      ['guest', '0', '0', '1'],
      ['ram', '0', '0', '4'],
      ['globalstate', '0', '0', '1'],
    ])
  })

  it('runs and stops, sets and shows', async () => {
    const { monitor, machine, migration } = setup()
    expect(await monitor.executeHmp('info status')).toBe('VM status: paused (prelaunch)\n')
    expect(await monitor.executeHmp('c')).toBe('')
    expect(machine.runState).toBe('running')
    expect(await monitor.executeHmp('stop')).toBe('')
    expect(await monitor.executeHmp('info status')).toBe('VM status: paused\n')
    expect(await monitor.executeHmp('migrate_set_parameter max-bandwidth 32')).toBe('')
    expect(migration.parameters['max-bandwidth']).toBe(32 << 20)
    await monitor.executeHmp('migrate_set_parameter max-bandwidth 64k')
    expect(await monitor.executeHmp('info migrate_parameters')).toContain('max-bandwidth: 65536 bytes/second\n')
    expect(await monitor.executeHmp('info migrate_parameters')).toContain("tls-creds: ''\n")
    await monitor.executeHmp('migrate_set_capability events on')
    expect(await monitor.executeHmp('info migrate_capabilities')).toContain('events: on\n')
    expect(await monitor.executeHmp('migrate_set_capability warp on')).toBe('Error: capability "warp" does not exist\n')
    expect(await monitor.executeHmp('frobnicate')).toBe("unknown command: 'frobnicate'\n")
    expect(await monitor.executeHmp('help migrate')).toContain('migrate [-d] [-b] [-i] [-r] uri')
    expect(await monitor.executeHmp('info registers')).toMatch(/^\nCPU#0\nhart 0 ticks/)
    expect(await monitor.executeHmp('info mtree')).toContain('0000000080000000-000000008003ffff (ram): fake.ram')
  })

  it('dumps memory', async () => {
    const { monitor, machine } = setup()
    machine.memory.blocks[1]!.bytes.set([0x97, 2, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x41, 0, 0, 0])
    expect(await monitor.executeHmp('xp /4xw 0x80000000')).toBe(
      '0000000080000000: 0x00000297 0xffffffff 0x00000041 0x00000000\n',
    )
    expect(await monitor.executeHmp('xp /2dg 0x80000000')).toBe('0000000080000000: -4294966633 65\n')
    expect(await monitor.executeHmp('xp /2c 0x80000008')).toBe("0000000080000008: 'A' '\\x00'\n")
    expect(await monitor.executeHmp('x /5xw 0x80000000')).toBe(
      '0000000080000000: 0x00000297 0xffffffff 0x00000041 0x00000000\n0000000080000010: 0x00000000\n',
    )
    expect(await monitor.executeHmp('xp /xw 0x10')).toContain('nothing can be read')
    expect(await monitor.executeHmp('xp /4xw nowhere')).toMatch(/^Error: address: "nowhere"/)
  })

  it('migrate waits for the end without -d, and says why it failed', async () => {
    const transports = [loopTransport()]
    const a = setup({}, transports)
    const b = setup({}, transports)
    expect(await a.monitor.executeHmp('migrate loop:x')).toBe('Error: nobody listens on loop:x\n')
    expect(await a.monitor.executeHmp('info migrate')).toContain(
      'Migration status: failed (nobody listens on loop:x)\n',
    )
    b.migration.defer()
    expect(await b.monitor.executeHmp('migrate_incoming loop:x')).toBe('')
    expect(await a.monitor.executeHmp('migrate loop:x')).toBe('')
    const text = await a.monitor.executeHmp('info migrate')
    expect(text).toMatch(/^globals:\n/)
    expect(text).toMatch(
      /Migration status: completed\ntotal time: \d+ ms\ndowntime: \d+ ms\nsetup: \d+ ms\ntransferred ram: \d+ kbytes\nthroughput: \d+\.\d\d mbps\nremaining ram: 0 kbytes\n/,
    )
  })

  it('works over a socket, with a prompt', async () => {
    const { monitor } = setup()
    const readable = new PassThrough()
    const writable = new PassThrough()
    monitor.attachHmp({ readable, writable })
    readable.write('info name\ninfo stat')
    readable.write('us\n')
    for (let i = 0; i < 5; i++) await nextTurn()
    expect(String(writable.read())).toMatch(
      /ferryvm monitor.*\r\n\(qemu\) \(qemu\) VM status: paused \(prelaunch\)\r\n\(qemu\) $/,
    )
  })
})
