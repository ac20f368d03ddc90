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
import { AutoConverge } from './auto-converge.ts'
import { MemoryMoment } from './background/memory-moment.ts'
import { saveInBackground } from './background/save-in-background.ts'
import { Bandwidth } from './bandwidth.ts'
import { primaryLink } from './colo-link.ts'
import { configurationOf, giveDisks, type MigrationContext, takeDisks } from './context.ts'
import { MigrationCancelledError, MigrationStateError, MigrationYankedError } from './errors.ts'
import type { MigrationForecast } from './forecast/forecast.ts'
import { Forecaster } from './forecast/forecaster.ts'
import { SourceJournal } from './journal/source-journal.ts'
import { trace } from './migration-trace.ts'
import type { OutgoingMultifd } from './multifd/outgoing-multifd.ts'
import { OutgoingPostcopy, type PostcopyLink } from './postcopy/outgoing-postcopy.ts'
import { PageSource } from './postcopy/page-source.ts'
import { prepareSections } from './prepare-sections.ts'
import { isShared } from './ram/shared/shared-ram.ts'
import { ReadMarks } from './read-marks.ts'
import { receiveReturnPath } from './return-path.ts'

/** How long a cancel waits for a destination that already has everything and may just be starting the guest. */
const CONFIRM_GRACE_MS = 2000
const PING_VALUE = 1
/** With auto-converge, from the second pass on, how fast a guest writes is looked at this often at least. */
const SYNC_EVERY_MS = 5000
/** How often a guest that would fit by now may write too much while the destination catches up; then it is stopped anyway. */
const CATCH_UPS = 8

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
  postcopyBytes: number
  mbps: number
  pagesPerSecond: number
}

/**
 * One migration away from here: runs once. The guest runs on here unless it ended as `completed`; and in any case with the
 * capability background-snapshot, which saves it as it is and takes nothing away.
 */
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
  /** `postcopy`: the destination may run the guest, and waits for its pages. */
  #phase: 'sending' | 'confirming' | 'postcopy' | 'committed' = 'sending'
  /** With the capability postcopy-ram. */
  #postcopy: OutgoingPostcopy | undefined
  #postcopyWanted = false
  #confirmTimer: ReturnType<typeof setTimeout> | undefined
  #continue: (() => void) | undefined
  /** Set while, and after, the machine was stopped for the switch-over. */
  #halt: { before: RunState; beganMs: number; bytes: number; done: Promise<void> } | undefined
  #windowPages = 0
  /** The other side may have them. */
  #disksGiven = false
  #converge: AutoConverge | undefined
  readonly #forecaster: Forecaster
  #multifd: OutgoingMultifd | undefined
  #syncedMs = 0
  readonly #marks = new ReadMarks()
  #returnPath: Promise<void> | undefined
  #catchUpsLeft = CATCH_UPS
  /** With the capability background-snapshot. */
  #moment: MemoryMoment | undefined

  constructor(context: MigrationContext) {
    this.#context = context
    this.bandwidth = new Bandwidth(() => this.bytesAccepted)
    this.#forecaster = new Forecaster(context.ramSaver)
    this.stats = {
      startedMs: performance.now(),
      setupMs: 0,
      totalMs: undefined,
      downtimeMs: undefined,
      expectedDowntimeMs: context.parameters.values['downtime-limit'],
      transferredBytes: 0,
      precopyBytes: 0,
      downtimeBytes: 0,
      postcopyBytes: 0,
      mbps: 0,
      pagesPerSecond: 0,
    }
  }

  get bytesAccepted(): number {
    return this.#streamBytes + this.#context.ramSaver.bytesBeside
  }

  /** Of them, those over the further channels of multifd. */
  get multifdBytes(): number {
    return this.#multifd?.bytesBeside ?? 0
  }

  get #streamBytes(): number {
    return this.#finalBytes + (this.#f ? this.#f.position - this.#f.buffered : 0)
  }

  /** Does nothing once the destination has taken over. @throws MigrationStateError in postcopy, which has no way back */
  cancel(reason: Error = new MigrationCancelledError()): void {
    if (this.#phase === 'committed' || this.#abort.signal.aborted) return
    trace.migration_cancel({})
    if (this.#phase === 'postcopy') {
      throw new MigrationStateError('a postcopy migration cannot be cancelled: the guest runs on the destination')
    }
    this.#context.setStatus('cancelling')
    if (this.#phase === 'sending') this.#giveUp(reason)
    else this.#confirmTimer ??= setTimeout(() => this.#giveUp(reason), CONFIRM_GRACE_MS)
  }

  /** The switch to postcopy comes as soon as it can. @throws MigrationStateError postcopy-ram is off */
  startPostcopy(): void {
    if (!this.#context.capabilities.get('postcopy-ram'))
      throw new MigrationStateError('postcopy-ram was not enabled before the migration started')
    this.#postcopyWanted = true
  }

  get postcopy(): OutgoingPostcopy | undefined {
    return this.#phase === 'postcopy' || this.#phase === 'committed' ? this.#postcopy : undefined
  }

  /** See `Migration.yank`. */
  yank(): void {
    if (this.#phase === 'postcopy') this.#postcopy!.yank()
    else this.#giveUp(new MigrationYankedError())
  }

  /** For good: this process ends, or the library user lets go of the machine. */
  giveUp(reason: Error): void {
    if (this.#phase !== 'postcopy') {
      this.cancel(reason)
      return
    }
    this.#abort.abort(reason)
    this.#postcopy!.giveUp(reason)
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
    context.outgoing = {
      limited: () => this.bandwidth.exceeded,
      check: () => signal.throwIfAborted(),
      synced: (dirtied, written) => this.#synced(dirtied, written),
    }
    try {
      const { log, capabilities } = context
      if (capabilities.get('x-colo')) await context.colo!.prepare()
      context.bitmaps?.begin()
      const channel = await transport.connect(address, { signal, log, capabilities: capabilities.on })
      this.#channel = channel
      trace.migration_set_outgoing_channel({ ioc: 0, ioctype: transport.scheme, hostname: '', err: 0 })
      if (capabilities.get('background-snapshot')) {
        const { machine, isZero, ramSaver } = context
        this.#moment = new MemoryMoment(machine.memory, isZero, (page) => ramSaver.sendSoon(page))
      }
      const { encoders, multifd } = context.encodings(channel, this.#moment)
      context.ramSaver.use(encoders, {
        logged: this.#moment === undefined,
        beside: capabilities.get('x-ignore-shared') ? isShared : undefined,
      })
      this.#multifd = multifd
      signal.throwIfAborted()
      await multifd?.open(transport, address, { signal, log, capabilities: capabilities.on })
      signal.throwIfAborted()
      if (context.capabilities.get('postcopy-ram')) this.#postcopy = this.#preparePostcopy(transport, address)
      await prepareSections(context.machine.sections)
      signal.throwIfAborted()
      const pair = await this.#send(channel)
      this.#phase = 'committed'
      await pair?.()
      this.#finish()
      context.ramSaver.cleanup()
      context.block?.saver.cleanup()
      context.bitmaps?.end()
      if (!pair && !this.#moment) context.machine.setRunState('postmigrate')
      context.setStatus('completed')
      await multifd?.close()
      await channel.close().catch(() => {})
    } catch (error) {
      const reason = signal.aborted ? signal.reason : error
      await this.#rollBack(reason)
      throw reason
    } finally {
      clearTimeout(this.#confirmTimer)
      this.#converge?.stop()
      this.#moment?.[Symbol.dispose]()
      context.outgoing = undefined
      this.#continue = undefined
      seal[Symbol.dispose]()
    }
  }

  /** @returns with COLO, what goes on on the channel, see {@link Colo.primary} */
  async #send(channel: Channel): Promise<(() => Promise<void>) | undefined> {
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
    const colo = capabilities.get('x-colo')
    // COLO answers on the same way back, with messages of its own.
    const returnPath = colo ? undefined : this.#openReturnPath(channel, saver)
    this.#returnPath = returnPath
    if (this.#postcopy) {
      if (!returnPath) throw new MigrationStateError('postcopy needs a channel that flows both ways')
      OutgoingPostcopy.advise(saver)
      if (context.settings.preemptAtSetup) await this.#postcopy.connectUrgent()
    }
    // As stock does: bitmaps could follow the guest, without its memory. Ours never do.
    if (!this.#postcopy && capabilities.get('dirty-bitmaps')) saver.command('POSTCOPY_ADVISE')
    if (colo) saver.command('ENABLE_COLO')
    await saver.setup()
    await f.flush()
    signal.throwIfAborted()
    this.stats.setupMs = performance.now() - this.stats.startedMs
    trace.migration_thread_setup_complete({})
    context.setStatus('active')

    this.bandwidth.restart()
    if (this.#moment) {
      await this.#saveInBackground(this.#moment, saver, f)
      await this.#confirmWritten(channel)
      return undefined
    }
    this.#forecaster.restart()
    if (capabilities.get('auto-converge')) this.#converge = this.#autoConverge()
    const toPostcopy = await this.#iterate(saver)
    this.#converge?.stop()
    if (toPostcopy && !context.settings.preemptAtSetup) await this.#postcopy!.connectUrgent()

    trace.migration_thread_low_pending({ pending: ramSaver.remainingBytes })
    if (toPostcopy) trace.postcopy_start({})
    await this.#halted('finish-migrate')
    if (capabilities.get('pause-before-switchover')) await this.#pauseBeforeSwitchover()
    // Disks that go along are read until the end.
    const disksGoAlong = capabilities.get('block')
    if (!colo && !disksGoAlong) await this.#giveDisks()
    signal.throwIfAborted()
    context.setStatus('device')
    context.log.debug('switch-over', { remainingBytes: ramSaver.remainingBytes })
    if (toPostcopy) {
      await this.#runPostcopy({ channel, f, saver, returnPath: returnPath!, marks: this.#marks })
      return undefined
    }
    trace.migration_precopy_complete({})
    await saver.complete()
    if (disksGoAlong) {
      context.block!.saver.cleanup()
      await this.#giveDisks()
    }
    await saver.saveDevices()
    saver.end()
    this.#allPut = true
    await f.flush()
    signal.throwIfAborted()
    if (colo) return context.colo!.primary(primaryLink(context, channel, saver, f, createQEMUFileReader(channel)))
    if (returnPath) {
      this.#phase = 'confirming'
      await returnPath
    } else await this.#confirmWritten(channel)
  }

  async #giveDisks(): Promise<void> {
    this.#disksGiven = true
    await giveDisks(this.#context)
  }

  /** Where nobody answers. */
  async #confirmWritten(channel: Channel): Promise<void> {
    if (!channel.finish) return
    this.#phase = 'confirming'
    await channel.finish()
    this.#abort.signal.throwIfAborted()
  }

  async #saveInBackground(moment: MemoryMoment, saver: StreamSaver, f: QEMUFileWriter): Promise<void> {
    await saveInBackground({
      context: this.#context,
      moment,
      signal: this.#abort.signal,
      saver,
      f,
      resumed: (ms) => void (this.stats.downtimeMs = ms),
      mayWrite: async () => {
        this.bandwidth.limit = this.#context.parameters.values['max-bandwidth']
        const window = this.bandwidth.tick()
        if (window) this.#closeWindow(window)
        if (!this.bandwidth.exceeded) return true
        await this.#waitForWindow()
        return false
      },
    })
  }

  /** Without its answer a destination that fails on the last, buffered bytes would take the guest with it. */
  #openReturnPath(channel: Channel, saver: StreamSaver): Promise<void> | undefined {
    const { capabilities, confirmCompletion } = this.#context
    const duplex = channel.features.has('shutdown')
    if (this.#moment) return undefined // whoever reads it takes no guest over
    const wanted = capabilities.get('return-path') || capabilities.get('postcopy-ram')
    if (!wanted && !(confirmCompletion && duplex)) return undefined
    trace.open_return_path_on_source({})
    saver.command('OPEN_RETURN_PATH')
    saver.command('PING', new Uint8Array([0, 0, 0, PING_VALUE]))
    const handlers = this.#postcopy?.handlers
    const done = receiveReturnPath(createQEMUFileReader(channel), {
      ...handlers,
      pong: (value) => {
        this.#context.log.debug('pong', { value })
        this.#marks.pong(value)
        handlers?.pong?.(value)
      },
    })
    done.then(
      () => {
        if (!this.#allPut && this.#phase === 'sending')
          this.#giveUp(new MigrationStateError('the destination stopped before everything was sent'))
      },
      (error) => this.#giveUp(error),
    )
    return done
  }

  #preparePostcopy(transport: Transport<any>, address: unknown): OutgoingPostcopy {
    return new OutgoingPostcopy({
      context: this.#context,
      bandwidth: this.bandwidth,
      signal: this.#abort.signal,
      transport,
      address,
      connected: (f) => this.#connected(f),
      windowClosed: (window) => this.#closeWindow(window),
    })
  }

  /** The machine is stopped. Resolves when the destination has everything. */
  async #runPostcopy(link: PostcopyLink): Promise<void> {
    const context = this.#context
    const { stats } = this
    const { blocks, encoders } = await context.ramSaver.handOver()
    const pages = new PageSource(blocks, encoders, () => this.#postcopy!.limited)
    await using journal = await SourceJournal.begin(context, blocks)
    const keep = async (digest: string) => journal?.switchOver(digest)
    const commit = await this.#postcopy!.switchOver(link, pages, keep).catch(async (error) => {
      await journal?.takenBack()
      throw error
    })
    this.#phase = 'postcopy'
    const halt = this.#halt!
    commit()
    stats.precopyBytes = halt.bytes
    stats.downtimeBytes = this.bytesAccepted - halt.bytes
    stats.downtimeMs = performance.now() - halt.beganMs
    context.setStatus('postcopy-active')
    journal?.keepRest()
    try {
      await this.#postcopy!.run(link)
    } catch (error) {
      if (this.#postcopy!.neverRan(error)) {
        this.#phase = 'sending'
        await journal?.takenBack()
      }
      throw error
    }
    await journal?.completed()
  }

  /** Another channel takes over: what went over the earlier ones stays counted. */
  #connected(f: QEMUFileWriter): void {
    this.#finalBytes = this.#streamBytes
    this.#f = f
  }

  /**
   * Passes over dirty pages until the rest fits into the allowed downtime. Spec: protocol.md section 5.
   * @returns true: postcopy was asked for, and comes first
   */
  async #iterate(saver: StreamSaver): Promise<boolean> {
    const { ramSaver, parameters } = this.#context
    const { signal } = this.#abort
    for (;;) {
      signal.throwIfAborted()
      this.bandwidth.limit = parameters.values['max-bandwidth']
      const window = this.bandwidth.tick()
      if (window) this.#closeWindow(window)
      if (this.#fits()) {
        await ramSaver.sync()
        if (trace.migrate_pending_exact.enabled) {
          const size = this.#pendingBytes(false)
          const pre = this.#pendingBytes(true)
          trace.migrate_pending_exact({ size, pre, post: size - pre })
        }
        if (this.#fits()) {
          if (!(await this.#catchUp(saver))) return false
          await ramSaver.sync()
          if (this.#fits()) return false
        }
      } else if (this.#converge && ramSaver.stats.syncCount > 1 && performance.now() - this.#syncedMs > SYNC_EVERY_MS) {
        await ramSaver.sync()
      }
      if (this.#postcopyWanted && this.#fits(true)) {
        await this.#catchUp(saver)
        return true
      }
      if (this.bandwidth.exceeded) await this.#waitForWindow()
      else await saver.iterate(() => this.bandwidth.exceeded)
    }
  }

  /**
   * The destination reads what lies in the sockets, while the guest still runs.
   * @returns whether that was waited for
   */
  async #catchUp(saver: StreamSaver): Promise<boolean> {
    if (!this.#returnPath || this.#catchUpsLeft === 0) return false
    this.#catchUpsLeft--
    const began = performance.now()
    await this.#marks.allRead(saver, this.#f!, this.#returnPath, this.#abort.signal)
    this.bandwidth.waited(performance.now() - began)
    return true
  }

  async #waitForWindow(): Promise<void> {
    const began = performance.now()
    trace.migration_rate_limit_pre({ ms: Math.round(this.bandwidth.windowLeftMs) })
    await this.#sleep(this.bandwidth.windowLeftMs)
    trace.migration_rate_limit_post({ urgent: 0 })
    this.#forecaster.waited(performance.now() - began)
  }

  #autoConverge(): AutoConverge {
    const { machine, parameters, log } = this.#context
    const throttle = (percent: number) => {
      log.debug('throttle', { percent })
      if (percent > 0) trace.migration_throttle({})
      trace.cpu_throttle_set({ new_throttle_pct: percent })
      machine.cpu.throttle?.(percent)
    }
    return new AutoConverge(parameters.values, throttle, performance.now())
  }

  #synced(dirtiedPages: number, writtenPages: number): void {
    this.#forecaster.synced(writtenPages)
    this.#syncedMs = performance.now()
    this.#converge?.synced(dirtiedPages, this.bytesAccepted, this.#syncedMs)
  }

  /** Percent of the time that the guest is made to stand; 0: not at all. */
  get throttlePercent(): number {
    return this.#converge?.percent ?? 0
  }

  /** @param mustPrecopy looks only at what cannot follow the guest */
  #fits(mustPrecopy = false): boolean {
    const pending = this.#pendingBytes(mustPrecopy)
    trace.migrate_pending_estimate({ size: pending, pre: mustPrecopy ? pending : 0, post: mustPrecopy ? 0 : pending })
    if (pending === 0) return true
    const available = this.#context.parameters.values['avail-switchover-bandwidth'] / 1000
    const perMs = available > 0 ? available : this.bandwidth.estimate
    return pending < perMs * this.#context.parameters.values['downtime-limit']
  }

  #pendingBytes(mustPrecopy: boolean): number {
    let bytes = 0
    for (const { live } of this.#context.machine.sections.entries()) {
      if (!live) continue
      const pending = live.saveLivePending()
      bytes += pending.mustPrecopy + (mustPrecopy ? 0 : pending.canPostcopy)
    }
    return bytes
  }

  /** How the precopy goes on; undefined: it is over, or never began. */
  forecast(): MigrationForecast | undefined {
    const { capabilities, parameters } = this.#context
    if (this.#phase !== 'sending' || this.#halt || this.#moment) return undefined
    return this.#forecaster.forecast({
      parameters: parameters.values,
      autoConverge: capabilities.get('auto-converge'),
      postcopy: capabilities.get('postcopy-ram'),
      throttlePercent: this.throttlePercent,
    })
  }

  #closeWindow({ bytes, ms }: { bytes: number; ms: number }): void {
    const { stats } = this
    this.#forecaster.windowClosed(bytes)
    const { parameters, ramSaver } = this.#context
    const { 'downtime-limit': limit, 'avail-switchover-bandwidth': available } = parameters.values
    const perMs = bytes / ms
    trace.migrate_transferred({
      transferred: bytes,
      time_spent: Math.round(ms),
      bandwidth: Math.round(perMs),
      avail_bw: Math.round(available / 1000),
      size: Math.round(perMs * limit),
    })
    const { multifdBytes: multifd } = this
    const rdma = ramSaver.bytesBeside - multifd
    trace.migration_transferred_bytes({ qemu_file: this.#streamBytes, multifd, rdma })
    const { zeroPages, normalPages, dirtyPagesRate } = ramSaver.stats
    stats.mbps = (bytes * 8) / (ms * 1000)
    stats.pagesPerSecond = ((zeroPages + normalPages - this.#windowPages) * 1000) / ms
    this.#windowPages = zeroPages + normalPages
    if (dirtyPagesRate > 0 && bytes > 10_000) {
      stats.expectedDowntimeMs = Math.ceil(ramSaver.remainingBytes / this.bandwidth.perMs)
    }
  }

  async #halted(state: RunState): Promise<void> {
    const { machine, globalState } = this.#context
    const before = machine.runState
    setGlobalRunState(globalState, before)
    const done = machine.stop(state)
    this.#halt = { before, beganMs: performance.now(), bytes: this.bytesAccepted, done }
    await done
    trace.migration_completion_vm_stop({ ret: 0 })
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
    if (this.#phase === 'committed' || this.#phase === 'postcopy' || this.#abort.signal.aborted) return
    this.#abort.abort(reason)
    void this.#multifd?.close(reason)
    void this.#channel?.close(reason).catch(() => {})
  }

  #finish(): void {
    const { stats } = this
    const now = performance.now()
    stats.totalMs = now - stats.startedMs
    stats.transferredBytes = this.bytesAccepted
    const halt = this.#halt
    if (this.postcopy) stats.postcopyBytes = stats.transferredBytes - stats.precopyBytes - stats.downtimeBytes
    else {
      stats.precopyBytes = halt?.bytes ?? stats.transferredBytes
      stats.downtimeBytes = stats.transferredBytes - stats.precopyBytes
      if (halt) stats.downtimeMs = now - halt.beganMs
    }
    if (stats.totalMs > stats.setupMs)
      stats.mbps = (stats.transferredBytes * 8) / (stats.totalMs - stats.setupMs) / 1000
    this.#finalBytes = this.#streamBytes
    this.#f = undefined
    trace.migration_thread_after_loop({})
    trace.migration_cleanup({})
  }

  /** @returns whether the guest can run here, with its disks */
  async #takeDisksBack(): Promise<boolean> {
    if (!this.#disksGiven || this.#phase === 'postcopy') return true
    try {
      await takeDisks(this.#context)
      return true
    } catch (error) {
      this.#context.log.warn(
        `the guest stands here, because its disk could not be taken back: ${(error as Error).message}`,
      )
      return false
    }
  }

  /** Everything as before: log off, guest running if it ran; but not where it may run at the destination. */
  async #rollBack(reason: unknown): Promise<void> {
    const { machine, ramSaver, log } = this.#context
    const error = reason instanceof Error ? reason : new Error(String(reason))
    const halt = this.#halt
    this.#finish()
    this.stats.downtimeMs = undefined
    const closed = Promise.all([this.#channel?.close(error).catch(() => {}), this.#multifd?.close(error)])
    ramSaver.cleanup()
    this.#context.block?.saver.cleanup()
    this.#context.bitmaps?.end()
    if (halt) {
      await halt.done.catch((stopError: unknown) => log.warn('the machine did not stop cleanly', { stopError }))
      const taken = await this.#takeDisksBack()
      // Whoever changed the run state meanwhile (a monitor's stop, a power-off) has the last word.
      if (machine.runState === 'finish-migrate' && this.#phase !== 'postcopy') {
        if (!taken) machine.setRunState('io-error')
        else if (halt.before === 'running') machine.start()
        else machine.setRunState(halt.before)
      }
    }
    if (error instanceof MigrationCancelledError) this.#context.setStatus('cancelled')
    else this.#context.fail(error)
    await closed
  }
}
