import {
  type Channel,
  createQEMUFileReader,
  createQEMUFileWriter,
  FerryError,
  globalRunState,
  type Listener,
  nextTurn,
  type QEMUFileReader,
  type SeekableChannel,
  type StreamCommand,
  StreamLoader,
  setGlobalRunState,
  type Transport,
} from '@ferryvm/core'
import { secondaryLink } from './colo-link.ts'
import { configurationOf, fileOf, giveDisks, type MigrationContext, takeDisks, uriOf } from './context.ts'
import { rehearse } from './device-state.ts'
import { MigrationCancelledError, MigrationYankedError } from './errors.ts'
import { LazyRam } from './lazy/lazy-ram.ts'
import { trace } from './migration-trace.ts'
import { acceptChannels } from './multifd/accept-channels.ts'
import { IncomingMultifd } from './multifd/incoming-multifd.ts'
import type { MultifdCompression } from './multifd/multifd-packet.ts'
import { IncomingPostcopy } from './postcopy/incoming-postcopy.ts'
import { prepareSections } from './prepare-sections.ts'
import { compressedPageDecoder } from './ram/compress/compressed-pages.ts'
import { mappedRamSession } from './ram/mapped/mapped-load.ts'
import { sharedRamSession } from './ram/shared/shared-ram.ts'
import { ReturnPathSender } from './return-path.ts'

/** The guest runs at once, out of a mapped-ram file. */
export interface LazyOptions {
  /** Pages that nobody waits for come too, in the background, at most `max-postcopy-bandwidth` of them. Default true. */
  readonly prefetch?: boolean
}

/** One machine arriving here. */
export class IncomingMigration {
  /** Start the guest if it ran on the source. Set to false by `-S` or a monitor's `stop`. */
  autostart: boolean
  #listener: Listener<unknown> | undefined
  #channel: Channel | undefined
  #returnPath: ReturnPathSender | undefined
  #multifd: IncomingMultifd | undefined
  readonly postcopy: IncomingPostcopy
  readonly #lazyOptions: LazyOptions | undefined
  readonly #newIdentity: boolean
  lazy: LazyRam | undefined
  #colo = false
  /** There is no way back. */
  #nobodyHears = false
  readonly #abort = new AbortController()
  readonly #context: MigrationContext

  constructor(context: MigrationContext, autostart: boolean, lazy?: LazyOptions, newIdentity = false) {
    this.#newIdentity = newIdentity
    this.#context = context
    this.#lazyOptions = lazy
    this.autostart = autostart
    this.postcopy = new IncomingPostcopy({
      context,
      loaderOptions: this.#loaderOptions(),
      signal: this.#abort.signal,
      returnPath: () => this.#returnPath,
      startGuest: () => this.#startGuest(),
    })
  }

  /** @returns the URI to connect to, with the real port */
  async listen(transport: Transport<any>, address: unknown, uri: string): Promise<string> {
    const context = this.#context
    const { log, capabilities } = context
    const { signal } = this.#abort
    if (this.#lazyOptions)
      this.lazy = new LazyRam({ context, uri, signal, prefetch: this.#lazyOptions.prefetch ?? true })
    this.#listener = await transport.listen(address, { signal, log, capabilities: capabilities.on })
    return uriOf(transport, this.#listener.address, uri)
  }

  /**
   * Takes the first connection, loads it and starts the guest. Resolves when it runs (or stands as it stood on the source).
   * @throws why it could not be loaded; the machine's state is then undefined
   */
  async run(): Promise<void> {
    const context = this.#context
    const seal = context.machine.sections.seal()
    try {
      await prepareSections(context.machine.sections)
      // A file is there at once: what is rehearsed would only come later.
      if (!this.lazy) await rehearse(context)
      this.#abort.signal.throwIfAborted()
      const { channel, reader } = await this.#accept()
      this.#channel = channel
      trace.migration_set_incoming_channel({ ioc: 0, ioctype: 'channel' })
      context.setStatus('active')
      await this.#load(channel, reader)
      trace.process_incoming_migration_co_end({ ret: 0, ps: Number(this.postcopy.active) })
      context.setStatus('completed')
      await this.#multifd?.close()
      await channel.close().catch(() => {})
    } catch (error) {
      const reason = this.#abort.signal.aborted ? this.#abort.signal.reason : error
      trace.process_incoming_migration_co_end({ ret: -1, ps: Number(this.postcopy.active) })
      await this.#returnPath?.shut(1).catch(() => {})
      await this.#channel?.close(reason).catch(() => {})
      await this.#multifd?.close(reason)
      await this.lazy?.close(reason)
      context.bitmaps?.loader.giveUp()
      await this.postcopy.failed().catch((why) => context.log.warn(`page journal: ${(why as Error).message}`))
      context.machine.memory.missing.giveUp()
      context.fail(reason)
      throw reason
    } finally {
      await this.#listener?.[Symbol.asyncDispose]()
      await this.postcopy.close()
      seal[Symbol.dispose]()
    }
  }

  /** Stops waiting or loading. */
  async cancel(reason: Error = new MigrationCancelledError('the incoming migration was given up')): Promise<void> {
    this.#abort.abort(reason)
    await this.#listener?.[Symbol.asyncDispose]()
    await this.#channel?.close(reason).catch(() => {})
    await this.#multifd?.close(reason)
  }

  /** See `Migration.yank`. */
  async yank(): Promise<void> {
    if (this.postcopy.active) this.postcopy.yank()
    else if (this.lazy && this.#context.status() === 'postcopy-active') this.lazy.pause(new MigrationYankedError())
    else await this.cancel(new MigrationYankedError())
  }

  /** See `Migration.pause`. @throws MigrationStateError */
  pause(): void {
    if (this.lazy) this.lazy.pause()
    else this.postcopy.pause()
  }

  /** See `Migration.recover`. */
  recover(transport: Transport<any>, address: unknown, uri: string): Promise<string> {
    return (this.lazy ?? this.postcopy).recover(transport, address, uri)
  }

  async #accept(): Promise<{ channel: Channel; reader: QEMUFileReader }> {
    const channels = this.#listener![Symbol.asyncIterator]()
    const { capabilities } = this.#context
    if (capabilities.get('multifd') && !capabilities.get('mapped-ram')) {
      this.#multifd = this.#incomingMultifd()
      const main = await acceptChannels(channels, this.#multifd, {
        channels: this.#context.parameters.values['multifd-channels'],
        log: this.#context.log,
        signal: this.#abort.signal,
      })
      await this.#listener![Symbol.asyncDispose]()
      return main
    }
    const first = await channels.next()
    if (!first.done) {
      void this.#acceptUrgent(channels).catch(() => {})
      return { channel: first.value, reader: createQEMUFileReader(first.value) }
    }
    this.#abort.signal.throwIfAborted()
    throw new MigrationCancelledError('the listener was closed')
  }

  #incomingMultifd(): IncomingMultifd {
    const { compressions, isZero, machine, parameters, ramLoader, uuid } = this.#context
    const method = parameters.values['multifd-compression'] as MultifdCompression
    return new IncomingMultifd({
      channels: parameters.values['multifd-channels'],
      uuid,
      memory: machine.memory,
      isZero,
      method,
      createDecompressor: method === 'none' ? undefined : () => compressions[method]!.createDecompressor(),
      stats: ramLoader.stats,
      failed: (error) => void this.cancel(error),
    })
  }

  /** Later connections are refused: one machine arrives once. */
  async #acceptUrgent(channels: AsyncIterator<Channel>): Promise<void> {
    if (this.#context.capabilities.get('postcopy-preempt')) {
      const second = await channels.next()
      if (!second.done) this.postcopy.urgentChannel(second.value)
    }
    await this.#listener![Symbol.asyncDispose]()
  }

  async #load(channel: Channel, reader: QEMUFileReader): Promise<void> {
    const context = this.#context
    const { machine, globalState, ramLoader, capabilities, compressions, parameters, isZero } = context
    const { receiver } = channel.ramHooks ?? {}
    const file = fileOf(context, channel)
    const readers = capabilities.get('multifd') ? parameters.values['multifd-channels'] : 1
    const { lazy } = this
    const mapped = file && (lazy ? lazy.session(file) : mappedRamSession(file, isZero, readers, ramLoader.stats))
    const compressed = capabilities.get('compress') && compressions.zlib
    const decoders = compressed ? [compressedPageDecoder(compressed, ramLoader.stats)] : []
    const multifd = this.#multifd?.session
    const shared = capabilities.get('x-ignore-shared') && sharedRamSession(machine.physical, machine.migratableBlocks())
    ramLoader.begin({
      decoders,
      ...multifd,
      ...mapped,
      ...(shared && {
        ...shared,
        sectionEnds: async (section) => {
          await multifd?.sectionEnds?.(section)
          await shared.sectionEnds(section)
        },
      }),
      hook: receiver && ((blocks) => receiver.receive(blocks)),
    })
    context.bitmaps?.loader.begin()
    setGlobalRunState(globalState, 'running') // what a sender without that section means
    let current = { channel, reader }
    const loader = new StreamLoader(reader, machine.sections, {
      ...this.#loaderOptions(),
      onCommand: (command) => this.#command(command, current),
      endsWithoutDescription: () => this.postcopy.active,
      rewind: lazy && file && ((position) => rewindFile(file, reader, position)),
    })
    let loading = lazy ? lazy.whileLoading(loader.load()) : loader.load()
    for (;;) {
      try {
        await loading
        if (this.postcopy.active) await this.postcopy.finish(current.reader.position)
        break
      } catch (error) {
        this.#abort.signal.throwIfAborted()
        const { active } = this.postcopy
        if (!active && !this.postcopy.lostPackage(error)) throw this.postcopy.failure ?? error
        const next = await this.postcopy.paused(error)
        if (!active) {
          await this.postcopy.refuse(next)
          throw error
        }
        this.#channel = next
        current = { channel: next, reader: createQEMUFileReader(next) }
        loading = loader.resume(current.reader)
      }
    }
    this.#abort.signal.throwIfAborted()
    try {
      context.bitmaps?.loader.finish(current.reader.position)
    } catch (error) {
      if (!this.postcopy.active) throw error
      context.log.warn((error as Error).message) // the guest is here already
    }
    if (this.postcopy.active) {
      // The guest has everything, and so it is: whether the source hears of it or not.
      await this.postcopy.shut()
      return
    }
    machine.cpu.flushAll()
    if (this.#colo) {
      context.setStatus('colo')
      await context.colo!.secondary(secondaryLink(context, channel, loader, reader, createQEMUFileWriter(channel)))
      context.announce()
      return
    }
    if (this.#returnPath && !this.#nobodyHears) {
      await sourceStillWaits(reader)
      await takeDisks(context)
      // First the word to the source, then the guest: if the word cannot be sent, the source goes on with it.
      try {
        await this.#answer((returnPath) => returnPath.shut(0))
        if (channel.features.has('shutdown')) await channel.finish?.()
      } catch (error) {
        await giveDisks(context)
        throw error
      }
    }
    if (lazy && machine.memory.missing.count > 0) context.setStatus('postcopy-active')
    await this.#startGuest()
    await lazy?.finish()
  }

  async #startGuest(): Promise<void> {
    const { machine, globalState } = this.#context
    await takeDisks(this.#context)
    this.#context.bitmaps?.loader.guestIsHere()
    if (this.#newIdentity) for (const { device } of machine.devices) device.renewIdentity?.()
    const received = globalRunState(globalState)
    if (received === 'running' && this.autostart) machine.start()
    else machine.setRunState(received === 'running' ? 'paused' : received)
    this.#context.announce()
  }

  #loaderOptions() {
    const { machine, settings, log, section } = this.#context
    return {
      configuration: configurationOf(this.#context),
      settings,
      onSection: section,
      warn: (message: string) => log.warn(message),
      loadOrder: machine.loadOrder,
    }
  }

  /** A stream that was recorded on its way to somebody else, in a file say, asks for answers that nobody waits for. */
  async #answer(send: (returnPath: ReturnPathSender) => Promise<void>): Promise<void> {
    if (this.#nobodyHears) return
    try {
      await send(this.#returnPath!)
    } catch (error) {
      if (!FerryError.isInstance(error) || error.code !== 'FERRY_UNSUPPORTED_FEATURE') throw error
      this.#nobodyHears = true
      this.#context.log.warn('the stream asks for answers, and nobody hears them here')
    }
  }

  async #command(command: StreamCommand, link: { channel: Channel; reader: QEMUFileReader }): Promise<void> {
    const { channel } = link
    switch (command.name) {
      case 'OPEN_RETURN_PATH':
        if (this.#returnPath) this.#context.log.warn('the return path was opened twice')
        this.#returnPath ??= new ReturnPathSender(createQEMUFileWriter(channel))
        return
      case 'PING': {
        if (!this.#returnPath) throw command.refuse('there is no return path')
        const value = new DataView(command.payload.buffer, command.payload.byteOffset, 4).getUint32(0)
        this.postcopy.pinged(value)
        if (this.postcopy.active) await this.postcopy.pong(value)
        else await this.#answer((returnPath) => returnPath.pong(value))
        return
      }
      case 'SWITCHOVER_START':
        return
      case 'ENABLE_COLO':
        if (!this.#context.capabilities.get('x-colo')) {
          throw command.refuse('the sender wants COLO; switch the capability x-colo on here too')
        }
        await this.#context.colo!.prepare()
        this.#colo = true
        return
      default:
        await this.postcopy.command(command, channel, link.reader)
    }
  }
}

/** A source that has closed the stream before it had our word has given up, and runs the guest itself. */
async function sourceStillWaits(reader: QEMUFileReader): Promise<void> {
  let failure: unknown
  const more = reader.fill(1)
  if (more) more.catch((error: unknown) => (failure = error))
  await nextTurn()
  if (failure || reader.ended) {
    throw new MigrationCancelledError('the source went away before the guest was handed over', { cause: failure })
  }
}

/** Back to the position of the stream that the reader had: since then it was read in order. */
function rewindFile(file: SeekableChannel, reader: QEMUFileReader, position: number): void {
  file.seek(file.position - (reader.position + reader.available - position))
  reader.restart(position)
}
