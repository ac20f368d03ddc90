import {
  type Channel,
  createQEMUFileReader,
  createQEMUFileWriter,
  FerryError,
  globalRunState,
  type Listener,
  nextTurn,
  type QEMUFileReader,
  type StreamCommand,
  StreamLoader,
  setGlobalRunState,
  type Transport,
} from '@ferryvm/core'
import { configurationOf, type MigrationContext, uriOf } from './context.ts'
import { MigrationCancelledError } from './errors.ts'
import { ReturnPathSender } from './return-path.ts'

/** One machine arriving here. */
export class IncomingMigration {
  /** Start the guest if it ran on the source. Set to false by `-S` or a monitor's `stop`. */
  autostart: boolean
  #listener: Listener<unknown> | undefined
  #channel: Channel | undefined
  #returnPath: ReturnPathSender | undefined
  /** There is no way back. */
  #nobodyHears = false
  readonly #abort = new AbortController()
  readonly #context: MigrationContext

  constructor(context: MigrationContext, autostart: boolean) {
    this.#context = context
    this.autostart = autostart
  }

  /** @returns the URI to connect to, with the real port */
  async listen(transport: Transport<any>, address: unknown, uri: string): Promise<string> {
    this.#listener = await transport.listen(address, { signal: this.#abort.signal, log: this.#context.log })
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
      const channel = await this.#accept()
      this.#channel = channel
      context.setStatus('active')
      await this.#load(channel)
      context.setStatus('completed')
      await channel.close().catch(() => {})
    } catch (error) {
      const reason = this.#abort.signal.aborted ? this.#abort.signal.reason : error
      await this.#returnPath?.shut(1).catch(() => {})
      await this.#channel?.close(reason).catch(() => {})
      context.fail(reason)
      throw reason
    } finally {
      await this.#listener?.[Symbol.asyncDispose]()
      seal[Symbol.dispose]()
    }
  }

  /** Stops waiting or loading. */
  async cancel(reason: Error = new MigrationCancelledError('the incoming migration was given up')): Promise<void> {
    this.#abort.abort(reason)
    await this.#listener?.[Symbol.asyncDispose]()
    await this.#channel?.close(reason).catch(() => {})
  }

  async #accept(): Promise<Channel> {
    for await (const channel of this.#listener!) {
      // Later connections are refused: one machine arrives once.
      await this.#listener![Symbol.asyncDispose]()
      return channel
    }
    this.#abort.signal.throwIfAborted()
    throw new MigrationCancelledError('the listener was closed')
  }

  async #load(channel: Channel): Promise<void> {
    const context = this.#context
    const { machine, globalState, ramLoader, log } = context
    ramLoader.begin()
    setGlobalRunState(globalState, 'running') // what a sender without that section means
    const reader = createQEMUFileReader(channel)
    const loader = new StreamLoader(reader, machine.sections, {
      configuration: configurationOf(context),
      settings: context.settings,
      onSection: (progress) => context.section(progress),
      onCommand: (command) => this.#command(command, channel),
      warn: (message) => log.warn(message),
      loadOrder: machine.loadOrder,
    })
    await loader.load()
    this.#abort.signal.throwIfAborted()
    machine.cpu.flushAll()
    if (this.#returnPath && !this.#nobodyHears) {
      await sourceStillWaits(reader)
      // First the word to the source, then the guest: if the word cannot be sent, the source goes on with it.
      await this.#answer((returnPath) => returnPath.shut(0))
    }
    const received = globalRunState(globalState)
    if (received === 'running' && this.autostart) machine.start()
    else machine.setRunState(received === 'running' ? 'paused' : received)
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

  async #command(command: StreamCommand, channel: Channel): Promise<void> {
    switch (command.name) {
      case 'OPEN_RETURN_PATH':
        if (this.#returnPath) this.#context.log.warn('the return path was opened twice')
        this.#returnPath ??= new ReturnPathSender(createQEMUFileWriter(channel))
        return
      case 'PING': {
        if (!this.#returnPath) throw command.refuse('there is no return path')
        const value = new DataView(command.payload.buffer, command.payload.byteOffset, 4).getUint32(0)
        await this.#answer((returnPath) => returnPath.pong(value))
        return
      }
      case 'SWITCHOVER_START':
        return
      case 'ENABLE_COLO':
        throw command.refuse('COLO is not implemented here')
      case 'PACKAGED':
      case 'RECV_BITMAP':
        throw command.refuse('postcopy is not implemented here')
      default:
        throw command.refuse('postcopy is not implemented here; switch postcopy-ram off on the source')
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
