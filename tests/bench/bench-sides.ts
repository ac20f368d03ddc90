/** Two emulators of any kind between which a guest moves, driven over QMP, for benchmarks. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { QmpClient, type QmpEvent } from '../../apps/emu/src/qmp-client.ts'
import { root } from '../harness/emu.ts'
import { BenchConsole } from './bench-guest.ts'

const DOWNTIME_LIMIT_MS = 30

/** What comes before the options of a machine when `emu run` is started from sources. */
export const emuArgs: readonly string[] = [
  '--conditions=source',
  '--disable-warning=ExperimentalWarning',
  join(root, 'apps/emu/src/main.ts'),
  'run',
]
/** Likewise for stock QEMU. */
export const stockArgs: readonly string[] = ['-display', 'none', '-nodefaults', '-monitor', 'none']

export interface Side {
  readonly pid: number
  readonly qmp: QmpClient
  /** It moves with the guest. */
  console: BenchConsole
  /** When something came from the console, ms of this process's clock. */
  readonly heard: number[]
  type(text: string): void
  kill(): void
}

let sides = 0

export async function startSide(
  folder: string,
  command: string,
  args: readonly string[],
  incoming: boolean,
  env: Readonly<Record<string, string>> = {},
): Promise<Side> {
  const socket = join(folder, `${++sides}.qmp`)
  const options = [
    '-serial',
    'stdio',
    '-qmp',
    `unix:${socket},server=on,wait=off`,
    ...(incoming ? ['-incoming', 'defer'] : []),
  ]
  const child = spawn(command, [...args, ...options], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  })
  child.stdin.on('error', () => {})
  const type = (text: string) => void child.stdin.write(text)
  const side = {
    pid: child.pid!,
    heard: [] as number[],
    type,
    kill: () => void child.kill('SIGKILL'),
    console: new BenchConsole(type),
  }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    side.heard.push(performance.now())
    side.console.push(text)
  })
  while (!existsSync(socket) && child.exitCode === null) await delay(5)
  return Object.assign(side, { qmp: await QmpClient.connect(socket) })
}

export interface Move {
  /** That went over the wire while the source sent. */
  readonly bytes: number
  readonly seconds: number
  readonly downtimeMs: number
  /** From STOP at the source to RESUME at the destination. */
  readonly stoppedMs: number
  /** The longest time between two pieces of console output around the switch. */
  readonly silentMs: number
  readonly syncs: number
}

/** As fast as it goes. @param parameters of both ends, beside that */
export async function move(from: Side, to: Side, parameters: Readonly<Record<string, unknown>> = {}): Promise<Move> {
  await to.qmp.execute('migrate-set-parameters', parameters)
  await from.qmp.execute('migrate-set-parameters', {
    'max-bandwidth': 0,
    'downtime-limit': DOWNTIME_LIMIT_MS,
    ...parameters,
  })
  await to.qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' })
  const [{ port }] = (await to.qmp.execute('query-migrate'))['socket-address']
  await from.qmp.execute('migrate', { uri: `tcp:127.0.0.1:${port}` })
  const resumed = await to.qmp.waitEvent((e) => e.event === 'RESUME')
  const stopped = await from.qmp.waitEvent((e) => e.event === 'STOP')
  for (;;) {
    const info = await from.qmp.execute('query-migrate')
    if (info.status === 'failed') throw new Error(`migration failed: ${info['error-desc']}`)
    if (info.status !== 'completed') {
      await delay(10)
      continue
    }
    await delay(50)
    return {
      bytes: info.ram.transferred,
      seconds: (info['total-time'] - info['setup-time']) / 1000,
      downtimeMs: info.downtime,
      stoppedMs: timeOf(resumed) - timeOf(stopped),
      silentMs: (to.heard[0] ?? Number.NaN) - (from.heard.at(-1) ?? Number.NaN),
      syncs: info.ram['dirty-sync-count'],
    }
  }
}

const timeOf = ({ timestamp }: QmpEvent) => timestamp.seconds * 1000 + timestamp.microseconds / 1000
export const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!
