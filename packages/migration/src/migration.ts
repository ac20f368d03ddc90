import {
  type BlockBackend,
  type Channel,
  type ChannelLayer,
  type Compressions,
  globalStateVmstate,
  type Logger,
  type Machine,
  type RunState,
  type SectionProgress,
  type StreamSettings,
  setGlobalRunState,
  silentLogger,
  type Transport,
} from '@ferryvm/core'
import { BitmapMigration } from './bitmaps/bitmap-migration.ts'
import { BITMAPS_SECTION_VERSION } from './bitmaps/bitmap-records.ts'
import { BlockMigration } from './block/block-migration.ts'
import { BLOCK_SECTION_VERSION } from './block/block-records.ts'
import type { BlockDevice } from './block/block-save.ts'
import { Capabilities, type Capability } from './capabilities.ts'
import type { Colo } from './colo-link.ts'
import { checkTransport, fileOf, type MigrationContext, resolveUri, withChannelLayers } from './context.ts'
import { MigrationBlockedError, MigrationCancelledError, MigrationStateError } from './errors.ts'
import type { MigrationForecast } from './forecast/forecast.ts'
import { createForkPoint, type ForkOptions, type ForkPoint } from './fork/fork-point.ts'
import { IncomingMigration, type LazyOptions } from './incoming.ts'
import { lazyRamInfo, type MigrationInfo, outgoingInfo, type SocketAddressInfo } from './info.ts'
import { trace } from './migration-trace.ts'
import { OutgoingMigration } from './outgoing.ts'
import { Parameters, type ParameterValues } from './parameters.ts'
import { pageEncodings } from './ram/encodings.ts'
import { RamLoader } from './ram/ram-load.ts'
import { RAM_SECTION_VERSION } from './ram/ram-records.ts'
import { RamSaver } from './ram/ram-save.ts'
import { createZeroPageTest } from './ram/zero-page.ts'
import { type AnnounceSelection, type AnnounceTimes, announceTimes, SelfAnnouncements } from './self-announcements.ts'
import { loadMachineState, saveMachineState } from './snapshot/machine-state.ts'
import { isRunning, type MigrationStatus } from './status.ts'

/** A connection about to be made, or waited for. */
export interface ChannelLayerRequest {
  /** The sender connects, as `client`. */
  readonly role: 'client' | 'server'
  /** Of the address, where it has one. */
  readonly host: string | undefined
  readonly parameters: Readonly<ParameterValues>
}

export interface MigrationOptions {
  readonly machine: Machine
  readonly transports: readonly Transport<any>[]
  /** Properties that change the bytes of a stream. */
  readonly settings?: Partial<StreamSettings>
  /** 16 bytes, compared with the sender's when it sends one. */
  readonly uuid?: Uint8Array
  readonly log?: Logger
  /**
   * On transports that flow both ways ask the destination for its word before the guest is given up, also while the
   * capability `return-path` is off: what a destination fails on may already have left our buffers. Default true.
   */
  readonly confirmCompletion?: boolean
  /**
   * Compressors for multifd: `nodeCompressions` of `@ferryvm/core/node`, or others. Without them the parameters that ask for one
   * are refused.
   */
  readonly compressions?: Compressions
  /**
   * What wraps every channel of a migration, asked when one begins: TLS, if the parameters `tls-creds`, `tls-hostname`
   * and `tls-authz` say so. Whatever it throws fails that migration before a connection is made. Without it those parameters are refused.
   */
  readonly channelLayers?: (request: ChannelLayerRequest) => readonly ChannelLayer[]
  /** Makes the capability `x-colo` possible. */
  readonly colo?: Colo
  /** From where a guest may come without a layer around its channels (TLS). Default `loopback`: from this host. */
  readonly plaintextFrom?: 'loopback' | 'anywhere'
  /** A connection over a network that brings no byte for so long is dropped, and another waited for. Default 30000 ms. */
  readonly silenceTimeoutMs?: number
  /**
   * A `file:` address for the page journal of a postcopy migration, at either end: what {@link reconcile} puts a guest
   * together from when one side has died. Overwritten when such a migration begins. Costs the source downtime: what has not been sent
   * is written before the guest goes.
   */
  readonly postcopyJournal?: string
  /** Disks that the other side may share: given up before it runs the guest, and taken back if it does not. */
  readonly drives?: readonly BlockBackend[]
  /**
   * Disks with names that both machines know: their dirty bitmaps can go along; and they themselves, where the stream's settings have a
   * section for them (`blockMigration`), which makes the capability `block` possible.
   */
  readonly blockDevices?: readonly BlockDevice[]
}

export interface MigrationEvents {
  status: (status: MigrationStatus) => void
  /** The dirty log was synchronized; counts from 1. */
  pass: (count: number) => void
  /** A section was written or loaded, while it happens, in stream order. */
  section: (progress: SectionProgress) => void
}

export interface IncomingOptions {
  /** Start the guest if it ran on the source. Default true. */
  readonly autostart?: boolean
  /**
   * The guest runs at once, and its memory comes out of the file when it is touched: for a file with `mapped-ram`, which this
   * switches on. Until all has come the status is `postcopy-active`; a file that cannot be read any more is `postcopy-paused`, and
   * {@link Migration.recover} goes on. Default false.
   */
  readonly lazy?: boolean | LazyOptions
  /**
   * The guest is another one from now on, whatever it was saved from: devices that tell a guest who it is (VMGenID) tell it something
   * new. Default: for `lazy`, true.
   */
  readonly newIdentity?: boolean
}
export interface MigrationRun {
  /** Settles with the migration; a rejection nobody looks at is no unhandled one. */
  readonly done: Promise<void>
}
export interface IncomingRun extends MigrationRun {
  /** Where to connect to, with the real port. */
  readonly uri: string
}

export interface StartOptions {
  /** `migrate -b`: its disks go along. */
  readonly block?: boolean
  /** `migrate -i`: of them, what is not in the image below. */
  readonly incremental?: boolean
  /** Goes on with a postcopy migration whose channel broke; `done` is the end of that migration. */
  readonly resume?: boolean
}

/** Live migration of one machine, both ways. Spec: protocol.md sections 1 to 5. */
export interface Migration extends AsyncDisposable {
  readonly status: MigrationStatus
  /** Why the last migration failed. */
  readonly error: Error | undefined
  readonly parameters: Readonly<ParameterValues>
  readonly capabilities: readonly { capability: Capability; state: boolean }[]
  /** @throws ParameterError nothing was changed */
  setParameters(changes: Readonly<Record<string, unknown>>): void
  /** As typed at a monitor. @throws ParameterError */
  setParameterText(name: string, text: string): void
  /** @throws CapabilityError @throws MigrationStateError while a migration runs */
  setCapabilities(changes: readonly { capability: string; state: boolean }[]): void
  /** Whether that capability is on. */
  capability(name: Capability): boolean
  /**
   * Begins sending the machine away; connecting and everything after it happens in `done`.
   * @throws MigrationStateError @throws MigrationBlockedError @throws MigrationUriError nothing was changed
   */
  start(uri: string, options?: StartOptions): MigrationRun
  /** Whether disks can go along in the stream. */
  readonly blockMigration: boolean
  /** {@link start} and wait for the end. */
  migrate(uri: string): Promise<void>
  /** Gives up the outgoing migration, if one runs; the guest runs on here. */
  cancel(): void
  /** The guest goes now, its memory follows. @throws MigrationStateError postcopy-ram is off, or nothing is being sent */
  startPostcopy(): void
  /** Breaks the channel of a postcopy migration, at either end; both wait then. @throws MigrationStateError */
  pause(): void
  /**
   * The destination of a paused postcopy migration waits for the source to connect again.
   * @returns the URI, with the real port @throws MigrationStateError, MigrationUriError, or the transport's error
   */
  recover(uri: string): Promise<string>
  /**
   * The destination of a paused postcopy migration whose source has died: stops the guest for good, and writes all of it that is here
   * to its journal. The migration fails with that. @throws MigrationStateError it is not paused, or keeps no journal
   */
  saveJournal(): Promise<void>
  /** Whether a migration has, or waits for, channels that {@link yank} would shut. */
  readonly connected: boolean
  /**
   * Shuts every channel at once, whatever the other end does: a migration fails, one in postcopy is paused.
   * Nothing happens where none is.
   */
  yank(): void
  /** `migrate-continue pre-switchover`. @throws MigrationStateError */
  continueSwitchover(): void
  /** The machine waits for {@link incoming} and nothing else (`-incoming defer`). */
  defer(options?: IncomingOptions): void
  /** Resolves once it listens. @throws MigrationStateError, MigrationUriError, or the transport's error */
  incoming(uri: string, options?: IncomingOptions): Promise<IncomingRun>
  /**
   * Writes the machine's whole state, which stands, as a stream without capabilities. `query-migrate` shows it.
   * @param runState what the guest did before it was stopped for this
   * @throws MigrationStateError, MigrationBlockedError, or what a device or the channel throws; nothing has changed
   */
  saveState(channel: Channel, runState: RunState): Promise<void>
  /** Loads such a stream into the machine, which was reset and stands. @throws its state is then undefined */
  loadState(channel: Channel): Promise<void>
  /**
   * The machine's state of this moment, for a twin; the machine stands for some ms and goes on. `forkMachine` makes a twin
   * of it in this process; whoever serves `readAt` to `incoming(…, { lazy: true })` makes one elsewhere.
   * @throws ForkError, MigrationStateError, MigrationBlockedError, or what a device throws; the machine goes on
   */
  fork(options?: ForkOptions): Promise<ForkPoint>
  /** Start the guest after an incoming migration. */
  autostart: boolean
  /**
   * Lets network cards say where the guest is, as after an arrival.
   * @param times default: the parameters `announce-*`
   */
  announceSelf(selection?: AnnounceSelection, times?: AnnounceTimes): void
  info(): MigrationInfo
  /** Absent where {@link MigrationOptions.colo} is. */
  readonly colo: Colo | undefined
  /** How the running precopy migration goes on; undefined: none runs, or the guest is already standing. */
  forecast(): MigrationForecast | undefined
  on<E extends keyof MigrationEvents>(event: E, listener: MigrationEvents[E]): Disposable
}

/** Registers `ram` and `globalstate` with the machine, so it comes after all devices, and once per machine. */
export function createMigration(options: MigrationOptions): Migration {
  const { machine, transports } = options
  const log = options.log ?? silentLogger
  const listeners: { [E in keyof MigrationEvents]: Set<MigrationEvents[E]> } = {
    status: new Set(),
    pass: new Set(),
    section: new Set(),
  }
  const emit = <E extends keyof MigrationEvents>(event: E, ...args: Parameters_<MigrationEvents[E]>) => {
    for (const listener of [...listeners[event]]) (listener as (...a: unknown[]) => void)(...args)
  }
  const { compressions = {} } = options
  const settings = { ...machine.stream, ...options.settings }
  const blockDevices = settings.blockMigration ? options.blockDevices : undefined
  const parameters = new Parameters(
    options.channelLayers !== undefined,
    Object.keys(compressions),
    blockDevices !== undefined,
  )
  const capabilities = new Capabilities([
    ...(options.colo ? (['x-colo'] as const) : []),
    ...(blockDevices ? (['block'] as const) : []),
  ])
  const announcements = new SelfAnnouncements(machine, log)
  const isZero = createZeroPageTest(machine.memory)
  const blocks = () => machine.migratableBlocks()

  let status: MigrationStatus = 'none'
  let error: Error | undefined
  let outgoing: OutgoingMigration | undefined
  let outgoingDone: Promise<void> | undefined
  let incoming: IncomingMigration | undefined
  let arrived = false
  let forking = false
  let autostart = true
  let listening: SocketAddressInfo[] | undefined

  const source = { memory: machine.memory, migratableBlocks: blocks, flushWriteTlb: () => machine.cpu.flushWriteTlb() }
  const ramSaver = new RamSaver(
    source,
    {
      onSync(count, dirtied, written) {
        emit('pass', count)
        context.outgoing?.synced(dirtied, written)
      },
      limited: () => context.outgoing?.limited() ?? false,
      check: () => context.outgoing?.check(),
    },
    isZero,
  )
  const block =
    blockDevices &&
    new BlockMigration(blockDevices, {
      capabilities,
      parameters,
      sending: () => context.outgoing !== undefined,
      limited: () => context.outgoing?.limited() ?? false,
      check: () => context.outgoing?.check(),
    })
  const bitmaps = options.blockDevices && new BitmapMigration(options.blockDevices, { capabilities, parameters })
  const ramLoader = new RamLoader(machine.memory, () => machine.memory.blocks, isZero)
  const context: MigrationContext = {
    machine,
    transports,
    parameters,
    capabilities,
    log,
    ramSaver,
    ramLoader,
    settings,
    uuid: options.uuid,
    confirmCompletion: options.confirmCompletion ?? true,
    journal: options.postcopyJournal,
    isZero,
    compressions,
    block,
    bitmaps,
    drives: options.drives ?? [],
    encodings: (channel, moment) =>
      pageEncodings({
        moment,
        map: machine.physical,
        memory: machine.memory,
        isZero,
        sender: channel.ramHooks?.sender,
        file: fileOf(context, channel),
        capability: (name) => capabilities.get(name),
        parameters: parameters.values,
        compressions,
        settings,
        uuid: options.uuid,
      }),
    colo: options.colo,
    globalState: globalStateVmstate.createState(),
    outgoing: undefined,
    forking: undefined,
    status: () => status,
    note(reason) {
      error = reason instanceof Error ? reason : new Error(String(reason))
    },
    setStatus(next) {
      if (status === next) return
      status = next
      trace.migrate_set_state({ new_state: next })
      emit('status', next)
    },
    fail(reason) {
      error = reason instanceof Error ? reason : new Error(String(reason))
      trace.migrate_error({ error_desc: error.message })
      context.setStatus('failed')
    },
    section: (progress) => emit('section', progress),
    announce: () => announcements.start(announceTimes(parameters)),
  }
  const registrations = [
    ...(block
      ? [machine.sections.registerLive('block', BLOCK_SECTION_VERSION, block.handlers, { instanceId: 0 })]
      : []),
    machine.sections.registerLive(
      'ram',
      RAM_SECTION_VERSION,
      {
        saveSetup: (f) => (context.forking ?? ramSaver).setup(f),
        saveLivePending: () => ({ mustPrecopy: 0, canPostcopy: ramSaver.remainingBytes }),
        saveLiveIterate: (f) => (outgoing?.postcopy?.pages ?? ramSaver).iterate(f),
        saveLiveCompletePrecopy: (f) => (context.forking ?? ramSaver).complete(f),
        saveLiveCompletePostcopy: (f) => outgoing!.postcopy!.pages!.complete(f),
        loadState: (f, version, section) => (incoming?.postcopy.pages ?? ramLoader).load(f, version, section),
        saveCleanup: () => ramSaver.cleanup(),
      },
      { instanceId: 0 },
    ),
    ...(bitmaps
      ? [machine.sections.registerLive('dirty-bitmap', BITMAPS_SECTION_VERSION, bitmaps.handlers, { instanceId: 0 })]
      : []),
    machine.sections.register(globalStateVmstate, context.globalState, { instanceId: 0 }),
  ]

  const { channelLayers, plaintextFrom = 'loopback', silenceTimeoutMs = 30_000 } = options
  const guard = { plaintextFrom, silenceTimeoutMs }
  const layered = (transport: Transport<any>, address: unknown, role: ChannelLayerRequest['role']): Transport<any> => {
    const { host } = address as { host?: unknown }
    const known = typeof host === 'string' && host ? host : undefined
    const layersOf = () => channelLayers?.({ role, host: known, parameters: parameters.values }) ?? []
    return withChannelLayers(transport, layersOf, guard)
  }
  const resumeOutgoing = (uri: string): MigrationRun => {
    if (!outgoing?.postcopy || status !== 'postcopy-paused')
      throw new MigrationStateError('no paused postcopy migration could be resumed')
    const { transport, address } = resolveUri(transports, uri)
    checkTransport(context, transport, uri)
    outgoing.postcopy.resume(layered(transport, address, 'client'), address)
    return { done: outgoingDone! }
  }
  const onlyWithDisks = (incremental: boolean): (() => void) => {
    if (!block) throw new MigrationStateError('disks cannot go along in this stream; copy them with a mirror job')
    if (capabilities.get('block') || parameters.values['block-incremental'])
      throw new MigrationStateError('Command options are incompatible with current migration capabilities')
    return block.only(capabilities, incremental)
  }
  const refuseWhileRunning = (what: string) => {
    if (isRunning(status)) throw new MigrationStateError(`${what}: a migration is in progress (${status})`)
  }
  const quietly = (promise: Promise<void>): Promise<void> => {
    promise.catch(() => {})
    return promise
  }

  return {
    colo: options.colo,
    get status() {
      return status
    },
    get error() {
      return error
    },
    get parameters() {
      return parameters.values
    },
    get capabilities() {
      return capabilities.list()
    },
    get autostart() {
      return incoming?.autostart ?? autostart
    },
    set autostart(on) {
      autostart = on
      if (incoming) incoming.autostart = on
    },
    capability: (name) => capabilities.get(name),
    setParameters(changes) {
      parameters.set(changes)
    },
    setParameterText(name, text) {
      parameters.setText(name, text)
    },
    setCapabilities(changes) {
      refuseWhileRunning('capabilities cannot be changed')
      capabilities.set(changes)
    },
    blockMigration: block !== undefined,
    start(uri, { resume = false, block: withDisks = false, incremental = false } = {}) {
      if (resume) return resumeOutgoing(uri)
      refuseWhileRunning('migrate')
      if (machine.runState === 'inmigrate') throw new MigrationStateError('the guest has not arrived here yet')
      if (machine.runState === 'save-vm' || machine.runState === 'restore-vm') {
        throw new MigrationStateError('a snapshot is being made or loaded')
      }
      if (machine.runState === 'postmigrate') {
        throw new MigrationStateError('the guest has left; it runs on the destination now')
      }
      const { blockers } = machine.sections
      if (blockers.length > 0) throw new MigrationBlockedError(blockers)
      const { transport, address } = resolveUri(transports, uri)
      checkTransport(context, transport, uri)
      const takeBack = withDisks || incremental ? onlyWithDisks(incremental) : undefined
      status = 'none'
      error = undefined
      incoming = undefined
      listening = undefined
      const run = new OutgoingMigration(context)
      outgoing = run
      context.setStatus('setup')
      outgoingDone = quietly(run.run(layered(transport, address, 'client'), address).finally(takeBack))
      return { done: outgoingDone }
    },
    startPostcopy() {
      if (!outgoing) throw new MigrationStateError('no migration was started that could switch to postcopy')
      outgoing.startPostcopy()
    },
    pause() {
      const run = outgoing ? outgoing.postcopy : incoming
      if (!run) throw new MigrationStateError('only a postcopy migration can be paused')
      run.pause()
    },
    async recover(uri) {
      if (!incoming || status !== 'postcopy-paused')
        throw new MigrationStateError('migrate-recover: no paused postcopy migration waits here')
      const { transport, address } = resolveUri(transports, uri)
      checkTransport(context, transport, uri)
      const actual = await incoming.recover(layered(transport, address, 'server'), address, uri)
      listening = socketAddressInfo(actual)
      return actual
    },
    async saveJournal() {
      if (!incoming || status !== 'postcopy-paused')
        throw new MigrationStateError('no paused postcopy migration waits here: there is nothing to save')
      await incoming.postcopy.saveJournal()
      await incoming.cancel(new MigrationCancelledError('the guest is in the journal now, and goes on from there'))
    },
    async migrate(uri) {
      await this.start(uri).done
    },
    cancel() {
      if (isRunning(status)) outgoing?.cancel()
    },
    get connected() {
      return isRunning(status) && status !== 'postcopy-paused'
    },
    yank() {
      if (!isRunning(status)) return
      if (outgoing) outgoing.yank()
      else void incoming?.yank()
    },
    continueSwitchover() {
      if (!outgoing) throw new MigrationStateError('no migration runs')
      outgoing.continueSwitchover()
    },
    async saveState(channel, runState) {
      refuseWhileRunning('saving')
      const { blockers } = machine.sections
      if (blockers.length > 0) throw new MigrationBlockedError(blockers)
      error = undefined
      outgoing = undefined
      incoming = undefined
      listening = undefined
      setGlobalRunState(context.globalState, runState)
      await saveMachineState(context, channel)
    },
    async loadState(channel) {
      refuseWhileRunning('loading')
      await loadMachineState(context, channel)
    },
    async fork(forkOptions = {}) {
      // A twin may be forked before all of its own memory has come.
      if (!(incoming?.lazy && status === 'postcopy-active')) refuseWhileRunning('fork')
      if (machine.runState !== 'running' && machine.runState !== 'paused') {
        throw new MigrationStateError(`a machine in state ${machine.runState} cannot be forked`)
      }
      const { blockers } = machine.sections
      if (blockers.length > 0) throw new MigrationBlockedError(blockers)
      if (forking) throw new MigrationStateError('fork: another fork is being made')
      forking = true
      try {
        return await createForkPoint(context, forkOptions)
      } finally {
        forking = false
      }
    },
    defer(incomingOptions = {}) {
      if (incomingOptions.autostart !== undefined) autostart = incomingOptions.autostart
      machine.setRunState('inmigrate')
    },
    async incoming(uri, incomingOptions = {}) {
      refuseWhileRunning('migrate-incoming')
      if (arrived) throw new MigrationStateError('the guest has arrived already')
      if (machine.runState !== 'prelaunch' && machine.runState !== 'inmigrate') {
        throw new MigrationStateError(`a machine in state ${machine.runState} takes no guest in`)
      }
      const { blockers } = machine.sections
      if (blockers.length > 0) throw new MigrationBlockedError(blockers)
      const { lazy = false } = incomingOptions
      if (lazy) capabilities.set([{ capability: 'mapped-ram', state: true }])
      const { transport, address } = resolveUri(transports, uri)
      checkTransport(context, transport, uri)
      if (incomingOptions.autostart !== undefined) autostart = incomingOptions.autostart
      const { newIdentity = lazy !== false } = incomingOptions
      const run = new IncomingMigration(context, autostart, lazy === true ? {} : lazy || undefined, newIdentity)
      status = 'none'
      error = undefined
      context.setStatus('setup')
      try {
        const actual = await run.listen(layered(transport, address, 'server'), address, uri)
        incoming = run
        listening = socketAddressInfo(actual)
        machine.setRunState('inmigrate')
        const done = run.run().then(() => void (arrived = true))
        return { uri: actual, done: quietly(done) }
      } catch (failure) {
        status = 'none'
        throw failure
      }
    },
    info() {
      const info: MigrationInfo = outgoing
        ? outgoingInfo(status, outgoing, ramSaver)
        : status === 'none'
          ? {}
          : { status }
      if (!outgoing && incoming?.lazy && status !== 'none')
        info.ram = lazyRamInfo(machine.memory, incoming.lazy.stats.bytes)
      const disk = block?.info
      if (disk) info.disk = disk
      if (error) info['error-desc'] = error.message
      const { blockers } = machine.sections
      if (blockers.length > 0) info['blocked-reasons'] = [...blockers]
      if (!outgoing && listening) info['socket-address'] = listening
      if (incoming?.postcopy.running && status === 'completed' && capabilities.get('postcopy-blocktime')) {
        const { hartMs, allHartsMs } = machine.memory.missing.stats
        info['postcopy-blocktime'] = Math.round(allHartsMs)
        info['postcopy-vcpu-blocktime'] = hartMs.map(Math.round)
      }
      return info
    },
    announceSelf: (selection, times = announceTimes(parameters)) => announcements.start(times, selection),
    forecast: () => (isRunning(status) ? outgoing?.forecast() : undefined),
    on(event, listener) {
      listeners[event].add(listener)
      return { [Symbol.dispose]: () => void listeners[event].delete(listener) }
    },
    async [Symbol.asyncDispose]() {
      announcements[Symbol.dispose]()
      await options.colo?.stop()
      if (isRunning(status)) outgoing?.giveUp(new MigrationCancelledError())
      await incoming?.cancel()
      await outgoingDone?.catch(() => {})
      for (const registration of registrations) registration[Symbol.dispose]()
    },
  }
}

type Parameters_<F> = F extends (...args: infer A) => void ? A : never

function socketAddressInfo(uri: string): SocketAddressInfo[] | undefined {
  if (uri.startsWith('unix:')) return [{ type: 'unix', path: uri.slice(5) }]
  const match = /^(?:tcp|rdma):(?:\[([^\]]*)\]|([^:,]*)):(\d+)/.exec(uri)
  return match ? [{ type: 'inet', host: match[1] ?? match[2]!, port: match[3]! }] : undefined
}
