import type { Socket } from 'node:net'
import { type Channel, ChannelClosedError, type ChannelFeature } from '@ferryvm/core'

export const SOCKET_FEATURES: ReadonlySet<ChannelFeature> = new Set<ChannelFeature>(['shutdown'])

/**
 * A connected socket as a Channel. Buffers are given to the system as they are (views of shared memory too), so that
 * guest pages are read at the moment they are sent.
 */
export class SocketChannel implements Channel {
  readonly features = SOCKET_FEATURES
  readonly #socket: Socket
  /** What a read took from the socket and its caller had no room for. */
  #rest: Uint8Array | undefined
  #ended = false
  #failure: Error | undefined
  #closed: Promise<void> | undefined
  #reader: { into: Uint8Array; resolve(n: number): void; reject(e: Error): void } | undefined
  readonly #writers = new Set<(e: Error) => void>()

  constructor(socket: Socket) {
    this.#socket = socket
    socket.pause()
    socket.on('readable', () => this.#serveReader())
    socket.on('end', () => {
      this.#ended = true
      this.#serveReader()
    })
    socket.on('error', (error) => this.#fail(new ChannelClosedError(error.message, { cause: error })))
    socket.on('close', () => this.#fail(new ChannelClosedError('the connection was closed')))
  }

  read(into: Uint8Array): number | Promise<number> {
    if (this.#reader) throw new TypeError('a read of this channel is already waiting')
    const now = this.#take(into)
    if (now !== undefined) return now
    if (this.#failure) return Promise.reject(this.#failure)
    return new Promise<number>((resolve, reject) => {
      this.#reader = { into, resolve, reject }
      this.#socket.read(0)
    })
  }

  write(buffers: readonly Uint8Array[]): void | Promise<void> {
    const socket = this.#socket
    if (this.#failure) return Promise.reject(this.#failure)
    if (socket.writableEnded)
      return Promise.reject(new ChannelClosedError('written after the write side was shut down'))
    let last = buffers.length - 1
    while (last >= 0 && buffers[last]!.length === 0) last--
    if (last < 0) return
    return new Promise<void>((resolve, reject) => {
      this.#writers.add(reject)
      const done = (error?: Error | null) => {
        this.#writers.delete(reject)
        if (error) reject(this.#failure ?? new ChannelClosedError(error.message, { cause: error }))
        else resolve()
      }
      socket.cork()
      for (let i = 0; i <= last; i++) {
        if (buffers[i]!.length > 0) socket.write(buffers[i]!, i === last ? done : undefined)
      }
      socket.uncork()
    })
  }

  async shutdown(how: 'read' | 'write' | 'both'): Promise<void> {
    if (how !== 'write') {
      this.#ended = true
      this.#rest = undefined
      this.#socket.resume() // what still arrives is dropped, or the peer would stall
      this.#serveReader()
    }
    if (how === 'read' || this.#socket.writableEnded || this.#failure) return
    await new Promise<void>((resolve) => {
      this.#socket.end(resolve)
      this.#socket.once('close', resolve)
    })
  }

  close(reason?: Error): Promise<void> {
    this.#closed ??= new Promise<void>((resolve) => {
      const socket = this.#socket
      if (socket.closed) {
        resolve()
        return
      }
      socket.once('close', () => resolve())
      if (reason || socket.errored || this.#failure) {
        this.#fail(new ChannelClosedError(reason?.message ?? 'closed', { cause: reason }))
        socket.destroy()
      } else {
        // Everything written so far has been accepted by the system; end() puts the FIN behind it.
        socket.end(() => socket.destroy())
        this.#fail(new ChannelClosedError('closed'))
      }
    })
    return this.#closed
  }

  #take(into: Uint8Array): number | undefined {
    if (this.#failure) return this.#closed || !this.#ended ? undefined : 0
    const chunk = this.#rest ?? (this.#ended ? null : (this.#socket.read() as Uint8Array | null))
    if (!chunk) return this.#ended ? 0 : undefined
    const n = Math.min(into.length, chunk.length)
    into.set(n === chunk.length ? chunk : chunk.subarray(0, n))
    this.#rest = n === chunk.length ? undefined : chunk.subarray(n)
    return n
  }

  #serveReader(): void {
    const reader = this.#reader
    if (!reader) return
    const n = this.#take(reader.into)
    if (n === undefined) return
    this.#reader = undefined
    reader.resolve(n)
  }

  #fail(error: Error): void {
    this.#failure ??= error
    const reader = this.#reader
    this.#reader = undefined
    if (reader) {
      if (this.#ended && !this.#closed) reader.resolve(0)
      else reader.reject(this.#failure)
    }
    for (const reject of this.#writers) reject(this.#failure)
    this.#writers.clear()
  }
}
