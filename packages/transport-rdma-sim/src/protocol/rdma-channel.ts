import { type Channel, ChannelClosedError, FerryError, type RamHooks, UnsupportedFeatureError } from '@ferryvm/core'
import { RdmaProtocolError } from '../errors.ts'
import type { ControlConnection, ControlMessage } from './control-connection.ts'
import { ControlType, controlName, MAX_FILE_BYTES } from './control-message.ts'
import { trace } from './rdma-trace.ts'

const BOTH_WAYS: Channel['features'] = new Set(['shutdown'])
const ONE_WAY: Channel['features'] = new Set()
/** How long a source without a way back listens for the destination's goodbye, or its ERROR. */
const GOODBYE_MS = 5000
/** How long closing waits for a reader to take what was accepted. */
const FLUSH_MS = 2000

export interface RdmaChannelParts {
  /** The connection on which we send, and the one on which the peer does. Only without a return path is one missing. */
  readonly outgoing?: ControlConnection
  readonly incoming?: ControlConnection
  readonly ramHooks: RamHooks
}

/**
 * The stream as QEMU_FILE messages, each of which the reader has asked for with READY: that is the back-pressure. The end
 * of a direction is the goodbye of its connection.
 */
export class RdmaChannel implements Channel {
  readonly features: Channel['features']
  readonly ramHooks: RamHooks
  readonly remoteAddress?: string
  readonly #outgoing: ControlConnection | undefined
  readonly #incoming: ControlConnection | undefined
  #message: ControlMessage | undefined
  #at = 0
  #reading = false
  #readShut = false
  #writeShut: Promise<void> | undefined
  #writes: Promise<unknown> = Promise.resolve()
  /** The end of the last write, copied, on its way: one message is accepted before the reader asks for it. */
  #tail: Promise<void> = Promise.resolve()
  #closed: { error: ChannelClosedError; done: Promise<unknown> } | undefined

  constructor({ outgoing, incoming, ramHooks }: RdmaChannelParts) {
    this.#outgoing = outgoing
    this.#incoming = incoming
    this.ramHooks = ramHooks
    const { remoteAddress } = (incoming ?? outgoing)!
    if (remoteAddress !== undefined) this.remoteAddress = remoteAddress
    this.features = outgoing && incoming ? BOTH_WAYS : ONE_WAY
    if (outgoing && incoming) {
      // One without the other is of no use, unless it ended in order.
      void outgoing.over.then(() => {
        if (!outgoing.endedInOrder && !this.#writeShut) incoming.breakOff(outgoing.failure!)
      })
      void incoming.over.then(() => {
        if (!incoming.endedInOrder && !this.#readShut) outgoing.fail(incoming.failure!)
      })
    }
  }

  read(into: Uint8Array): number | Promise<number> {
    if (into.length === 0) throw new RangeError('a read needs room for one byte')
    if (this.#reading) throw new TypeError('a read of this channel is already waiting')
    if (this.#closed) return Promise.reject(this.#closed.error)
    if (this.#readShut) return 0
    if (this.#message) return this.#take(into)
    const incoming = this.#incoming
    if (!incoming) return Promise.reject(new UnsupportedFeatureError('shutdown', 'rdma: without a return path'))
    this.#reading = true
    return this.#next(incoming, into).finally(() => {
      this.#reading = false
    })
  }

  write(buffers: readonly Uint8Array[]): Promise<void> {
    const written = this.#writes.then(() => this.#write(buffers))
    this.#writes = written.catch(() => {})
    return written
  }

  async shutdown(how: 'read' | 'write' | 'both'): Promise<void> {
    if (this.#closed) throw this.#closed.error
    if (this.features === ONE_WAY) throw new UnsupportedFeatureError('shutdown', 'rdma: without a return path')
    if (how !== 'read') {
      const { failure } = this.#outgoing!
      if (failure && !this.#writeShut) throw this.#asClosed(failure)
      this.#writeShut ??= this.#writes.then(() => this.#tail).then(() => this.#outgoing!.close())
      await this.#writeShut
    }
    if (how !== 'write') {
      this.#readShut = true
      this.#release()
      await this.#incoming!.close()
    }
  }

  async close(reason?: Error): Promise<void> {
    if (!this.#closed) {
      const message = reason ? `the channel is closed: ${reason.message}` : 'the channel is closed'
      const error = new ChannelClosedError(message, reason && { cause: reason })
      const closed = Promise.withResolvers<unknown>()
      this.#closed = { error, done: closed.promise }
      if (!reason) await Promise.race([this.#tail.catch(() => {}), sleep(FLUSH_MS)])
      closed.resolve(Promise.all([this.#outgoing?.close(reason), this.#incoming?.close(reason)]))
    }
    await this.#closed.done
  }

  /** What was accepted is with the peer's device; without a way back, until the destination has said goodbye. */
  async finish(): Promise<void> {
    try {
      await this.#writes
      await this.#tail
    } catch (error) {
      throw this.#asClosed(error)
    }
    if (this.#outgoing && !this.#incoming) await this.#goodbye(this.#outgoing)
  }

  async #write(buffers: readonly Uint8Array[]): Promise<void> {
    if (this.#closed) throw this.#closed.error
    if (this.#writeShut) throw new ChannelClosedError('this direction was shut down')
    const outgoing = this.#outgoing
    if (!outgoing) throw new UnsupportedFeatureError('shutdown', 'rdma: without a return path')
    try {
      await this.#tail
      let parts: Uint8Array[] = []
      let bytes = 0
      for (const buffer of buffers) {
        for (let at = 0; at < buffer.length; ) {
          if (bytes === MAX_FILE_BYTES) {
            await outgoing.send(ControlType.QEMU_FILE, parts)
            parts = []
            bytes = 0
          }
          const part = buffer.subarray(at, at + MAX_FILE_BYTES - bytes)
          parts.push(part)
          bytes += part.length
          at += part.length
        }
      }
      if (bytes === 0) return
      this.#tail = outgoing.send(ControlType.QEMU_FILE, [concat(parts, bytes)])
      this.#tail.catch(() => {}) // the next call, or the reader, finds the connection failed
    } catch (error) {
      throw this.#asClosed(error)
    }
  }

  async #next(incoming: ControlConnection, into: Uint8Array): Promise<number> {
    try {
      for (;;) {
        const message = await incoming.receive()
        if (message.type !== ControlType.QEMU_FILE || message.length > MAX_FILE_BYTES) {
          const problem =
            message.type === ControlType.QEMU_FILE
              ? `${message.length} bytes of the stream; at most ${MAX_FILE_BYTES} are allowed`
              : 'it arrived where the stream goes on'
          throw incoming.fail(new RdmaProtocolError(controlName(message.type), problem, 4))
        }
        if (message.length === 0) {
          message.release()
          continue
        }
        this.#message = message
        this.#at = 0
        return this.#take(into)
      }
    } catch (error) {
      if (this.#closed) throw this.#closed.error
      if (incoming.endedInOrder) return 0
      throw this.#asClosed(error)
    }
  }

  #take(into: Uint8Array): number {
    const { data } = this.#message!
    const part = data.subarray(this.#at, this.#at + into.length)
    trace.qemu_rdma_fill({ control_len: data.length - this.#at, size: part.length })
    into.set(part)
    this.#at += part.length
    if (this.#at === data.length) this.#release()
    return part.length
  }

  #release(): void {
    this.#message?.release()
    this.#message = undefined
  }

  /** The destination closes when it has everything; one that fails says ERROR. */
  async #goodbye(outgoing: ControlConnection): Promise<void> {
    await Promise.race([outgoing.over, sleep(GOODBYE_MS)])
    if (outgoing.failure && !outgoing.endedInOrder) throw this.#asClosed(outgoing.failure)
  }

  /** Failures of what lies below arrive as ChannelClosedError, whatever they were. */
  #asClosed(error: unknown): ChannelClosedError {
    if (this.#closed) return this.#closed.error
    if (FerryError.isInstance(error) && error.code === 'FERRY_CHANNEL_CLOSED') return error as ChannelClosedError
    return new ChannelClosedError(`rdma: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms).unref())

function concat(parts: readonly Uint8Array[], bytes: number): Uint8Array {
  const whole = new Uint8Array(bytes)
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
