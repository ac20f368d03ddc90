import { ChannelClosedError } from '../errors/channel-error.ts'
import type { Channel } from './channel.ts'
import { CloseState } from './close-state.ts'

const FEATURES: Channel['features'] = new Set(['shutdown'])

export interface ChannelPairOptions {
  /**
   * Bytes that each direction takes without a reader, by copying them. What goes beyond is not copied but waits for its
   * reader. Default 64 KiB.
   */
  readonly bufferBytes?: number
}

/** A write that waits for its reader. */
interface Ticket {
  chunksLeft: number
  resolve(): void
  reject(error: Error): void
}
interface Chunk {
  bytes: Uint8Array
  /** Absent: a copy that nobody waits for. */
  readonly ticket?: Ticket
}

/** One direction: what was written and not read. */
class Pipe {
  readonly #bufferBytes: number
  #queue: Chunk[] = []
  #queuedBytes = 0
  #reader: { into: Uint8Array; resolve(count: number): void; reject(error: Error): void } | undefined
  /** No more bytes will be written. */
  #ended = false
  /** Nobody will read: writes fail with this. */
  #broken: string | undefined

  constructor(bufferBytes: number) {
    this.#bufferBytes = bufferBytes
  }

  read(into: Uint8Array): number | Promise<number> {
    if (into.length === 0) throw new RangeError('a read needs room for one byte')
    if (this.#reader) throw new TypeError('a read of this channel is already waiting')
    if (this.#queuedBytes > 0) return this.#take(into)
    if (this.#ended) return 0
    return new Promise((resolve, reject) => {
      this.#reader = { into, resolve, reject }
    })
  }

  write(buffers: readonly Uint8Array[]): void | Promise<void> {
    if (this.#broken !== undefined) throw new ChannelClosedError(this.#broken)
    if (this.#ended) throw new ChannelClosedError('this direction was shut down')
    let rest = buffers.filter((buffer) => buffer.length > 0)
    let bytes = rest.reduce((sum, buffer) => sum + buffer.length, 0)
    const reader = this.#reader
    if (reader && bytes > 0) {
      this.#reader = undefined
      let filled = 0
      while (filled < reader.into.length && rest.length > 0) {
        const head = rest[0]!
        const part = head.subarray(0, reader.into.length - filled)
        reader.into.set(part, filled)
        filled += part.length
        if (part.length === head.length) rest.shift()
        else rest = [head.subarray(part.length), ...rest.slice(1)]
      }
      bytes -= filled
      reader.resolve(filled)
    }
    if (bytes === 0) return
    this.#queuedBytes += bytes
    if (this.#queuedBytes <= this.#bufferBytes) {
      const copy = new Uint8Array(bytes)
      let at = 0
      for (const part of rest) {
        copy.set(part, at)
        at += part.length
      }
      this.#queue.push({ bytes: copy })
      return
    }
    return new Promise((resolve, reject) => {
      const ticket = { chunksLeft: rest.length, resolve, reject }
      for (const part of rest) this.#queue.push({ bytes: part, ticket })
    })
  }

  /** The writer is done; a reader gets what is queued, then 0. */
  end(): void {
    this.#ended = true
    if (this.#queuedBytes > 0) return
    this.#reader?.resolve(0)
    this.#reader = undefined
  }

  /** The writer is gone: what was accepted stays readable, writes that still wait fail. */
  abandon(error: Error): void {
    const waiting = this.#queue.filter(({ ticket }) => ticket)
    this.#queue = this.#queue.filter(({ ticket }) => !ticket)
    this.#queuedBytes = this.#queue.reduce((sum, { bytes }) => sum + bytes.length, 0)
    for (const { ticket } of waiting) ticket!.reject(error)
    this.end()
  }

  /** The reader is gone: writes fail from now on, and so do those that wait. */
  break(why: string, ownReader: Error): void {
    this.#broken ??= why
    const tickets = this.#queue.map(({ ticket }) => ticket)
    this.#queue = []
    this.#queuedBytes = 0
    for (const ticket of tickets) ticket?.reject(new ChannelClosedError(why))
    this.#reader?.reject(ownReader)
    this.#reader = undefined
  }

  #take(into: Uint8Array): number {
    let filled = 0
    while (filled < into.length && this.#queue.length > 0) {
      const head = this.#queue[0]!
      const part = head.bytes.subarray(0, into.length - filled)
      into.set(part, filled)
      filled += part.length
      if (part.length < head.bytes.length) {
        head.bytes = head.bytes.subarray(part.length)
        break
      }
      this.#queue.shift()
      if (head.ticket && --head.ticket.chunksLeft === 0) head.ticket.resolve()
    }
    this.#queuedBytes -= filled
    return filled
  }
}

class PairEnd implements Channel {
  readonly features = FEATURES
  readonly #incoming: Pipe
  readonly #outgoing: Pipe
  readonly #state = new CloseState()
  #readShut = false

  constructor(incoming: Pipe, outgoing: Pipe) {
    this.#incoming = incoming
    this.#outgoing = outgoing
  }

  read(into: Uint8Array): number | Promise<number> {
    if (this.#state.closed) return Promise.reject(this.#state.error())
    return this.#readShut ? 0 : this.#incoming.read(into)
  }

  write(buffers: readonly Uint8Array[]): void | Promise<void> {
    try {
      this.#state.throwIfClosed()
      return this.#outgoing.write(buffers)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  async shutdown(how: 'read' | 'write' | 'both'): Promise<void> {
    this.#state.throwIfClosed()
    if (how !== 'read') this.#outgoing.end()
    if (how !== 'write') {
      this.#readShut = true
      this.#incoming.end()
      this.#incoming.break('the peer does not read any more', new ChannelClosedError('reading was shut down'))
    }
  }

  async close(reason?: Error): Promise<void> {
    if (!this.#state.close(reason)) return
    const error = this.#state.error()
    this.#outgoing.abandon(error)
    this.#incoming.break('the peer closed the channel', error)
  }
}

/** Two channels in one process, each the other's peer. */
export function createChannelPair({ bufferBytes = 65536 }: ChannelPairOptions = {}): [Channel, Channel] {
  const there = new Pipe(bufferBytes)
  const back = new Pipe(bufferBytes)
  return [new PairEnd(back, there), new PairEnd(there, back)]
}
