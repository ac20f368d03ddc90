import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { QmpClient } from '../../apps/emu/src/qmp-client.ts'
import { root } from '../harness/emu.ts'
import { stockQemu10, stockQemu10Missing } from '../stock-qemu/stock-10.ts'
import { scratchFolder } from '../stock-qemu/stock-qemu.ts'
import { benchImage } from './bench-guest.ts'
import { emuArgs, startSide, stockArgs } from './bench-sides.ts'
import { spread } from './cpu/statistics.ts'
import { threadTimes } from './cpu/thread-times.ts'

/** Of the guest's RAM, what it has filled. */
const FILLED = 0.7
/** The guest writes to so many KiB, over and over, and prints a dot every millisecond. */
const BEAT_KIB = 256
const CAPABILITIES = [{ capability: 'mapped-ram', state: true }]
const KINDS = ['emu, lazy', 'emu, eager', 'stock 10.0'] as const
type Kind = (typeof KINDS)[number]

/** Until the guest's first output: of the clock, and of all threads of the process. */
interface Sample {
  readonly wallMs: number
  readonly cpuMs: number
}

/**
 * Time from the start of a process to the first output of a guest that it restores from a mapped-ram file, and from the command to
 * that output when the process was there already. The command line that was built (`pnpm build`) if there is one, else that from
 * sources. `--ram=128,1024,3072` MiB, `--rounds=5`, `--sources`.
 */
export default async function lazyResume(report: (line: string) => void, options: readonly string[] = []) {
  const { values } = parseArgs({
    args: [...options],
    options: {
      ram: { type: 'string', default: '128,1024,3072' },
      rounds: { type: 'string', default: '5' },
      sources: { type: 'boolean', default: false },
    },
  })
  const built = join(root, 'apps/emu/dist/main.js')
  const useBuilt = !values.sources && existsSync(built)
  const emu = useBuilt ? ['--disable-warning=ExperimentalWarning', built, 'run'] : emuArgs
  report(
    useBuilt ? 'emu as it was built' : 'emu from sources, which takes longer to start (pnpm build makes the other)',
  )
  const missing = stockQemu10Missing()
  if (missing) report(`${missing}: our figures alone`)
  const kinds = KINDS.filter((kind) => !missing || kind !== 'stock 10.0')
  const folder = scratchFolder()
  try {
    const image = join(folder.path, 'bench.bin')
    writeFileSync(image, benchImage)
    for (const ramMiB of values.ram.split(',').map(Number)) {
      const bench = new Restore(folder.path, emu, image, ramMiB)
      await bench.save()
      const samples = new Map(kinds.map((kind) => [kind, { start: [] as Sample[], command: [] as Sample[] }]))
      for (let round = 0; round <= Number(values.rounds); round++) {
        for (const [kind, { start, command }] of samples) {
          const both = [await bench.fromStart(kind), await bench.fromCommand(kind)]
          // The first brings file and programs into memory.
          if (round === 0) continue
          start.push(both[0]!)
          command.push(both[1]!)
        }
      }
      for (const [kind, { start, command }] of samples) {
        report(`${ramMiB} MiB, ${kind}: from the start ${text(start)}; from the command ${text(command)}`)
      }
    }
  } finally {
    folder.remove()
  }
}

const text = (samples: readonly Sample[]): string => {
  const of = (values: readonly number[]) => {
    const { median, least, most } = spread(values)
    return `${median.toFixed(0)} ms (${least.toFixed(0)} to ${most.toFixed(0)})`
  }
  return `${of(samples.map((s) => s.wallMs))}, CPU ${of(samples.map((s) => s.cpuMs))}`
}

/** One saved guest, and processes that restore it. */
class Restore {
  readonly #folder: string
  readonly #emu: readonly string[]
  readonly #ramMiB: number
  readonly #uri: string
  readonly #image: string
  #sockets = 0

  constructor(folder: string, emu: readonly string[], image: string, ramMiB: number) {
    this.#folder = folder
    this.#emu = emu
    this.#image = image
    this.#ramMiB = ramMiB
    this.#uri = `file:${join(folder, 'saved.state')}`
  }

  async save(): Promise<void> {
    const args = [...this.#emu, ...this.#machine(true)]
    const side = await startSide(this.#folder, process.execPath, args, false)
    try {
      await side.console.ready()
      await side.console.run('fill', Math.floor(this.#ramMiB * FILLED), 120_000)
      side.console.start('beat', BEAT_KIB)
      await side.qmp.execute('migrate-set-capabilities', { capabilities: CAPABILITIES })
      await side.qmp.execute('migrate', { uri: this.#uri })
      for (;;) {
        const { status, 'error-desc': why } = await side.qmp.execute('query-migrate')
        if (status === 'completed') break
        if (status === 'failed') throw new Error(`the guest could not be saved: ${why}`)
        await delay(20)
      }
      // In order, so that what was compiled is kept for the next start.
      await side.qmp.execute('quit')
      while (existsSync(`/proc/${side.pid}`)) await delay(10)
    } finally {
      side.kill()
    }
  }

  async fromStart(kind: Kind): Promise<Sample> {
    const told = kind === 'emu, eager' ? ['-incoming', 'defer'] : ['-incoming', this.#uri]
    const lazy = kind === 'emu, lazy' ? ['-lazy'] : []
    const stock = kind === 'stock 10.0' ? ['-global', 'migration.mapped-ram=on'] : []
    const restoring = this.#start(kind, [...told, ...lazy, ...stock])
    try {
      // There is no option for a capability of ours.
      if (kind === 'emu, eager') await incoming(await restoring.qmp(), this.#uri)
      return await restoring.sinceStart()
    } finally {
      await restoring.kill()
    }
  }

  async fromCommand(kind: Kind): Promise<Sample> {
    const restoring = this.#start(kind, ['-incoming', 'defer'])
    try {
      const qmp = await restoring.qmp()
      // Until nothing of its start is left.
      await delay(300)
      const sample = restoring.sinceNow()
      await incoming(qmp, this.#uri, kind === 'emu, lazy')
      return await sample
    } finally {
      await restoring.kill()
    }
  }

  #machine(ours: boolean): string[] {
    const type = ours ? 'virt,profile=qemu-10.0' : 'virt'
    return ['-M', type, '-m', `${this.#ramMiB}M`, '-bios', 'none', '-kernel', this.#image]
  }

  #start(kind: Kind, more: readonly string[]): Restoring {
    const socket = join(this.#folder, `restore-${this.#ramMiB}-${++this.#sockets}.qmp`)
    const options = ['-serial', 'stdio', '-qmp', `unix:${socket},server=on,wait=off`, ...more]
    if (kind !== 'stock 10.0')
      return new Restoring(socket, process.execPath, [...this.#emu, ...this.#machine(true), ...options])
    const { command, args, env } = stockQemu10()!
    return new Restoring(socket, command, [...args, ...stockArgs, ...this.#machine(false), ...options], env)
  }
}

async function incoming(qmp: QmpClient, uri: string, lazy = false): Promise<void> {
  if (!lazy) await qmp.execute('migrate-set-capabilities', { capabilities: CAPABILITIES })
  await qmp.execute('migrate-incoming', { uri, ...(lazy && { 'x-lazy': true }) })
}

class Restoring {
  readonly #socket: string
  readonly #child: ChildProcess
  readonly #beganMs = performance.now()
  readonly #output: Promise<{ atMs: number; cpuMs: number }>
  readonly #exited: Promise<void>

  constructor(socket: string, command: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    this.#socket = socket
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } })
    this.#child = child
    let said = ''
    child.stderr.on('data', (bytes) => {
      said += bytes
    })
    this.#exited = new Promise((resolve) => child.once('exit', () => resolve()))
    this.#output = new Promise((resolve, reject) => {
      child.stdout.once('data', () => resolve({ atMs: performance.now(), cpuMs: cpuMs(child.pid!) }))
      void this.#exited.then(() => reject(new Error(`${command} ended before the guest said anything: ${said}`)))
    })
    this.#output.catch(() => {})
  }

  async qmp(): Promise<QmpClient> {
    while (!existsSync(this.#socket) && this.#child.exitCode === null) await delay(1)
    return QmpClient.connect(this.#socket)
  }

  async sinceStart(): Promise<Sample> {
    const { atMs, cpuMs } = await this.#output
    return { wallMs: atMs - this.#beganMs, cpuMs }
  }

  async sinceNow(): Promise<Sample> {
    const before = { atMs: performance.now(), cpuMs: cpuMs(this.#child.pid!) }
    const { atMs, cpuMs: after } = await this.#output
    return { wallMs: atMs - before.atMs, cpuMs: after - before.cpuMs }
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#exited
  }
}

const cpuMs = (pid: number): number => [...threadTimes(pid).values()].reduce((sum, seconds) => sum + seconds, 0) * 1000
