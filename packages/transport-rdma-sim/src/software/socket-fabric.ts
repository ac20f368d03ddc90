import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { systemErrorReason } from '@ferryvm/core/node'
import { RdmaConnectError, RdmaListenError } from '../verbs/errors.ts'
import { decodeFrame, encodeFrame, FRAME_HEADER_BYTES, type Frame } from './frame.ts'
import { type Fabric, type Link, type LinkReceiver, PayloadSink } from './link.ts'

/** Acknowledgements that a peer lets us pile up before we stop listening to it. */
const MAX_UNSENT_BYTES = 1 << 20
const BACKLOG = 16
/** How long a closed connection waits for its peer to close as well. */
const LINGER_MS = 2000

/** Devices of different processes or hosts: one TCP connection per queue pair. Node only. */
export function socketFabric(): Fabric {
  return {
    name: 'socket',
    async dial(address, signal) {
      if (signal.aborted) throw new RdmaConnectError(address, 'given up', { cause: signal.reason })
      if (address.host === '') throw new RdmaConnectError(address, 'no host is named')
      if (address.port === 0) throw new RdmaConnectError(address, 'port 0 is only for listening')
      const socket = connect({ host: address.host, port: address.port, noDelay: true })
      return new Promise<Link>((resolve, reject) => {
        const giveUp = () => fail(signal.reason)
        const fail = (cause: unknown) => {
          settle()
          socket.on('error', () => {})
          socket.destroy()
          reject(new RdmaConnectError(address, signal.aborted ? 'given up' : systemErrorReason(cause), { cause }))
        }
        const connected = () => {
          settle()
          resolve(new SocketLink(socket))
        }
        const settle = () => {
          socket.off('error', fail)
          socket.off('connect', connected)
          signal.removeEventListener('abort', giveUp)
        }
        socket.on('error', fail)
        socket.on('connect', connected)
        signal.addEventListener('abort', giveUp)
      })
    },
    async listen(wanted, arrived, signal) {
      if (signal.aborted) throw new RdmaListenError(wanted, 'given up', { cause: signal.reason })
      // Who names no address has not said that other hosts may come. To take them all is 0.0.0.0 or [::].
      const host = wanted.host || '127.0.0.1'
      const server = createServer({ noDelay: true }, (socket) => arrived(new SocketLink(socket)))
      await new Promise<void>((resolve, reject) => {
        server.once('error', (cause) => reject(new RdmaListenError(wanted, systemErrorReason(cause), { cause })))
        server.listen({ host, port: wanted.port, backlog: BACKLOG }, resolve)
      })
      server.on('error', () => {})
      const close = async () => {
        signal.removeEventListener('abort', close)
        // Not waiting for its callback: connections that were accepted live on.
        server.close()
        await new Promise((resolve) => setImmediate(resolve))
      }
      signal.addEventListener('abort', close)
      const { port } = server.address() as AddressInfo
      return { address: { host, port }, close }
    },
  }
}

class SocketLink implements Link {
  receiver: LinkReceiver | undefined
  heardAt = performance.now()
  readonly remoteAddress: string | undefined
  readonly #socket: Socket
  readonly #header = new Uint8Array(FRAME_HEADER_BYTES)
  #headerBytes = 0
  #frame: Frame | undefined
  #sink: PayloadSink | undefined
  #left = 0
  #failure: Error | undefined
  /** Those who wait for a write when the socket breaks: not every callback comes then. */
  readonly #waiting = new Set<() => void>()

  constructor(socket: Socket) {
    this.#socket = socket
    this.remoteAddress = socket.remoteAddress
    socket.on('data', (chunk: Uint8Array<ArrayBuffer>) => {
      this.#take(chunk)
      // All of it was copied. Left to the garbage collector, the buffers bring on full collections (see `fromDuplex`).
      if (chunk.length === chunk.buffer.byteLength) chunk.buffer.transfer?.(0)
    })
    socket.on('drain', () => socket.resume())
    socket.on('error', (error) => (this.#failure ??= error))
    socket.on('close', () => {
      for (const done of this.#waiting) done()
      this.#waiting.clear()
      this.#lost(this.#failure)
    })
  }

  send(frame: Frame, payload: readonly Uint8Array[] = []): void | Promise<void> {
    const socket = this.#socket
    if (!socket.writable) return
    if (payload.length === 0) {
      socket.write(encodeFrame(frame))
      return
    }
    return new Promise((resolve) => {
      const done = () => {
        this.#waiting.delete(done)
        resolve()
      }
      this.#waiting.add(done)
      socket.cork()
      socket.write(encodeFrame(frame))
      payload.forEach((part, i) => {
        socket.write(part, i === payload.length - 1 ? done : undefined)
      })
      socket.uncork()
    })
  }

  close(): void {
    this.receiver = undefined
    const socket = this.#socket
    socket.end()
    // Destroyed with bytes that nobody read it would be reset, and the peer lose the goodbye: it goes when the peer has gone.
    socket.resume()
    setTimeout(() => socket.destroy(), LINGER_MS).unref()
  }

  destroy(): void {
    this.receiver = undefined
    this.#socket.destroy()
  }

  #lost(cause: Error | undefined): void {
    const { receiver } = this
    this.receiver = undefined
    receiver?.lost(cause)
  }

  #take(chunk: Uint8Array): void {
    this.heardAt = performance.now()
    for (let rest = chunk; ; ) {
      if (this.#frame) {
        const part = rest.subarray(0, this.#left)
        this.#sink!.put(part)
        this.#left -= part.length
        rest = rest.subarray(part.length)
        if (this.#left > 0) break
        const frame = this.#frame
        this.#frame = undefined
        this.receiver?.end(frame)
      }
      if (rest.length === 0) break
      const part = rest.subarray(0, FRAME_HEADER_BYTES - this.#headerBytes)
      this.#header.set(part, this.#headerBytes)
      this.#headerBytes += part.length
      rest = rest.subarray(part.length)
      if (this.#headerBytes < FRAME_HEADER_BYTES) break
      this.#headerBytes = 0
      const frame = decodeFrame(this.#header)
      if (!frame) {
        this.#socket.destroy(new Error('what came in is no frame of a software RDMA device'))
        return
      }
      this.#frame = frame
      this.#left = frame.length
      this.#sink = new PayloadSink(this.receiver?.begin(frame) ?? [])
    }
    if (this.#socket.writableLength > MAX_UNSENT_BYTES) this.#socket.pause()
  }
}
