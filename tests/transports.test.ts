/** `exec:`, `fd:` and `file:` between processes: one guest goes through all of them and has to notice nothing. */
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { createGuestMonitor, type GuestMonitor } from '@ferryvm/embedded-guest'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type EmuProcess, emu } from './harness/emu.ts'
import { createDisk } from './harness/vm.ts'
import { speakQmp } from './stock-qemu/stock-qemu.ts'

interface Machine extends EmuProcess {
  qmp(execute: string, parameters?: Record<string, unknown>): Promise<any>
  /** Waits for the end of the migration: its `query-migrate`. */
  migrate(uri: string): Promise<any>
}

let folder: string
let machines: Machine[]
let guest: GuestMonitor
const path = (name: string) => join(folder, name)

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ferryvm-transports-'))
  createDisk(path('disk.img'), 4 * 2 ** 20)
  machines = []
  guest = createGuestMonitor()
})
afterEach(async () => {
  for (const { child } of machines) child.kill('SIGKILL')
  await Promise.all(machines.map((machine) => machine.exited))
  rmSync(folder, { recursive: true })
})

async function start(more: readonly string[] = [], inherit: readonly (number | 'pipe')[] = []): Promise<Machine> {
  const socket = path(`qmp${machines.length}`)
  const started = emu(
    [
      ...['run', '-m', '32M', '-serial', 'stdio', '-monitor', 'none', '-qmp', `unix:${socket},server=on`],
      ...['-guest', 'dirtyBytes=4M,dirtyBytesPerSecond=4M,lcgStepsPerSecond=200000,linesPerSecond=20'],
      ...['-drive', `file=${path('disk.img')},if=none,id=d,format=raw`, '-device', 'virtio-blk-pci,drive=d'],
      ...more,
    ],
    folder,
    inherit,
  )
  started.child.stdout!.on('data', (text: string) => guest.push(text))
  const qmp = speakQmp(await dial(started, socket))
  await qmp('qmp_capabilities')
  const machine: Machine = {
    ...started,
    qmp,
    async migrate(uri) {
      await qmp('migrate', { uri })
      for (;;) {
        const info = await qmp('query-migrate')
        if (['completed', 'failed', 'cancelled'].includes(info.status)) return info
        await delay(10)
      }
    },
  }
  machines.push(machine)
  return machine
}

async function dial({ child, out }: EmuProcess, socket: string): Promise<Socket> {
  for (let i = 0; i < 1000 && child.exitCode === null; i++, await delay(10)) {
    if (!existsSync(socket)) continue
    const connection = connect(socket)
    const failure = await new Promise((resolve) => connection.once('connect', resolve).once('error', resolve))
    if (!failure) return connection
  }
  throw new Error(`emu has no monitor: ${out.stderr}`)
}

/** What `emu inspect` says about a stream. */
async function inspect(name: string): Promise<any> {
  const process = emu(['inspect', '--json', name], folder)
  expect((await process.exited).code, process.out.stderr).toBe(0)
  return JSON.parse(process.out.stdout)
}

const goesOn = async () => {
  const { lines } = guest
  await guest.until((g) => g.lines > lines + 3, 30_000)
}
async function verdict(machine: Machine): Promise<void> {
  machine.type('q')
  await guest.until((g) => g.verdicts.length > 0, 30_000)
  expect(guest.problems).toEqual([])
  expect(guest.verdicts[0]).toMatchObject({ ok: true, errors: 0 })
}
async function leave(machine: Machine, uri: string): Promise<void> {
  expect(await machine.migrate(uri), machine.out.stderr).toMatchObject({ status: 'completed' })
  await machine.qmp('quit')
  await machine.exited
}

describe('one guest', { timeout: 120_000 }, () => {
  it('goes through commands, files at an offset, sockets and files as descriptors', async () => {
    let here = await start()
    await guest.until((g) => (g.last?.requests ?? 0) > 20, 30_000)

    // A command that never answers must not be waited for: stock's `exec:cat > file` completes.
    await leave(here, 'exec:cat > plain')
    here = await start(['-incoming', 'exec:cat plain'])
    await goesOn()

    await leave(here, 'exec:gzip -1 | cat > packed.gz')
    here = await start(['-incoming', 'exec:gzip -dc packed.gz'])
    await goesOn()

    await leave(here, `file:${path('at')},offset=64K`)
    expect(readFileSync(path('at')).subarray(0, 65_540)).toEqual(
      Buffer.concat([Buffer.alloc(65_536), Buffer.from('QEVM')]),
    )
    expect(statSync(path('at')).mode & 0o777).toBe(0o600)
    const [packed, atOffset] = await Promise.all([inspect('exec:gzip -dc packed.gz'), inspect('file:at,offset=64K')])
    expect(packed.sections.map((s: { idstr: string }) => s.idstr)).toContain('0000:00:01.0/virtio-blk')
    expect(atOffset.sections.length).toBeGreaterThan(10)
    here = await start(['-incoming', `file:${path('at')},offset=0x10000`])
    await goesOn()

    await leave(here, 'file:relative')
    const number = openSync(path('relative'), 'r')
    here = await start(['-incoming', 'fd:3'], [number])
    closeSync(number)
    await goesOn()

    const out = openSync(path('out'), 'w')
    const left = here
    await leave(here, 'exec:cat > last')
    here = await start(['-incoming', 'file:last'], [out, 'pipe'])
    closeSync(out)
    await goesOn()
    expect(left.child.exitCode).toBe(0)

    // Descriptor 4 is a socket: the destination says when it has everything, the source waits for it.
    const there = await start(['-incoming', 'fd:3'], ['pipe'])
    const [a, b] = [here.child.stdio[4], there.child.stdio[3]] as Duplex[] as [Duplex, Duplex]
    a.pipe(b)
    b.pipe(a)
    await leave(here, 'fd:4')
    await goesOn()
    await verdict(there)
  })

  it('runs on when what it was to go through fails, and says what failed', async () => {
    const full = openSync('/dev/full', 'w')
    const machine = await start([], [full])
    closeSync(full)
    await guest.until((g) => (g.last?.requests ?? 0) > 5, 30_000)
    const failures: [string, RegExp][] = [
      ['exec:cat > /dev/full', /the command "cat > \/dev\/full" ended with status 1/],
      ['exec:cat > /dev/null; exit 5', /ended with status 5/],
      ['exec:no-such-program', /ended with status 127 \(the shell did not find it\)/],
      ['exec:head -c 100000 > /dev/null', /does not read any further/],
      ['file:/dev/full', /cannot write \/dev\/full at offset 0: no space left on the device/],
      [`file:${path('no/such/folder')}`, /no such file or directory/],
      ['fd:3', /ENOSPC/],
      ['fd:77', /this process has no such descriptor/],
    ]
    for (const [uri, message] of failures) {
      const info = await machine.migrate(uri)
      expect(info.status, uri).toBe('failed')
      expect(info['error-desc'], uri).toMatch(message)
      expect((await machine.qmp('query-status')).status).toBe('running')
      await goesOn()
    }
    // A command that reads nothing holds the stream up; cancelling ends the command, too.
    await machine.qmp('migrate', { uri: 'exec:echo $$ > pid; exec sleep 1000' })
    await delay(1000)
    expect((await machine.qmp('query-migrate')).status).toMatch(/active|device/)
    await machine.qmp('migrate_cancel')
    while ((await machine.qmp('query-migrate')).status !== 'cancelled') await delay(10)
    const pid = Number(readFileSync(path('pid'), 'latin1'))
    await expect.poll(() => existsSync(`/proc/${pid}`), { timeout: 10_000 }).toBe(false)
    await goesOn()
    await expect(machine.qmp('migrate', { uri: 'fd:from-getfd' })).rejects.toThrow(/getfd/)
    await expect(machine.qmp('migrate', { uri: 'file:x,offset=1Q' })).rejects.toThrow(/is not a size/)

    // With the capability the command's output is the destination's answer, here a SHUT in time (ram.md section 10).
    await machine.qmp('migrate-set-capabilities', { capabilities: [{ capability: 'return-path', state: true }] })
    expect((await machine.migrate('file:answers'))['error-desc']).toMatch(/return-path/)
    await goesOn()
    await leave(
      machine,
      "exec:exec 3<&0; cat <&3 > saved & sleep 4; printf '\\000\\001\\000\\004\\000\\000\\000\\000'; wait",
    )
    // The stream asks for answers; nobody hears them.
    const again = await start(['-incoming', 'file:saved'])
    await goesOn()
    await verdict(again)
  })

  it.each([
    ['exec:exit 4', /the command "exit 4" ended with status 4/],
    ['exec:head -c 5000 /dev/zero', /not a migration stream/],
    ['file:nothing-here', /cannot read nothing-here: no such file or directory/],
    ['fd:999', /this process has no such descriptor/],
    ['fd:name', /getfd/],
  ])('that cannot arrive by %s is an error', async (uri, message) => {
    const process = emu(['run', '-serial', 'none', '-monitor', 'none', '-incoming', uri], folder)
    const timer = setTimeout(() => process.child.kill('SIGKILL'), 20_000)
    expect((await process.exited).code, process.out.stderr).toBe(1)
    clearTimeout(timer)
    expect(process.out.stderr).toMatch(message)
  })
})
