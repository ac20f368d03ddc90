import {
  type Channel,
  createQEMUFileReader,
  createQEMUFileWriter,
  type QEMUFileWriter,
  type RunState,
  StreamSaver,
  setGlobalRunState,
  type Transport,
} from '@ferryvm/core'
import { Bandwidth } from './bandwidth.ts'
import { configurationOf, type MigrationContext } from './context.ts'
import { MigrationCancelledError, MigrationStateError } from './errors.ts'
import { receiveReturnPath } from './return-path.ts'

/** How long a cancel waits for a destination that already has everything and may just be starting the guest. */
const CONFIRM_GRACE_MS = 2000
const PING_VALUE = 1

export interface OutgoingStats {
  startedMs: number
  setupMs: number
  /** Final once the migration ended. */
  totalMs: number | undefined
  downtimeMs: number | undefined
  expectedDowntimeMs: number
  transferredBytes: number
  precopyBytes: number
  downtimeBytes: number
  mbps: number
  pagesPerSecond: number
}

/** One migration away from here: runs once. The guest runs on here unless it ended as `completed`. */
export class OutgoingMigration {
  readonly stats: OutgoingStats
  readonly bandwidth: Bandwidth
  readonly #context: MigrationContext
  readonly #abort = new AbortController()
  #channel: Channel | undefined
  #f: QEMUFileWriter | undefined
  #finalBytes = 0
  /** Every byte is with the writer, though perhaps not yet with the channel. */
  #allPut = false
  #phase: 'sending' | 'confirming' | 'committed' = 'sending'
  #confirmTimer: ReturnType<typeof setTimeout> | undefined
  #continue: (() => void) | undefined
  /** Set while, and after, the machine was stopped for the switch-over. */
  #halt: { before: RunState; beganMs: number; bytes: number; done: Promise<void> } | undefined
  #windowPages = 0

  constructor(context: MigrationContext) {
    this.#context = context
    this.bandwidth = new Bandwidth(() => this.bytesAccepted)
    this.stats = {
      startedMs: performance.now(),
      setupMs: 0,
      totalMs: undefined,
      downtimeMs: undefined,
      expectedDowntimeMs: context.parameters.values['downtime-limit'],
      transferredBytes: 0,
      precopyBytes: 0,
      downtimeBytes: 0,
      mbps: 0,
      pagesPerSecond: 0,
    }
  }

  get bytesAccepted(): number {
    return this.#f ? this.#f.position - this.#f.buffered : this.#finalBytes
  }

  /** Does nothing once the destination has taken over. */
  cancel(reason: Error = new MigrationCancelledError()): void {
    if (this.#phase === 'committed' || this.#abort.signal.aborted) return
    this.#context.setStatus('cancelling')
    if (this.#phase === 'sending') this.#giveUp(reason)
    else this.#confirmTimer ??= setTimeout(() => this.#giveUp(reason), CONFIRM_GRACE_MS)
  }

  /** Out of `pre-switchover`. @throws MigrationStateError it does not wait there */
  continueSwitchover(): void {
    if (!this.#continue) throw new MigrationStateError('no migration waits before its switch-over')
    this.#continue()
  }

  /** Resolves when completed. @throws why it failed or was cancelled; by then the guest runs again */
  async run(transport: Transport<any>, address: unknown): Promise<void> {
    const context = this.#context
    const { signal } = this.#abort
    const seal = context.machine.sections.seal()
    context.outgoing = { limited: () => this.bandwidth.exceeded, check: () => signal.throwIfAborted() }
    try {
      const channel = await transport.connect(address, { signal, log: context.log })
      this.#channel = channel
      signal.throwIfAborted()
      await this.#send(channel)
      this.#phase = 'committed'
      this.#finish()
      context.ramSaver.cleanup()
      context.machine.setRunState('postmigrate')
      context.setStatus('completed')
      await channel.close().catch(() => {})
    } catch (error) {
      const reason = signal.aborted ? signal.reason : error
      await this.#rollBack(reason)
      throw reason
    } finally {
      clearTimeout(this.#confirmTimer)
      context.outgoing = undefined
      this.#continue = undefined
      seal[Symbol.dispose]()
    }
  }

  async #send(channel: Channel): Promise<void> {
    const context = this.#context
    const { machine, capabilities, ramSaver } = context
    const { signal } = this.#abort
    const f = createQEMUFileWriter(channel)
    this.#f = f
    const saver = new StreamSaver(f, machine.sections, {
      settings: context.settings,
      onSection: (progress) => context.section(progress),
    })
    saver.begin(configurationOf(context))
    const returnPath = this.#openReturnPath(channel, saver)
    await saver.setup()
    await f.flush()
    signal.throwIfAborted()
    this.stats.setupMs = performance.now() - this.stats.startedMs
    context.setStatus('active')

    this.bandwidth.restart()
    await this.#iterate(saver)

    await this.#halted('finish-migrate')
    if (capabilities.get('pause-before-switchover')) await this.#pauseBeforeSwitchover()
    context.setStatus('device')
    context.log.debug('switch-over', { remainingBytes: ramSaver.remainingBytes })
    await saver.complete()
    await saver.saveDevices()
    saver.end()
    this.#allPut = true
    await f.flush()
    signal.throwIfAborted()
    if (returnPath) {
      this.#phase = 'confirming'
      await returnPath
    } else if (channel.finish) {
      this.#phase = 'confirming'
      await channel.finish()
      signal.throwIfAborted()
    }
  }

  /** Without its answer a destination that fails on the last, buffered bytes would take the guest with it. */
  #openReturnPath(channel: Channel, saver: StreamSaver): Promise<void> | undefined {
    const { capabilities, confirmCompletion } = this.#context
    const duplex = channel.features.has('shutdown')
    if (!capabilities.get('return-path') && !(confirmCompletion && duplex)) return undefined
    saver.command('OPEN_RETURN_PATH')
    saver.command('PING', new Uint8Array([0, 0, 0, PING_VALUE]))
    const done = receiveReturnPath(createQEMUFileReader(channel), (value) => {
      this.#context.log.debug('pong', { value })
    })
    done.then(
      () => {
        if (!this.#allPut) this.#giveUp(new MigrationStateError('the destination stopped before everything was sent'))
      },
      (error) => this.#giveUp(error),
    )
    return done
  }

  /** Passes over dirty pages until the rest fits into the allowed downtime. Spec: protocol.md section 5. */
  async #iterate(saver: StreamSaver): Promise<void> {
    const { ramSaver, parameters } = this.#context
    const { signal } = this.#abort
    for (;;) {
      signal.throwIfAborted()
      this.bandwidth.limit = parameters.values['max-bandwidth']
      const window = this.bandwidth.tick()
      if (window) this.#closeWindow(window)
      if (this.#fits()) {
        await ramSaver.sync()
        if (this.#fits()) return
      }
      if (this.bandwidth.exceeded) await this.#sleep(this.bandwidth.windowLeftMs)
      else await saver.iterate(() => this.bandwidth.exceeded)
    }
  }

  #fits(): boolean {
    const pending = this.#pendingBytes()
    if (pending === 0) return true
    const available = this.#context.parameters.values['avail-switchover-bandwidth'] / 1000
    const perMs = available > 0 ? available : this.bandwidth.estimate
    return pending < perMs * this.#context.parameters.values['downtime-limit']
  }

  #pendingBytes(): number {
    let bytes = 0
    for (const { live } of this.#context.machine.sections.entries()) {
      if (!live) continue
      const pending = live.saveLivePending()
      bytes += pending.mustPrecopy + pending.canPostcopy
    }
    return bytes
  }

  #closeWindow({ bytes, ms }: { bytes: number; ms: number }): void {
    const { stats } = this
    const { zeroPages, normalPages, dirtyPagesRate } = this.#context.ramSaver.stats
    stats.mbps = (bytes * 8) / (ms * 1000)
    stats.pagesPerSecond = ((zeroPages + normalPages - this.#windowPages) * 1000) / ms
    this.#windowPages = zeroPages + normalPages
    if (dirtyPagesRate > 0 && bytes > 10_000) {
      stats.expectedDowntimeMs = Math.ceil(this.#context.ramSaver.remainingBytes / this.bandwidth.perMs)
    }
  }

  async #halted(state: RunState): Promise<void> {
    const { machine, globalState } = this.#context
    const before = machine.runState
    setGlobalRunState(globalState, before)
    const done = machine.stop(state)
    this.#halt = { before, beganMs: performance.now(), bytes: this.bytesAccepted, done }
    await done
    this.#abort.signal.throwIfAborted()
  }

  async #pauseBeforeSwitchover(): Promise<void> {
    const { signal } = this.#abort
    this.#context.setStatus('pre-switchover')
    await new Promise<void>((resolve) => {
      this.#continue = resolve
      signal.addEventListener('abort', () => resolve())
    })
    this.#continue = undefined
    signal.throwIfAborted()
  }

  async #sleep(ms: number): Promise<void> {
    const { signal } = this.#abort
    if (ms <= 0 || signal.aborted) return
    await new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', end)
        resolve()
      }
      const timer = setTimeout(end, ms)
      signal.addEventListener('abort', end)
    })
  }

  #giveUp(reason: Error): void {
    if (this.#phase === 'committed' || this.#abort.signal.aborted) return
    this.#abort.abort(reason)
    void this.#channel?.close(reason).catch(() => {})
  }

  #finish(): void {
    const { stats } = this
    const now = performance.now()
    stats.totalMs = now - stats.startedMs
    stats.transferredBytes = this.bytesAccepted
    const halt = this.#halt
    stats.precopyBytes = halt?.bytes ?? stats.transferredBytes
    stats.downtimeBytes = stats.transferredBytes - stats.precopyBytes
    if (halt) stats.downtimeMs = now - halt.beganMs
    if (stats.totalMs > stats.setupMs)
      stats.mbps = (stats.transferredBytes * 8) / (stats.totalMs - stats.setupMs) / 1000
    this.#finalBytes = stats.transferredBytes
    this.#f = undefined
  }

  /** Everything as before: log off, guest running if it ran. */
  async #rollBack(reason: unknown): Promise<void> {
    const { machine, ramSaver, log } = this.#context
    const error = reason instanceof Error ? reason : new Error(String(reason))
    const halt = this.#halt
    this.#finish()
    this.stats.downtimeMs = undefined
    const closed = this.#channel?.close(error).catch(() => {})
    ramSaver.cleanup()
    if (halt) {
      await halt.done.catch((stopError: unknown) => log.warn('the machine did not stop cleanly', { stopError }))
      // Whoever changed the run state meanwhile (a monitor's stop, a power-off) has the last word.
      if (machine.runState === 'finish-migrate') {
        if (halt.before === 'running') machine.start()
        else machine.setRunState(halt.before)
      }
    }
    if (error instanceof MigrationCancelledError) this.#context.setStatus('cancelled')
    else this.#context.fail(error)
    await closed
  }
}
