import type { Readable, Writable } from 'node:stream'
import type { MonitorContext, MonitorOptions, MonitorVersion } from './context.ts'
import { executeHmp } from './hmp/execute-hmp.ts'
import { Jobs } from './jobs.ts'
import type { QmpEventData, QmpEventName } from './qmp/events.ts'
import { QmpSession } from './qmp/qmp-session.ts'
import { Storage } from './storage/storage.ts'

/** A socket, or a pair of pipes. */
export interface MonitorClient {
  readonly readable: Readable
  readonly writable: Writable
}

/** The monitors of one machine. */
export interface Monitor {
  /** What an interactive monitor says first. */
  readonly banner: string
  /** Runs one line of the human monitor. Errors are text too. @returns what it prints, lines end with \n */
  executeHmp(line: string): Promise<string>
  /** Speaks QMP with a client until it goes. */
  attachQmp(client: MonitorClient): void
  /** An interactive human monitor without line editing. */
  attachHmp(client: MonitorClient): void
  /** Ends what commands have begun with disks: copies, the NBD server. */
  closeStorage(): Promise<void>
  /** Stops sending events; clients stay connected. */
  [Symbol.dispose](): void
}

/** The protocol is that of this version. */
const VERSION: MonitorVersion = { major: 10, minor: 0, micro: 0, package: 'ferryvm' }
/** A client that does not read gets this much buffered, then it is cut off. */
const MAX_UNREAD_BYTES = 16 << 20
const PROMPT = '(qemu) '

export function createMonitor(options: MonitorOptions): Monitor {
  const { machine, migration } = options
  const jobs = new Jobs((facts) => event('JOB_STATUS_CHANGE', facts))
  const storage = options.storage && new Storage(options.storage, jobs, (name, data) => event(name, data))
  const context: MonitorContext = {
    machine,
    migration,
    name: options.name,
    uuid: options.uuid,
    version: options.version ?? VERSION,
    blocks: options.blocks ?? (() => []),
    chardevs: options.chardevs ?? (() => []),
    objects: options.objects,
    snapshots: options.snapshots,
    jobs,
    storage,
    fork: options.fork,
    incomingFailed:
      options.onIncomingFailed ??
      ((error) => {
        console.error(`incoming migration failed: ${error.message}`)
        void machine.shutdown('host-error', 1)
      }),
    executeHmp: (line) => executeHmp(context, line),
  }
  const sessions = new Map<QmpSession, MonitorClient>()
  const event = <E extends QmpEventName>(name: E, data?: QmpEventData<E>) => {
    for (const session of sessions.keys()) session.event(name, data)
  }
  const migrationEvent = <E extends QmpEventName>(name: E, data: QmpEventData<E>) => {
    if (migration.capability('events')) event(name, data)
  }
  const subscriptions = [
    machine.on('stop', () => event('STOP')),
    machine.on('resume', () => {
      event('RESUME')
      void storage?.exports.takeBack()
    }),
    machine.on('reset', ({ guest, reason }) => event('RESET', { guest, reason })),
    machine.on('powerdown', () => event('POWERDOWN')),
    machine.on('shutdown', ({ guest, reason }) => {
      event('SHUTDOWN', { guest, reason })
      // Clients take the end of the connection as the end of the machine.
      for (const { writable } of sessions.values()) writable.end()
    }),
    migration.on('status', (status) => migrationEvent('MIGRATION', { status })),
    ...(migration.colo ? [migration.colo.onExit((facts) => event('COLO_EXIT', facts))] : []),
    migration.on('pass', (pass) => migrationEvent('MIGRATION_PASS', { pass })),
  ]

  return {
    banner: `ferryvm monitor (protocol of QEMU ${context.version.major}.${context.version.minor}); type 'help' for more`,
    executeHmp: context.executeHmp,
    attachQmp(client) {
      const send = sender(client)
      const session = new QmpSession(context, send)
      sessions.set(session, client)
      listen(
        client,
        (bytes) => session.receive(bytes),
        () => sessions.delete(session),
      )
    },
    attachHmp(client) {
      const send = sender(client)
      const decoder = new TextDecoder()
      let work = Promise.resolve()
      let partial = ''
      send(`${this.banner}\r\n${PROMPT}`)
      listen(client, (bytes) => {
        const lines = (partial + decoder.decode(bytes, { stream: true })).split('\n')
        partial = lines.pop()!.slice(-65536)
        for (const line of lines) {
          work = work.then(async () => {
            const output = await context.executeHmp(line)
            send(output.replaceAll('\n', '\r\n') + PROMPT)
          })
        }
      })
    },
    closeStorage: async () => storage?.close(),
    [Symbol.dispose]() {
      for (const subscription of subscriptions) subscription[Symbol.dispose]()
    },
  }
}

function sender({ writable }: MonitorClient): (text: string) => void {
  return (text) => {
    if (!writable.writable) return
    writable.write(text)
    if (writable.writableLength > MAX_UNREAD_BYTES) writable.destroy()
  }
}

function listen({ readable, writable }: MonitorClient, receive: (bytes: Buffer) => void, gone = () => {}): void {
  readable.on('data', receive)
  readable.on('end', gone)
  readable.on('close', gone)
  for (const stream of [readable, writable]) stream.on('error', gone)
}
