import { type ChildProcess, spawn } from 'node:child_process'
import { constants } from 'node:os'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import {
  type Channel,
  ChannelClosedError,
  type ChannelFeature,
  defineTraceEvents,
  defineTransport,
  type Logger,
  singleChannelListener,
  type Transport,
  type TransportContext,
  UnsupportedFeatureError,
} from '@ferryvm/core'
import { fromDuplex } from '@ferryvm/core/node'
import { ExecAddressError, ExecStartError, ExecStatusError } from './errors.ts'

const trace = defineTraceEvents({
  migration_exec_outgoing: { cmd: 'str' },
  migration_exec_incoming: { cmd: 'str' },
})

/** No half-close to be relied on: whether anybody behind a command ever answers, nobody can know. */
const FEATURES: ReadonlySet<ChannelFeature> = new Set<ChannelFeature>()

export interface ExecOptions {
  /**
   * After the last byte: how long the command is watched for a failure before the guest is given up, ms. A command that
   * runs longer (a destination that keeps the guest running) counts as a success. Default 2000.
   */
  readonly graceMs?: number
}

/**
 * `exec:COMMAND`, given to `/bin/sh -c`. Its standard input and output are the two directions, its errors go where ours go.
 * Spec: protocol.md section 7.
 */
export function exec(options: ExecOptions = {}): Transport<string> {
  const graceMs = options.graceMs ?? 2000
  return defineTransport<string>({
    scheme: 'exec',
    features: FEATURES,
    parseAddress(text) {
      if (text.trim() === '')
        throw new ExecAddressError('"exec:": a shell command has to follow, for example exec:cat > guest')
      if (text.includes('\0')) throw new ExecAddressError('"exec:": the command contains a zero byte')
      return text
    },
    formatAddress: (command) => command,
    connect(command, context) {
      trace.migration_exec_outgoing({ cmd: command })
      return start(command, graceMs, context)
    },
    async listen(command, context) {
      trace.migration_exec_incoming({ cmd: command })
      // Started at once, as a listener is: the command may be one that waits for a connection.
      return singleChannelListener(command, await start(command, graceMs, context), context.signal)
    },
  })
}

async function start(command: string, graceMs: number, { signal, log }: TransportContext): Promise<Channel> {
  signal.throwIfAborted()
  const child = spawn('/bin/sh', ['-c', command], { stdio: ['pipe', 'pipe', 'inherit'] })
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve)
    child.once('error', (cause) => reject(new ExecStartError(command, cause)))
  })
  child.on('error', (error) => log.warn(`exec: ${error.message}`))
  return new CommandChannel(command, child, graceMs, log)
}

class CommandChannel implements Channel {
  readonly features = FEATURES
  readonly #command: string
  readonly #child: ChildProcess
  readonly #graceMs: number
  readonly #log: Logger
  readonly #stdin: Channel
  readonly #stdout: Channel
  /** Settles when the command ends: undefined is success. */
  readonly #ended: Promise<ExecStatusError | undefined>
  #over = false
  #inputEnded = false
  #closing: Promise<void> | undefined

  constructor(command: string, child: ChildProcess, graceMs: number, log: Logger) {
    this.#command = command
    this.#child = child
    this.#graceMs = graceMs
    this.#log = log
    this.#stdin = fromDuplex(child.stdin as unknown as Duplex)
    this.#stdout = fromDuplex(child.stdout as unknown as Duplex)
    this.#ended = new Promise((resolve) => {
      child.once('exit', (status, signal) => {
        this.#over = true
        resolve(status === 0 ? undefined : new ExecStatusError(command, status, signal))
      })
    })
  }

  read(into: Uint8Array): number | Promise<number> {
    const count = this.#stdout.read(into)
    if (typeof count === 'number') return count > 0 ? count : this.#endOfOutput()
    return count.then((n) => (n > 0 ? n : this.#endOfOutput()))
  }

  write(buffers: readonly Uint8Array[]): void | Promise<void> {
    const written = this.#stdin.write(buffers)
    return written?.catch(async (error: Error) => {
      if (this.#closing) throw error
      const failure = await this.#endedWithin(this.#graceMs)
      if (this.#closing) throw error
      throw new ChannelClosedError(
        failure
          ? `${failure.message} before it had read everything`
          : `the command "${this.#command}" does not read any further`,
        { cause: failure ?? error },
      )
    })
  }

  async shutdown(): Promise<void> {
    if (this.#closing) await this.#stdin.shutdown('write') // says why it is closed
    throw new UnsupportedFeatureError('shutdown', 'exec:')
  }

  async finish(): Promise<void> {
    await this.#endInput()
    const failure = await this.#endedWithin(this.#graceMs)
    if (failure) throw failure
    if (!this.#over) this.#log.debug('exec: the command runs on', { command: this.#command })
  }

  close(reason?: Error): Promise<void> {
    this.#closing ??= reason ? this.#abandon(reason) : this.#leave()
    return this.#closing
  }

  /** An end that a failure explains is that failure: half a file must not look like a whole one. */
  async #endOfOutput(): Promise<number> {
    const failure = await this.#endedWithin(this.#graceMs)
    if (failure) throw new ChannelClosedError(failure.message, { cause: failure })
    return 0
  }

  /** The failure, when the command ended in time and was one. */
  async #endedWithin(ms: number): Promise<ExecStatusError | undefined> {
    const timer = new AbortController()
    const late = delay(ms, undefined, { signal: timer.signal }).catch(() => undefined)
    const failure = await Promise.race([this.#ended, late])
    timer.abort()
    return failure
  }

  async #endInput(): Promise<void> {
    if (this.#inputEnded) return
    this.#inputEnded = true
    await this.#stdin.shutdown('write')
  }

  /** All went well. The command reads what is in its pipe and goes on, without us if it likes. */
  async #leave(): Promise<void> {
    await this.#endInput().catch(() => {})
    await this.#stdout.close(new ChannelClosedError())
    await this.#stdin.close()
    if (!this.#over) await this.#endedWithin(this.#graceMs)
    if (this.#over) return
    this.#child.unref()
    void this.#ended.then((failure) => failure && this.#log.warn(failure.message))
  }

  /** It failed or was given up: nobody needs the command any more. */
  async #abandon(reason: Error): Promise<void> {
    await Promise.all([this.#stdin.close(reason), this.#stdout.close(reason)])
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      if (this.#over) return
      this.#child.kill(constants.signals[signal])
      await this.#endedWithin(this.#graceMs)
    }
  }
}
