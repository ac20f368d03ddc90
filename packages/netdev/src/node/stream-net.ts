/** QEMU's `socket,listen=`, `socket,connect=` and `stream`: frames with their length in front, over TCP or a Unix socket. */
import { connect, createServer, type Server, type Socket } from 'node:net'
import { type Logger, type NetBackend, silentLogger } from '@ferryvm/core'
import { FrameSplitter, lengthPrefixed } from '../frame-splitter.ts'
import type { SocketNet, StreamAddress } from './address.ts'

export interface StreamNetOptions {
  readonly address: StreamAddress
  /** Wait for the other side instead of going to it. One at a time; a second is hung up on. */
  readonly server?: boolean
  /** Of a client: tries again so long after the connection broke, or could not be made. Default: never again. */
  readonly reconnectMs?: number
  readonly log?: Logger
}

export class StreamNet implements NetBackend, SocketNet {
  readonly #options: StreamNetOptions
  readonly #log: Logger
  #listener: ((frame: Uint8Array) => void) | undefined
  #server: Server | undefined
  #peer: Socket | undefined
  #timer: ReturnType<typeof setTimeout> | undefined
  #closed = false

  private constructor(options: StreamNetOptions) {
    this.#options = options
    this.#log = options.log ?? silentLogger
  }

  /** @throws Error of Node: the address cannot be listened on, or nobody is there and there is no `reconnectMs` */
  static async open(options: StreamNetOptions): Promise<StreamNet> {
    const net = new StreamNet(options)
    if (options.server) await net.#listen()
    else {
      await net.#connect().catch((error: unknown) => {
        if (options.reconnectMs === undefined) throw error
        net.#tryAgain()
      })
    }
    return net
  }

  /** Where it listens; a port of 0 became a real one. */
  get port(): number {
    return (this.#server?.address() as { port?: number } | null)?.port ?? 0
  }

  send(frame: Uint8Array): void | Promise<void> {
    const peer = this.#peer
    if (!peer || peer.write(lengthPrefixed(frame))) return undefined
    return new Promise((resolve) => {
      peer.once('drain', resolve)
      peer.once('close', () => resolve())
    })
  }

  onReceive(listener: (frame: Uint8Array) => void): Disposable {
    this.#listener = listener
    return { [Symbol.dispose]: () => void (this.#listener = undefined) }
  }

  setReadable(readable: boolean): void {
    if (readable) this.#peer?.resume()
    else this.#peer?.pause()
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#peer?.destroy()
    const server = this.#server
    if (server) await new Promise((resolve) => server.close(resolve))
  }

  async #listen(): Promise<void> {
    const server = createServer((socket) => {
      if (this.#peer) socket.destroy()
      else this.#use(socket)
    })
    this.#server = server
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(this.#options.address, resolve)
    })
  }

  async #connect(): Promise<void> {
    const socket = connect(this.#options.address)
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    if (this.#closed) socket.destroy()
    else this.#use(socket)
  }

  #use(socket: Socket): void {
    this.#peer = socket
    const splitter = new FrameSplitter()
    socket.setNoDelay(true)
    socket.on('error', () => {})
    socket.on('data', (bytes) => {
      try {
        for (const frame of splitter.push(bytes)) this.#listener?.(frame)
      } catch (error) {
        this.#log.warn(`network: ${(error as Error).message}; the connection is closed`)
        socket.destroy()
      }
    })
    socket.on('close', () => {
      this.#peer = undefined
      this.#tryAgain()
    })
  }

  #tryAgain(): void {
    const { reconnectMs } = this.#options
    if (this.#closed || this.#server || reconnectMs === undefined) return
    this.#timer = setTimeout(() => void this.#connect().catch(() => this.#tryAgain()), reconnectMs)
    this.#timer.unref()
  }
}
