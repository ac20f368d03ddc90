import { spawn } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { QmpClient, type QmpEvent } from '../../apps/emu/src/qmp-client.ts'
import { root } from '../harness/emu.ts'
import { scratchFolder, stockQemuCommand, stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { BenchConsole, benchImage } from './bench-guest.ts'
import { copyOverSocket } from './socket-copy.ts'

const RAM_MIB = 256
const MiB = 2 ** 20
const DOWNTIME_LIMIT_MS = 30
const MOVES = 3
/** KiB that the guest writes to, over and over, while it moves. */
const DIRTY_KIB = 4096

/**
 * A guest with 256 MiB of RAM, all of it in use, moves between processes over TCP on this machine, without a bandwidth limit:
 * the command line on both sides, driven over QMP. Beside it a bare socket that copies as many bytes, and stock QEMU.
 */
export default async function precopyBench(report: (line: string) => void): Promise<void> {
  const folder = scratchFolder()
  const image = join(folder.path, 'bench.bin')
  writeFileSync(image, benchImage)
  const machine = ['-M', 'virt', '-m', `${RAM_MIB}M`, '-bios', 'none', '-kernel', image]
  const emu = [
    '--conditions=source',
    '--disable-warning=ExperimentalWarning',
    join(root, 'apps/emu/src/main.ts'),
    'run',
  ]
  const missing = stockQemuMissing()
  const kinds = [{ name: 'ours', command: process.execPath, args: [...emu, ...machine] }]
  if (missing) report(`${missing}: our figures alone`)
  else {
    const args = ['-display', 'none', '-nodefaults', '-monitor', 'none', ...machine]
    kinds.push({ name: 'stock QEMU', command: stockQemuCommand, args })
  }
  try {
    for (const { name, command, args } of kinds) {
      const start = (incoming: boolean) => startSide(folder.path, command, args, incoming)
      let side = await start(false)
      try {
        await side.console.ready()
        await side.console.run('fill', RAM_MIB)
        for (const load of ['idle', 'beat'] as const) {
          const moves: Move[] = []
          const sockets: number[] = []
          if (load === 'beat') side.console.start('beat', DIRTY_KIB)
          for (let i = 0; i < MOVES; i++) {
            const to = await start(true)
            to.console = side.console
            to.console.type = to.type
            try {
              moves.push(await move(side, to))
            } finally {
              side.kill()
              side = to
            }
            sockets.push(moves.at(-1)!.bytes / (await copyOverSocket(moves.at(-1)!.bytes)))
          }
          const best = Math.max(...moves.map((m) => m.bytes / m.seconds))
          const socket = Math.max(...sockets)
          const doing = load === 'idle' ? 'guest idle' : `guest writes ${DIRTY_KIB / 1024} MiB over and over`
          report(
            `${name}, ${doing}: ${(best / MiB).toFixed(0)} MiB/s (bare socket ${(socket / MiB).toFixed(0)}; ` +
              `ratio ${(best / socket).toFixed(2)}); stopped for ${median(moves.map((m) => m.stoppedMs)).toFixed(0)} ms by events, ` +
              `${median(moves.map((m) => m.downtimeMs)).toFixed(0)} by query-migrate` +
              (load === 'beat'
                ? `, ${median(moves.map((m) => m.silentMs)).toFixed(0)} of silence on the console; ` +
                  `${median(moves.map((m) => m.syncs))} passes`
                : ''),
          )
        }
      } finally {
        side.kill()
      }
    }
  } finally {
    folder.remove()
  }
}

interface Side {
  readonly qmp: QmpClient
  /** It moves with the guest. */
  console: BenchConsole
  /** When something came from the console, ms of this process's clock. */
  readonly heard: number[]
  type(text: string): void
  kill(): void
}

let sides = 0

async function startSide(folder: string, command: string, args: string[], incoming: boolean): Promise<Side> {
  const socket = join(folder, `${++sides}.qmp`)
  const options = [
    '-serial',
    'stdio',
    '-qmp',
    `unix:${socket},server=on,wait=off`,
    ...(incoming ? ['-incoming', 'defer'] : []),
  ]
  const child = spawn(command, [...args, ...options], { stdio: ['pipe', 'pipe', 'inherit'] })
  child.stdin.on('error', () => {})
  const type = (text: string) => void child.stdin.write(text)
  const side = { heard: [] as number[], type, kill: () => void child.kill('SIGKILL'), console: new BenchConsole(type) }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    side.heard.push(performance.now())
    side.console.push(text)
  })
  while (!existsSync(socket) && child.exitCode === null) await delay(5)
  return Object.assign(side, { qmp: await QmpClient.connect(socket) })
}

interface Move {
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

async function move(from: Side, to: Side): Promise<Move> {
  await from.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 0, 'downtime-limit': DOWNTIME_LIMIT_MS })
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
const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!
