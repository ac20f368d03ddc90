/**
 * The destination's side of postcopy: the guest runs here while its memory is still on the way. Spec: ram.md section 10.
 *
 * States: none, advised (ADVISE), listening (LISTEN: from now on pages come one by one), running (RUN). From `listening` on
 * a broken channel loses nothing: who needs a page waits, until `recover` brings another channel.
 */
import {
  bufferReader,
  type Channel,
  createQEMUFileReader,
  createQEMUFileWriter,
  drive,
  FerryError,
  PAGE_BYTES,
  type QEMUFileReader,
  type RamBlock,
  type StreamCommand,
  StreamFormatError,
  StreamLoader,
  type StreamLoaderOptions,
  StreamTruncatedError,
  setGlobalRunState,
  type Transport,
} from '@ferryvm/core'
import { type MigrationContext, uriOf } from '../context.ts'
import { MigrationStateError, MigrationYankedError } from '../errors.ts'
import { deviceTail, PageJournal, packageDigest } from '../journal/page-journal.ts'
import { trace } from '../migration-trace.ts'
import { RamLoader } from '../ram/ram-load.ts'
import { RAM_SECTION_VERSION } from '../ram/ram-records.ts'
import { ReturnPathSender } from '../return-path.ts'
import { arrivingPages, receivedBitmap } from './arriving-pages.ts'
import {
  checkAdvise,
  MAX_PACKAGE_BYTES,
  PING_BEFORE_PACKAGE,
  parseDiscard,
  parseRecvBitmap,
} from './postcopy-commands.ts'

/** The package is read in pieces: its length is the peer's word. */
const PACKAGE_PIECE_BYTES = 64 * 1024

/** How long a source may take to close the channel after it was told that the guest has not arrived. */
const LAST_WORD_MS = 5000

export interface IncomingPostcopyParts {
  readonly context: MigrationContext
  /** Of the stream's loader. */
  readonly loaderOptions: Pick<StreamLoaderOptions, 'configuration' | 'settings' | 'onSection' | 'warn' | 'loadOrder'>
  readonly signal: AbortSignal
  /** The first channel's; undefined: none was opened. */
  returnPath(): ReturnPathSender | undefined
  /** All device state is loaded. */
  startGuest(): Promise<void>
}

export class IncomingPostcopy {
  /** Loads the `ram` section from LISTEN on. */
  pages: RamLoader | undefined
  /** Why the device state could not be loaded; the guest has not run here. */
  failure: unknown
  readonly #parts: IncomingPostcopyParts
  #state: 'none' | 'advised' | 'listening' | 'running' = 'none'
  /** PING 2 was answered: after that the source sends the package. */
  #ready = false
  #returnPath: ReturnPathSender | undefined
  #channel: Channel | undefined
  #urgent: Channel | undefined
  readonly #listening = Promise.withResolvers<void>()
  #journal: PageJournal | undefined
  /** Settles when the package is loaded and the guest has been started. */
  #package: Promise<void> | undefined
  #recovery: PromiseWithResolvers<Channel> | undefined
  #recoveryListener: AsyncDisposable | undefined
  #lastWord: ReturnType<typeof setTimeout> | undefined

  constructor(parts: IncomingPostcopyParts) {
    this.#parts = parts
  }

  /** LISTEN was received: a failure is no reason to give the guest up. */
  get active(): boolean {
    return this.#state === 'listening' || this.#state === 'running'
  }

  /**
   * The source may have handed the guest over, and what says so has not all come: it cannot know that the guest is not here.
   * If the channel breaks now, the guest is told to go on there as soon as the source connects again.
   */
  lostPackage(error: unknown): boolean {
    if (this.#state !== 'advised' || !this.#ready || this.failure !== undefined) return false
    const codes = ['FERRY_STREAM_TRUNCATED', 'FERRY_CHANNEL_CLOSED']
    return FerryError.isInstance(error) ? codes.includes(error.code) : true
  }

  get running(): boolean {
    return this.#state === 'running'
  }

  /** The channel in use breaks; both sides wait for another one. @throws MigrationStateError */
  pause(): void {
    if (this.#parts.context.status() !== 'postcopy-active')
      throw new MigrationStateError('only a migration in postcopy-active can be paused')
    void this.#channel?.close(new MigrationStateError('paused by migrate-pause'))
  }

  /** Breaks the channel in whatever state it is. */
  yank(): void {
    void this.#channel?.close(new MigrationYankedError())
  }

  /** One of postcopy's commands on the stream. */
  async command(command: StreamCommand, channel: Channel, reader: QEMUFileReader): Promise<void> {
    switch (command.name) {
      case 'POSTCOPY_ADVISE':
        if (!this.#advise(command)) return
        this.#journal = await PageJournal.begin(this.#parts.context, 'destination')
        return
      case 'POSTCOPY_RAM_DISCARD':
        if (this.#state !== 'advised') throw command.refuse('only between ADVISE and LISTEN')
        this.#discard(command)
        return
      case 'PACKAGED':
        this.#channel = channel
        await this.#packaged(command, reader)
        return
      case 'RECV_BITMAP':
        if (!this.#resuming) throw command.refuse('nothing is being recovered')
        await this.#sendBitmap(parseRecvBitmap(command, this.#blocks))
        return
      case 'POSTCOPY_RESUME':
        if (!this.#resuming) throw command.refuse('nothing is being recovered')
        await this.#resume()
        return
      default:
        throw command.refuse('expected only inside of a package')
    }
  }

  /** The stream ended. @throws StreamFormatError pages are missing */
  async finish(position: number): Promise<void> {
    const { missing } = this.#parts.context.machine.memory
    if (missing.count > 0) throw new StreamFormatError(position, `the stream ended with ${missing.count} pages missing`)
    await this.#package
    await this.#journal?.note({ completed: true })
    void this.#urgent?.close().catch(() => {})
  }

  /** The channel is broken. Resolves with the next one. */
  async paused(error: unknown): Promise<Channel> {
    const { context, signal } = this.#parts
    context.log.warn(`postcopy is paused: ${(error as Error).message}`)
    trace.postcopy_pause_incoming({})
    this.#returnPath = undefined
    const closed = error instanceof Error ? error : undefined
    void this.#channel?.close(closed).catch(() => {})
    void this.#urgent?.close(closed).catch(() => {})
    this.#urgent = undefined
    this.#recovery = Promise.withResolvers()
    const abort = () => this.#recovery?.reject(signal.reason)
    signal.addEventListener('abort', abort)
    context.note(error)
    context.setStatus('postcopy-paused')
    try {
      this.#channel = await this.#recovery.promise
      this.#returnPath = new ReturnPathSender(createQEMUFileWriter(this.#channel))
      trace.postcopy_pause_incoming_continued({})
      context.setStatus('postcopy-recover')
      return this.#channel
    } finally {
      this.#recovery = undefined
      signal.removeEventListener('abort', abort)
    }
  }

  /** A source that was told to connect again hears that the guest is not here. */
  async refuse(channel: Channel): Promise<void> {
    await this.#returnPath!.shut(1)
    const timer = setTimeout(() => void channel.close(), LAST_WORD_MS)
    const rest = new Uint8Array(4096)
    while ((await Promise.resolve(channel.read(rest)).catch(() => 0)) > 0);
    clearTimeout(timer)
  }

  /** Before it is answered. */
  pinged(value: number): void {
    if (value === PING_BEFORE_PACKAGE) this.#ready = true
  }

  /** Nobody needs to hear it: a broken channel shows elsewhere. */
  async pong(value: number): Promise<void> {
    await this.#returnPath?.pong(value).catch(() => {})
  }

  /** Everything has arrived. */
  async shut(): Promise<void> {
    await this.#returnPath?.shut(0).catch(() => {})
  }

  /** Listens for the source to come again. @returns where @throws MigrationStateError it is not paused */
  async recover(transport: Transport<any>, address: unknown, uri: string): Promise<string> {
    const { context, signal } = this.#parts
    const recovery = this.#recovery
    if (!recovery) throw new MigrationStateError('migrate-recover: no paused postcopy migration waits here')
    await this.#recoveryListener?.[Symbol.asyncDispose]()
    const listener = await transport.listen(address, { signal, log: context.log })
    this.#recoveryListener = listener
    void (async () => {
      const channels = listener[Symbol.asyncIterator]()
      const first = await channels.next()
      if (first.done) return
      recovery.resolve(first.value)
      if (context.capabilities.get('postcopy-preempt')) {
        const second = await channels.next()
        if (!second.done) this.urgentChannel(second.value)
      }
      await listener[Symbol.asyncDispose]()
    })().catch((error: unknown) => context.log.warn(`migrate-recover: ${(error as Error).message}`))
    return uriOf(transport, listener.address, uri)
  }

  async close(): Promise<void> {
    clearTimeout(this.#lastWord)
    await this.#recoveryListener?.[Symbol.asyncDispose]()
    await this.#urgent?.close().catch(() => {})
    await this.#journal?.[Symbol.asyncDispose]()
  }

  /** Everything of the guest that is here, which does not run here any more. @throws MigrationStateError there is no journal */
  async saveJournal(): Promise<void> {
    const { context } = this.#parts
    const { machine, globalState } = context
    const journal = this.#journal
    if (!journal) throw new MigrationStateError('this side was started without a page journal')
    const { missing } = machine.memory
    if (this.running) {
      const { runState } = machine
      await machine.stop('postmigrate')
      setGlobalRunState(globalState, runState)
      await journal.devices(await deviceTail(context))
    }
    await journal.pages((block, page) => !missing.has(block.offset / PAGE_BYTES + page))
    await journal.note({ saved: true })
  }

  /** Before the guest has run here: what has arrived of it may be what its source lacks. */
  async failed(): Promise<void> {
    if (this.#journal && !this.running) await this.saveJournal()
  }

  /** The second channel, for pages that were asked for: bare page records. */
  urgentChannel(channel: Channel): void {
    const { context } = this.#parts
    this.#urgent = channel
    const reader = createQEMUFileReader(channel)
    const loader = this.#pageLoader()
    void (async () => {
      for (let saidSo = false; ; saidSo = true) {
        await reader.fill(1)
        if (reader.available === 0) {
          if (saidSo) return
          throw new StreamTruncatedError(reader.position, 8, 0)
        }
        await drive(reader, loader.load(reader, RAM_SECTION_VERSION))
      }
    })().catch((error: Error) => {
      if (this.#urgent !== channel || context.machine.memory.missing.count === 0) return
      context.log.warn(`the channel for requested pages: ${error.message}`)
      void this.#channel?.close(error).catch(() => {})
    })
  }

  get #blocks(): readonly RamBlock[] {
    return this.#parts.context.machine.memory.blocks
  }

  get #resuming(): boolean {
    return this.#parts.context.status() === 'postcopy-recover'
  }

  /** @returns false: nothing will follow the guest but bitmaps, and those only if the source switches, which is refused then */
  #advise(command: StreamCommand): boolean {
    const { context } = this.#parts
    if (this.#state !== 'none') throw command.refuse('it came twice')
    if (command.payload.length === 0 && !context.capabilities.get('postcopy-ram')) return false
    if (!context.capabilities.get('postcopy-ram')) {
      throw command.refuse('switch the capability postcopy-ram on here as well')
    }
    checkAdvise(command)
    trace.loadvm_postcopy_handle_advise({})
    this.#state = 'advised'
    return true
  }

  #discard(command: StreamCommand): void {
    trace.loadvm_postcopy_ram_handle_discard({})
    const { block, ranges } = parseDiscard(command, this.#blocks)
    trace.loadvm_postcopy_ram_handle_discard_header({ ramid: block.idstr, len: 16 * ranges.length })
    const { missing } = this.#parts.context.machine.memory
    for (const { startBytes, lengthBytes } of ranges) {
      missing.add((block.offset + startBytes) / PAGE_BYTES, lengthBytes / PAGE_BYTES)
    }
    trace.loadvm_postcopy_ram_handle_discard_end({})
  }

  async #packaged(command: StreamCommand, reader: QEMUFileReader): Promise<void> {
    if (this.#state !== 'advised') throw command.refuse('only after ADVISE, and once')
    const bytes = await takePackage(command, reader)
    trace.loadvm_handle_cmd_packaged({ length: bytes.length })
    trace.loadvm_handle_cmd_packaged_received({ ret: bytes.length })
    const digest = packageDigest(bytes)
    const f = bufferReader(bytes, reader.position - bytes.length)
    const { context, loaderOptions } = this.#parts
    const loader = new StreamLoader(f, context.machine.sections, {
      ...loaderOptions,
      rewind: (position) => f.rewind(position),
      endsWithoutDescription: () => true,
      onCommand: (inner) => this.#packageCommand(inner),
    })
    this.#package = loader.loadElements().then(async () => {
      if (this.#state !== 'running') throw command.refuse('the package ends without RUN')
      trace.loadvm_handle_cmd_packaged_main({ ret: 0 })
      await this.#journal?.note({ package: digest, ran: true })
      await this.#parts.startGuest()
    })
    this.#package.catch(async (error: unknown) => {
      trace.loadvm_handle_cmd_packaged_main({ ret: -1 })
      this.failure = error
      this.#state = 'none'
      // The source can go on with the guest, if it hears of it. A channel that is closed with unread bytes may lose that word,
      // so the source is to close it; what it sends until then is taken.
      const said = this.#parts.returnPath()?.shut(1)
      await said?.catch(() => {})
      this.#lastWord = setTimeout(() => void this.#channel?.close(error as Error).catch(() => {}), LAST_WORD_MS)
    })
    // What follows the package is in postcopy form once LISTEN has been seen.
    await Promise.race([this.#listening.promise, this.#package])
  }

  async #packageCommand(command: StreamCommand): Promise<void> {
    switch (command.name) {
      case 'POSTCOPY_LISTEN':
        if (this.#state !== 'advised') throw command.refuse('only after ADVISE, and once')
        this.#listen(command)
        return
      case 'PING':
        await this.pong(new DataView(command.payload.buffer).getUint32(0))
        return
      case 'POSTCOPY_RUN':
        if (this.#state !== 'listening') throw command.refuse('only after LISTEN')
        this.#state = 'running'
        trace.loadvm_postcopy_handle_run({})
        command.leave()
        return
      default:
        throw command.refuse('not expected inside of a package')
    }
  }

  #listen(command: StreamCommand): void {
    const { context } = this.#parts
    trace.loadvm_postcopy_handle_listen({ str: 'enter' })
    this.#returnPath = this.#parts.returnPath()
    if (!this.#returnPath) throw command.refuse('there is no return path to ask for pages')
    const { memory, cpu } = context.machine
    memory.missing.begin((page) => this.#request(page), cpu.harts.length)
    trace.postcopy_ram_enable_notify({})
    this.pages = this.#pageLoader()
    this.#state = 'listening'
    context.setStatus('postcopy-active')
    this.#listening.resolve()
    trace.loadvm_postcopy_handle_listen({ str: 'return' })
  }

  #pageLoader(): RamLoader {
    const { memory } = this.#parts.context.machine
    const loader = new RamLoader(memory, () => memory.blocks)
    loader.begin(arrivingPages(memory.missing, loader.stats))
    return loader
  }

  /** While there is no channel the wish stays with the missing pages, and goes out with the next RESUME. */
  #request(page: number): void {
    trace.postcopy_page_req_add({ addr: page * PAGE_BYTES, count: this.#parts.context.machine.memory.missing.count })
    if (!this.#returnPath || this.#resuming) return
    const block = this.#blocks.find(
      (b) => page >= b.offset / PAGE_BYTES && page < (b.offset + b.sizeBytes) / PAGE_BYTES,
    )!
    this.#returnPath.requestPages(block.idstr, page * PAGE_BYTES - block.offset, PAGE_BYTES).catch(() => {})
  }

  async #sendBitmap(block: RamBlock): Promise<void> {
    trace.loadvm_handle_recv_bitmap({ s: block.idstr })
    await this.#returnPath!.recvBitmap(block.idstr, receivedBitmap(this.#parts.context.machine.memory.missing, block))
  }

  async #resume(): Promise<void> {
    const { context } = this.#parts
    trace.loadvm_postcopy_handle_resume({})
    context.setStatus('postcopy-active')
    await this.#returnPath!.resumeAck()
    for (const page of context.machine.memory.missing.wanted) this.#request(page)
  }
}

async function takePackage(command: StreamCommand, reader: QEMUFileReader): Promise<Uint8Array> {
  const { payload } = command
  const length = new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0)
  if (length > MAX_PACKAGE_BYTES) throw command.refuse(`${length} bytes; ${MAX_PACKAGE_BYTES} is the limit`)
  const pieces: Uint8Array[] = []
  for (let left = length; left > 0; ) {
    const piece = new Uint8Array(Math.min(left, PACKAGE_PIECE_BYTES))
    await reader.fill(piece.length)
    reader.getBuffer(piece)
    pieces.push(piece)
    left -= piece.length
  }
  const bytes = new Uint8Array(length)
  let at = 0
  for (const piece of pieces) {
    bytes.set(piece, at)
    at += piece.length
  }
  return bytes
}
