import { createServer, type Socket } from 'node:net'
import type { Logger, Machine } from '@ferryvm/core'
import { nodeCompressions } from '@ferryvm/core/node'
import { createMigration, createSnapshots, type Migration, type Snapshots } from '@ferryvm/migration'
import { createMonitor } from '@ferryvm/monitor'
import { exec } from '@ferryvm/transport-exec'
import { fd } from '@ferryvm/transport-fd'
import { file } from '@ferryvm/transport-file'
import { http, https } from '@ferryvm/transport-http'
import { rdma } from '@ferryvm/transport-rdma-sim'
import { tcp, unix } from '@ferryvm/transport-socket'
import { createTlsObjects, type TlsObjects, tlsChannelLayers } from '@ferryvm/transport-tls/objects'
import { openBackends } from './backends.ts'
import { listen, parseListenAddress } from './chardev.ts'
import { coloOf } from './colo/colo-options.ts'
import { Forks } from './fork/fork-process.ts'
import { type BuiltMachine, buildMachine, driverNames } from './machine-options.ts'
import { MemoryBackend } from './memory-backend.ts'
import { ProfileFile } from './profile.ts'
import type { RunOptions } from './run-options.ts'
import type { Terminal } from './terminal.ts'
import { startTracing, traceHelp } from './trace.ts'
import { UsageError } from './usage-error.ts'

/** With a profile to write, these end the machine in order. */
const STOP_SIGNALS = [
  ['SIGINT', 2],
  ['SIGTERM', 15],
] as const

/** `emu run`: builds the machine, connects consoles and monitors, and runs until it is quit. */
export async function run(options: RunOptions): Promise<void> {
  if (options.devices.some((d) => d.driver === 'help')) {
    console.log((await driverNames(options)).join('\n'))
    return
  }
  if (options.traces.some(({ enable }) => enable === 'help')) {
    console.log(traceHelp())
    return
  }
  using _tracing = startTracing(options.traces)
  const ended = Promise.withResolvers<number>()
  const log = stderrLogger()
  const { backends: memory, others: otherObjects } = MemoryBackend.among(options.objects)
  const objects = await makeObjects(otherObjects)
  const profile = await ProfileFile.open(options)
  const backends = await openBackends(options, log, () => ended.resolve(0))
  let built: BuiltMachine
  try {
    for (const backend of memory) await backend.open()
    built = await buildMachine(options, backends, log, memory)
  } catch (error) {
    await profile?.finish()
    await backends.close()
    for (const backend of memory) await backend.close()
    throw error
  }
  const { machine, plugins, drives } = built
  const web = { allowPlaintext: options.allowPlaintext }
  const builtIn = [tcp(), unix(), exec(), fd(), file(), https(web), http(web), rdma()]
  const transports = [...builtIn, ...plugins.flatMap((p) => p.transports ?? [])]
  const colo = coloOf(options.colo, transports)
  const migration = createMigration({
    machine,
    colo,
    uuid:
      options.uuid === undefined ? undefined : Uint8Array.from(Buffer.from(options.uuid.replaceAll('-', ''), 'hex')),
    transports,
    compressions: nodeCompressions,
    channelLayers: tlsChannelLayers(objects),
    plaintextFrom: options.allowPlaintext ? 'anywhere' : 'loopback',
    drives: [...drives.values()],
    blockDevices: options.drives.map(({ id, node }) => ({ name: id, node, backend: drives.get(id)! })),
    postcopyJournal: options.postcopyJournal === undefined ? undefined : `file:${options.postcopyJournal},offset=0`,
    log,
  })
  const snapshots = createSnapshots({
    machine,
    migration,
    drives: options.drives.map(({ id, node }) => ({ name: node, backend: drives.get(id)! })),
  })
  const forks = new Forks({ options, migration, drives, log })
  machine.on('shutdown', ({ exitCode }) => ended.resolve(exitCode))
  machine.on('fatal', (error) => {
    console.error(`emu: ${error.message}`)
    ended.resolve(1)
  })
  if (options.colo.dir) {
    colo.onExit(({ mode, reason }) => {
      if (reason !== 'error') return
      console.error(`emu: COLO: this ${mode} has lost the guest to the other side, or cannot go on`)
      ended.resolve(1)
    })
  }
  if (options.noReboot) machine.on('reset', ({ guest, reason }) => guest && void machine.shutdown(reason))
  if (options.reportSections) reportSections(migration)

  const closers: (() => Promise<void>)[] = []
  try {
    if (profile) {
      profile.start(machine)
      for (const [signal, number] of STOP_SIGNALS) process.once(signal, () => ended.resolve(128 + number))
    }
    closers.push(
      ...(await openMonitors(
        options,
        built,
        { migration, snapshots, objects, log, fork: () => forks.fork() },
        backends.terminal,
      )),
    )
    await begin(options, machine, { migration, snapshots }, ended)
    process.exitCode = await ended.promise
  } finally {
    const unwritten = await profile?.finish()
    if (unwritten !== undefined) {
      console.error(`emu: ${unwritten}`)
      process.exitCode = 1
    }
    await backends.close()
    await forks.finish()
    for (const close of closers) await close()
    await migration[Symbol.asyncDispose]()
    await machine[Symbol.asyncDispose]()
    for (const backend of memory) await backend.close(machine)
  }
}

/** Those of `-object`, in their order: one may refer to one before it. @throws UserObjectError */
async function makeObjects(texts: readonly string[]): Promise<TlsObjects> {
  const objects = createTlsObjects()
  for (const text of texts) await objects.addText(text)
  return objects
}

/** Starts the guest, or waits for one. */
async function begin(
  options: RunOptions,
  machine: Machine,
  { migration, snapshots }: { readonly migration: Migration; readonly snapshots: Snapshots },
  ended: PromiseWithResolvers<number>,
): Promise<void> {
  migration.autostart = !options.startPaused
  if (options.incoming === 'defer') migration.defer()
  else if (options.incoming) {
    const { lazy } = options
    const { done } = await migration.incoming(options.incoming, {
      lazy: lazy && { prefetch: lazy === 'all' },
    })
    done.catch((error: Error) => {
      console.error(`emu: incoming migration failed: ${error.message}`)
      ended.resolve(1)
    })
  } else {
    const run = !options.startPaused
    if (options.loadvm !== undefined) await snapshots.load(options.loadvm, { run })
    // A monitor is there already, and may be saving.
    else if (run) await snapshots.exclusive(async () => machine.start())
  }
}

async function openMonitors(
  options: RunOptions,
  { machine, drives }: BuiltMachine,
  parts: {
    readonly migration: Migration
    readonly snapshots: Snapshots
    readonly objects: TlsObjects
    readonly log: Logger
    readonly fork: () => ReturnType<Forks['fork']>
  },
  terminal: Terminal | undefined,
): Promise<(() => Promise<void>)[]> {
  const blocks = () =>
    options.drives.map(({ id }) => {
      const { path, format, readOnly } = drives.get(id)!
      return { device: id, file: path, format, readOnly }
    })
  const { name, uuid } = options
  const storage = {
    drives: options.drives.map(({ id, node }) => ({ device: id, node, drive: drives.get(id)! })),
    transports: [tcp(), unix()],
    layers: tlsChannelLayers(parts.objects),
    plaintextFrom: options.allowPlaintext ? 'anywhere' : 'loopback',
    log: parts.log,
  } as const
  const monitor = createMonitor({ machine, ...parts, name, uuid, blocks, storage })
  terminal?.connectMonitor(monitor.banner, (line) => monitor.executeHmp(line))
  const closers: (() => Promise<void>)[] = [() => monitor.closeStorage()]
  for (const where of options.qmp) {
    if (where === 'stdio') {
      if (terminal) throw new UsageError('-qmp stdio: the terminal is the serial port; use -serial none or another')
      monitor.attachQmp({ readable: process.stdin, writable: process.stdout })
      closers.push(letGoOfStdin)
      continue
    }
    closers.push(await listenForClients(where, (client) => monitor.attachQmp({ readable: client, writable: client })))
  }
  if (options.monitor === 'stdio') {
    if (terminal)
      throw new UsageError('-monitor stdio: the terminal is the serial port; use -serial mon:stdio to share it')
    monitor.attachHmp({ readable: process.stdin, writable: process.stdout })
    closers.push(letGoOfStdin)
  } else if (options.monitor !== 'none') {
    closers.push(
      await listenForClients(options.monitor, (client) => monitor.attachHmp({ readable: client, writable: client })),
    )
  }
  return closers
}

/** Who may still type must not keep the process. */
const letGoOfStdin = async (): Promise<void> => void process.stdin.destroy()

/** @returns hangs up on all of them, once they have what was written: a client that stays must not keep the process */
async function listenForClients(where: string, attach: (client: Socket) => void): Promise<() => Promise<void>> {
  const clients = new Set<Socket>()
  const server = createServer((client) => {
    clients.add(client)
    client.once('close', () => clients.delete(client))
    attach(client)
  })
  await listen(server, parseListenAddress(where))
  return async () => {
    server.close()
    for (const client of clients) client.destroySoon()
  }
}

/** One JSON line on stderr for every section of device state, while it happens. */
function reportSections(migration: Migration): void {
  migration.on('section', ({ direction, type, idstr, instanceId, priority, version, bytes, ms }) => {
    if (type === 'full') {
      console.error(JSON.stringify({ section: { idstr, instanceId, priority, version, bytes, ms }, direction }))
    }
  })
}

function stderrLogger(): Logger {
  const debug = Boolean(process.env.FERRY_DEBUG)
  return {
    debug: (message, facts) => debug && console.error(`emu: ${message}`, facts ?? ''),
    warn: (message) => console.error(`emu: warning: ${message}`),
    guestError: (message, facts) => debug && console.error(`guest error: ${message}`, facts ?? ''),
  }
}
