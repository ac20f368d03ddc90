/** The two processes between which a guest moves while something is killed, and what became of it. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { createGuestMonitor } from '@ferryvm/embedded-guest'
import { QmpClient } from '../../apps/emu/src/qmp-client.ts'
import { main } from '../harness/emu.ts'
import type { PeerKind } from '../harness/peers.ts'
import { stockQemu10 } from '../stock-qemu/stock-10.ts'
import { stockQemuCommand } from '../stock-qemu/stock-qemu.ts'
import { NotStruckError } from './campaign.ts'
import type { CuttingProxy } from './cutting-proxy.ts'

export type Guest = ReturnType<typeof createGuestMonitor>

export interface Side {
  readonly qmp: QmpClient
  alive: boolean
  stderr: string
  type(text: string): void
  kill(): void
  status(): Promise<{ migration: string; running: boolean }>
}

let sides = 0
/** Long enough for a host on which ten processes want each core. */
const START_MS = 120_000
const GUEST_MS = 180_000

/**
 * A process with the embedded guest, or one that waits for it, driven over QMP.
 * @throws NotStruckError it does not answer in time, or ended by itself
 */
export async function startSide(
  kind: PeerKind,
  folder: string,
  files: { kernel: string; disk?: string; format?: 'raw' | 'qcow2'; locked?: true; extra?: readonly string[] },
  incoming: boolean,
  onOutput: (text: string) => void,
): Promise<Side> {
  const socket = join(folder, `${++sides}.qmp`)
  const own = kind.startsWith('emu')
  const binary = kind === '10.0' ? stockQemu10()! : { command: stockQemuCommand, args: [], env: {} }
  const common = [
    '-m',
    '32M',
    '-bios',
    'none',
    '-kernel',
    files.kernel,
    '-serial',
    'stdio',
    '-qmp',
    `unix:${socket},server=on,wait=off`,
  ]
  const locking = own || files.locked ? '' : ',file.locking=off'
  const image = `file=${files.disk},if=none,id=d,format=${files.format ?? 'raw'}${locking}`
  const drive = files.disk === undefined ? [] : ['-drive', image, '-device', 'virtio-blk-pci,drive=d']
  const waiting = incoming ? ['-incoming', 'defer'] : []
  const [command, args, env] = own
    ? [
        process.execPath,
        [
          '--conditions=source',
          '--disable-warning=ExperimentalWarning',
          main,
          'run',
          '-M',
          `virt,profile=qemu-${kind.slice(4)}`,
          ...common,
          ...drive,
          ...waiting,
          ...(files.extra ?? []),
        ],
        {},
      ]
    : [
        binary.command,
        [
          ...binary.args,
          '-M',
          'virt',
          '-display',
          'none',
          '-monitor',
          'none',
          '-nodefaults',
          ...common,
          ...drive,
          ...waiting,
        ],
        binary.env,
      ]
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } })
  const side: Side = {
    qmp: undefined as unknown as QmpClient,
    alive: true,
    stderr: '',
    type: (text) => void child.stdin.write(text),
    kill: () => void child.kill('SIGKILL'),
    async status() {
      const [migration, state] = await Promise.all([
        side.qmp.execute('query-migrate'),
        side.qmp.execute('query-status'),
      ])
      return { migration: migration.status ?? 'none', running: state.running }
    },
  }
  child.on('close', () => {
    side.alive = false
  })
  child.stdin.on('error', () => {})
  child.stderr.on('data', (text) => {
    side.stderr += text
  })
  child.stdout.setEncoding('utf8').on('data', onOutput)
  const ended = new Promise<never>((_, reject) =>
    child.on('close', (code) => reject(new Error(`it ended with ${code}`))),
  )
  ended.catch(() => {})
  const connected = QmpClient.connect(socket, START_MS)
  connected.catch(() => {})
  try {
    return Object.assign(side, { qmp: await Promise.race([connected, ended]) })
  } catch (error) {
    side.kill()
    throw new NotStruckError(`${kind} did not start: ${side.stderr}`, { cause: error })
  }
}

/** The guest is at work: by default, it has read from its disk. @throws NotStruckError */
export async function guestWorks(guest: Guest, atWork = (g: Guest) => (g.last?.requests ?? 0) > 10): Promise<void> {
  await guest.until(atWork, GUEST_MS).catch((cause) => {
    throw new NotStruckError('the guest did not begin in time', { cause })
  })
}

/**
 * Waits for the strike, or for the migration to be over without it.
 * @throws NotStruckError neither came, the host is slow
 * @throws what `wrong` makes: the migration failed, or its source ended, before anything was struck
 */
export async function strikeOf(
  proxy: CuttingProxy,
  source: Side,
  wrong: (what: string) => Error,
): Promise<'struck' | 'no strike'> {
  let over = false
  let hit = false
  void proxy.struck.then(() => {
    hit = true
  })
  const ended = async () => {
    while (!over) {
      const now = await source.status().catch(() => undefined)
      // The strike may have come while the answer was on its way.
      await delay(10)
      if (hit || over) break
      if (now?.migration === 'completed') return 'no strike' as const
      if (now?.migration === 'failed') throw wrong('the migration failed before anything was struck')
      if (!now && !source.alive) throw wrong('the source ended before anything was struck')
    }
    return 'struck' as const
  }
  const timer = new AbortController()
  try {
    return await Promise.race([
      proxy.struck.then(() => 'struck' as const),
      ended(),
      delay(GUEST_MS, undefined, { signal: timer.signal }).then(() => {
        throw new NotStruckError(`the step did not come within ${GUEST_MS} ms`)
      }),
    ])
  } finally {
    over = true
    timer.abort()
  }
}

export async function listening({ qmp }: Side, command: 'migrate-incoming' | 'migrate-recover'): Promise<string> {
  const before = (await qmp.execute('query-migrate'))['socket-address']?.at(-1).port
  await qmp.execute(command, { uri: 'tcp:127.0.0.1:0' })
  for (;;) {
    const port = (await qmp.execute('query-migrate'))['socket-address']?.at(-1).port
    if (port && port !== before) return `tcp:127.0.0.1:${port}`
    await delay(5)
  }
}

export async function until(holds: () => Promise<boolean>, timeoutMs = 60_000): Promise<void> {
  const limit = Date.now() + timeoutMs
  while (!(await holds())) {
    if (Date.now() > limit) throw new Error(`not within ${timeoutMs} ms`)
    await delay(10)
  }
}

const MOVING = [
  'setup',
  'active',
  'device',
  'cancelling',
  'postcopy-active',
  'postcopy-recover',
  'postcopy-recover-setup',
]
type End = Awaited<ReturnType<Side['status']>> | undefined

/**
 * Watches both until neither changes any more. Where nobody runs the guest although somebody lives, that takes longer: who fails may
 * still take it up.
 * @throws both run at once
 */
export async function settle(source: Side, destination: Side, wrong: (what: string) => Error, stockSource: boolean) {
  const look = (side: Side): Promise<End> =>
    side.alive ? side.status().catch(() => undefined) : Promise.resolve(undefined)
  let quiet = 0
  for (const limit = Date.now() + (stockSource ? 10_000 : 120_000); ; await delay(20)) {
    const [s, d] = [await look(source), await look(destination)]
    if (s?.running && d?.running) {
      if (stockSource) return { source: s, destination: d }
      throw wrong('two guests run')
    }
    const unknown = (!s && source.alive) || (!d && destination.alive)
    const moving = [s, d].some(
      (end) =>
        end &&
        MOVING.includes(end.migration) &&
        !(end === d && s === undefined && !source.alive && end.running && end.migration === 'completed'),
    )
    quiet = moving || unknown ? 0 : quiet + 1
    const certain = s?.running || d?.running || (!source.alive && !destination.alive)
    if (quiet >= (certain ? 10 : 100)) return { source: s, destination: d }
    if (Date.now() > limit && stockSource) return { source: s, destination: d }
    if (Date.now() > limit) throw wrong(`it does not come to rest: ${JSON.stringify([s, d])}`)
  }
}

/** The guest comes on, and is whole. */
export async function goesOn(guest: Guest, at: Side, wrong: (what: string) => Error): Promise<void> {
  const { lines } = guest
  await guest
    .until((g) => g.lines > lines + 2, GUEST_MS)
    .catch(() => {
      throw wrong('the guest is silent')
    })
  at.type('q')
  await guest
    .until((g) => g.verdicts.length > 0, GUEST_MS)
    .catch(() => {
      throw wrong('no verdict')
    })
  if (guest.problems.length > 0 || !guest.verdicts[0]!.ok) throw wrong(`the guest says ${guest.problems.join(' | ')}`)
}
