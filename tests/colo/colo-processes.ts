/** A COLO pair of two `emu run`, every connection between them led through a relay that can be cut. */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { QmpClient } from '../../apps/emu/src/qmp-client.ts'
import { type EmuProcess, emu } from '../harness/emu.ts'
import { Relay } from './relay.ts'

const START_MS = 120_000
const INTERVAL_MS = 100

export interface Side {
  readonly name: string
  readonly process: EmuProcess
  readonly qmp: QmpClient
  readonly serial: Socket
  /** Where its pair.json is. */
  readonly dir: string
}

export type Role = 'primary' | 'secondary'

export interface ColoProcessesOptions {
  readonly folder: string
  /** Of `emu run`: the guest. */
  readonly args: readonly string[]
  readonly delayMs: number
  /** Without a sign of life for so long a path is silent. */
  readonly timeoutMs: number
  onOutput(text: string): void
}

export class ColoProcesses {
  readonly #options: ColoProcessesOptions
  readonly #sides = new Set<Side>()
  #count = 0
  #pairs = 0
  #spare: Promise<Side> | undefined
  #relays: { link: Relay; paths: readonly Relay[] } | undefined
  #fence = ''
  primary!: Side
  secondary: Side | undefined

  constructor(options: ColoProcessesOptions) {
    this.#options = options
  }

  /** The first machine, with the guest. */
  async boot(): Promise<void> {
    this.primary = await this.#start([])
  }

  get link(): Relay {
    return this.#relays!.link
  }

  get paths(): readonly Relay[] {
    return this.#relays!.paths
  }

  /** Who took it; undefined: nobody. */
  get fenceHolder(): string | undefined {
    return existsSync(this.#fence) ? readFileSync(this.#fence, 'utf8').split(' ')[0] : undefined
  }

  /** Brings a secondary. Resolves when it has the first checkpoint. */
  async pair(): Promise<void> {
    const { folder, delayMs, timeoutMs } = this.#options
    const secondary = await (this.#spare ?? this.#start(['-incoming', 'defer']))
    this.#spare = undefined
    const n = ++this.#pairs
    const at = (name: string) => join(folder, `${n}-${name}.sock`)
    this.#relays = {
      link: await Relay.open(at('link'), at('in')),
      paths: [await Relay.open(at('a'), at('hb1')), await Relay.open(at('b'), at('hb2'))],
    }
    this.#fence = join(folder, `fence-${n}`)
    const common = { session: randomBytes(16).toString('hex'), fence: this.#fence, intervalMs: INTERVAL_MS, timeoutMs }
    const pairFile = ({ dir }: Side, names: string[]) =>
      writeFileSync(
        join(dir, 'pair.json'),
        JSON.stringify({ ...common, heartbeats: names.map((name) => `unix:${at(name)}`) }),
      )
    pairFile(this.primary, ['a', 'b'])
    pairFile(secondary, ['hb1', 'hb2'])
    const on = { capabilities: [{ capability: 'x-colo', state: true }] }
    const [here, there] = [this.primary.qmp, secondary.qmp]
    await there.execute('migrate-set-capabilities', on)
    await there.execute('migrate-incoming', { uri: `unix:${at('in')}` })
    await here.execute('migrate-set-capabilities', on)
    await here.execute('migrate-set-parameters', { 'x-checkpoint-delay': delayMs, 'max-bandwidth': 2 ** 40 })
    await here.execute('migrate', { uri: `unix:${at('link')}` })
    this.secondary = secondary
    for (const end = performance.now() + START_MS; ; await delay(10)) {
      const { status, 'error-desc': why } = await here.execute('query-migrate')
      if (status === 'colo') break
      if (status === 'failed' || status === 'completed') throw new Error(`no pair: ${status} ${why}`)
      if (performance.now() > end) throw new Error('no pair in time')
    }
  }

  /** Starts the machine of the next pair already. */
  prepareSpare(): void {
    this.#spare ??= this.#start(['-incoming', 'defer'])
    this.#spare.catch(() => {})
  }

  /**
   * Waits until of the pair one has ended and the other runs alone, which then is the primary of the next.
   * @returns which role it had
   */
  async survivor(timeoutMs: number): Promise<Role> {
    const pair: [Role, Side][] = [
      ['primary', this.primary],
      ['secondary', this.secondary!],
    ]
    const gone = await Promise.race([
      ...pair.map(([role, side]) => side.process.exited.then(() => role)),
      delay(timeoutMs, undefined, { ref: false }).then(() => undefined),
    ])
    if (!gone) throw new Error(`nobody ended: ${JSON.stringify(await Promise.all(pair.map(([, s]) => this.state(s))))}`)
    const [role, side] = pair.find(([r]) => r !== gone)!
    for (const end = performance.now() + timeoutMs; ; await delay(10)) {
      const { mode, lastMode, status } = await this.state(side)
      if (mode === 'none' && lastMode === role && status === 'running') break
      if (performance.now() > end) throw new Error(`the ${role} does not go on: ${mode} ${lastMode} ${status}`)
    }
    const holder = this.fenceHolder
    if (holder !== role) throw new Error(`the ${role} goes on, and the fence has ${holder}`)
    const dead = pair.find(([r]) => r === gone)![1]
    await this.#forget(dead)
    for (const relay of [this.link, ...this.paths]) relay.close()
    this.primary = side
    this.secondary = undefined
    return role
  }

  async state({ qmp }: Side): Promise<{ mode: string; lastMode: string; status: string }> {
    const colo = await qmp.execute('query-colo-status')
    const { status } = await qmp.execute('query-status')
    return { mode: colo.mode, lastMode: colo['last-mode'], status }
  }

  /** All that the machines had to say, for a report of what went wrong. */
  get logs(): string {
    return [...this.#sides].map(({ name, process }) => `${name}: ${process.out.stderr.slice(-2000)}`).join('\n')
  }

  async close(): Promise<void> {
    const spare = await this.#spare?.catch(() => undefined)
    if (spare) this.#sides.add(spare)
    for (const { process, qmp, serial } of this.#sides) {
      qmp.close()
      serial.destroy()
      process.child.kill('SIGKILL')
      await process.exited
    }
    if (this.#relays) for (const relay of [this.link, ...this.paths]) relay.close()
  }

  async #start(more: readonly string[]): Promise<Side> {
    const { folder, args, onOutput } = this.#options
    const name = `m${++this.#count}`
    const dir = join(folder, name)
    mkdirSync(dir)
    const [qmpPath, serialPath] = [join(dir, 'qmp'), join(dir, 'serial')]
    const process = emu([
      ...['run', ...args, ...more, '-colo', `dir=${dir}`],
      ...['-qmp', `unix:${qmpPath},server=on,wait=off`, '-serial', `unix:${serialPath},server=on,wait=off`],
    ])
    const ended = process.exited.then(({ code }) => {
      throw new Error(`${name} ended with status ${code}: ${process.out.stderr}`)
    })
    ended.catch(() => {})
    try {
      const qmp = await Promise.race([QmpClient.connect(qmpPath, START_MS), ended])
      const serial = connect(serialPath)
      serial.setEncoding('latin1')
      serial.on('data', (text) => onOutput(String(text))).on('error', () => {})
      const side = { name, process, qmp, serial, dir }
      this.#sides.add(side)
      return side
    } catch (error) {
      process.child.kill('SIGKILL')
      throw error
    }
  }

  /** Its last words are taken before the other's are. */
  async #forget(side: Side): Promise<void> {
    if (!side.serial.closed) await new Promise((resolve) => side.serial.once('close', resolve))
    side.qmp.close()
    this.#sides.delete(side)
  }
}
