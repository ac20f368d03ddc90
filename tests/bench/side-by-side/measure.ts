import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { QmpEvent } from '../../../apps/emu/src/qmp-client.ts'
import { stockQemu10 } from '../../stock-qemu/stock-10.ts'
import { stockQemuCommand } from '../../stock-qemu/stock-qemu.ts'
import { emuArgs, type Side, startSide, stockArgs } from '../bench-sides.ts'
import { processTime, threadTimes, timeBetween } from '../cpu/thread-times.ts'
import { CAPABILITIES, type Cell, FILLED_MIB, RAM_MIB, type System } from './cells.ts'

const DOWNTIME_LIMIT_MS = 30
/** The guest's pace before it moves is taken over so long. */
const BEFORE_MS = 2000
/** Then a move counts as one that does not end. */
const PATIENCE_MS = 90_000
const MB = 1e6

/** One measured move; undefined where there is nothing to measure. */
export interface Measured {
  readonly totalMs: number
  readonly sentMB: number
  readonly mbPerSecond: number
  /** From STOP at the source to RESUME at the destination. */
  readonly downtimeMs?: number
  /** As the source says. */
  readonly ownDowntimeMs?: number
  /** The guest's work per time while it moves, as a share of that before. */
  readonly guestSpeed?: number
  /** That the guest wrote while it moved, in whole pages. */
  readonly writtenMBPerSecond?: number
  readonly passes?: number
  /** CPU time of the whole move, without the source's hart. */
  readonly sourceCpuMs?: number
  readonly destinationCpuMs?: number
  readonly faults?: { readonly count: number; readonly p50Us: number; readonly p99Us: number; readonly maxUs: number }
  /** From `migrate-incoming` to RESUME. */
  readonly restoreMs?: number
}

/** A guest of one system that goes from process to process. */
export class Traveller implements Disposable {
  readonly #system: System
  readonly #folder: string
  readonly #image: string
  #side: Side

  private constructor(system: System, folder: string, image: string, side: Side) {
    this.#system = system
    this.#folder = folder
    this.#image = image
    this.#side = side
  }

  /** @param image the benchmark guest */
  static async start(system: System, folder: string, image: string): Promise<Traveller> {
    const side = await startMachine(system, folder, image, false)
    await side.console.ready()
    // The guest's own memory begins within the first MiB, and what it fills with it.
    await side.console.run('fill', FILLED_MIB, 120_000)
    return new Traveller(system, folder, image, side)
  }

  [Symbol.dispose](): void {
    this.#side.kill()
  }

  async measure(cell: Cell): Promise<Measured> {
    const from = this.#side
    const to = await startMachine(this.#system, this.#folder, this.#image, true)
    to.console = from.console
    try {
      return await (cell.kind === 'file' ? this.#overFile(cell, from, to) : this.#overSocket(cell, from, to))
    } finally {
      from.kill()
      this.#side = to
    }
  }

  async #overSocket(cell: Cell, from: Side, to: Side): Promise<Measured> {
    const { console } = from
    const { writes } = cell
    const postcopy = cell.kind === 'postcopy'
    if (writes) {
      console.paces.length = 0
      console.start('pace', writes.rate * 2 ** 15 + writes.overMiB)
      await delay(BEFORE_MS)
    }
    if (postcopy) {
      console.start('faults', FILLED_MIB - 64)
      await delay(BEFORE_MS)
    }
    await configure(cell, from, to)
    await to.qmp.execute('migrate-incoming', { uri: 'tcp:127.0.0.1:0' })
    const [{ port }] = (await to.qmp.execute('query-migrate'))['socket-address']
    if (postcopy) from.type('r')
    const [source, destination] = [processTime(from.pid), processTime(to.pid)]
    const threads = threadTimes(from.pid)
    const began = performance.now()
    await from.qmp.execute('migrate', { uri: `tcp:127.0.0.1:${port}` })
    if (postcopy) await from.qmp.execute('migrate-start-postcopy')
    const info = await ended(from)
    const sourceCpuMs = (processTime(from.pid) - source - timeBetween(threads, threadTimes(from.pid)).busiest) * 1000
    const { resumed, stopped } = await switched(from, to)
    const destinationCpuMs = (processTime(to.pid) - destination) * 1000
    to.console.type = to.type
    await delay(200)
    const faults = postcopy ? await longReads(console) : undefined
    if (writes) {
      console.interrupt()
      await console.ended('pace')
    }
    // The clock of this process and that of the events are the same one.
    const stoppedAt = stopped - performance.timeOrigin
    return {
      ...figures(info),
      downtimeMs: resumed - stopped,
      ownDowntimeMs: info.downtime,
      passes: info.ram['dirty-sync-count'],
      ...(!postcopy && { sourceCpuMs, destinationCpuMs }),
      ...(writes && slowdown(console.paces, began, stoppedAt)),
      ...(faults && { faults }),
    }
  }

  async #overFile(cell: Cell, from: Side, to: Side): Promise<Measured> {
    await configure(cell, from, to)
    const uri = `file:${join(this.#folder, `saved-${this.#system}`)}`
    await from.qmp.execute('migrate', { uri })
    const info = await ended(from)
    const began = performance.now()
    await to.qmp.execute('migrate-incoming', { uri })
    const resumed = timeOf(await to.qmp.waitEvent((e) => e.event === 'RESUME', PATIENCE_MS))
    to.console.type = to.type
    return { ...figures(info), restoreMs: resumed - (began + performance.timeOrigin) }
  }
}

async function startMachine(system: System, folder: string, image: string, incoming: boolean): Promise<Side> {
  const machine = ['-M', 'virt', '-m', `${RAM_MIB}M`, '-bios', 'none', '-kernel', image]
  if (system === 'emu') return startSide(folder, process.execPath, [...emuArgs, ...machine], incoming)
  const { command, args, env } =
    system === '10.0' ? stockQemu10()! : { command: stockQemuCommand, args: [], env: undefined }
  return startSide(folder, command, [...args, ...stockArgs, ...machine], incoming, env)
}

async function configure(cell: Cell, from: Side, to: Side): Promise<void> {
  const named = new Set([...CAPABILITIES, ...cell.capabilities])
  const capabilities = [...named].map((capability) => ({
    capability,
    state: cell.capabilities.includes(capability),
  }))
  for (const { qmp } of [to, from]) {
    await qmp.execute('migrate-set-capabilities', { capabilities })
    await qmp.execute('migrate-set-parameters', {
      'max-bandwidth': 0,
      'downtime-limit': DOWNTIME_LIMIT_MS,
      ...cell.parameters,
    })
  }
}

async function ended({ qmp }: Side) {
  for (const limit = performance.now() + PATIENCE_MS; ; await delay(20)) {
    const info = await qmp.execute('query-migrate')
    if (info.status === 'failed') throw new Error(`the migration failed: ${info['error-desc']}`)
    if (info.status === 'completed') return info
    if (performance.now() > limit) throw new Error(`no end within ${PATIENCE_MS / 1000} s`)
  }
}

async function switched(from: Side, to: Side): Promise<{ resumed: number; stopped: number }> {
  const resumed = await to.qmp.waitEvent((e) => e.event === 'RESUME', PATIENCE_MS)
  const stopped = await from.qmp.waitEvent((e) => e.event === 'STOP', PATIENCE_MS)
  return { resumed: timeOf(resumed), stopped: timeOf(stopped) }
}

const timeOf = ({ timestamp }: QmpEvent) => timestamp.seconds * 1000 + timestamp.microseconds / 1000

function figures(info: any): Pick<Measured, 'totalMs' | 'sentMB' | 'mbPerSecond'> {
  const sentMB = info.ram.transferred / MB
  return {
    totalMs: info['total-time'],
    sentMB,
    mbPerSecond: sentMB / ((info['total-time'] - info['setup-time']) / 1000),
  }
}

async function longReads(console: Side['console']): Promise<Measured['faults']> {
  console.interrupt()
  const line = await console.line(60_000)
  await console.ended('faults')
  const [count, p50Us, p99Us, maxUs] = line.slice(1).split(' ').map(Number)
  return { count: count!, p50Us: p50Us!, p99Us: p99Us!, maxUs: maxUs! }
}

function slowdown(
  paces: Side['console']['paces'],
  began: number,
  ended: number,
): Pick<Measured, 'guestSpeed' | 'writtenMBPerSecond'> | undefined {
  // The first half second of the program is not counted: code that is new is slow.
  const before = speed(paces.filter(({ atMs }) => atMs < began && atMs > began - BEFORE_MS + 500))
  const during = speed(paces.filter(({ atMs }) => atMs >= began && atMs <= ended))
  return before && during && { guestSpeed: during.work / before.work, writtenMBPerSecond: during.written }
}

function speed(paces: Side['console']['paces']): { work: number; written: number } | undefined {
  if (paces.length < 3) return undefined
  const [first, last] = [paces[0]!, paces.at(-1)!]
  const seconds = (last.ticks - first.ticks) / 1e7
  return { work: (last.work - first.work) / seconds, written: ((last.pages - first.pages) * 4096) / MB / seconds }
}
