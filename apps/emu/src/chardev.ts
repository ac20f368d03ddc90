import { createWriteStream } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import type { CharBackend } from '@ferryvm/core'
import { parseKeyvals } from './keyval.ts'
import { UsageError } from './usage-error.ts'

/** Of one serial port or monitor; more are hung up on. */
const MAX_CLIENTS = 16

/** A character backend that can be closed. */
export interface Chardev extends CharBackend {
  close(): Promise<void>
}

const silent = (): Disposable => ({ [Symbol.dispose]() {} })

export const nullChardev = (): Chardev => ({
  write() {},
  onInput: silent,
  onConnection(listener) {
    listener(false)
    return silent()
  },
  async close() {},
})

/** Writes to a file; never has input. */
export function fileChardev(path: string): Chardev {
  const file = createWriteStream(path)
  const failed = new Promise<never>((_, reject) => file.once('error', reject))
  failed.catch(() => {})
  return {
    onInput: silent,
    write: (bytes) => {
      if (file.write(bytes)) return undefined
      return Promise.race([new Promise<void>((resolve) => file.once('drain', resolve)), failed])
    },
    close: () => new Promise((resolve) => file.end(resolve)),
  }
}

/** One peer at a time; without one, output is dropped, as with QEMU's `wait=off`. */
export class SocketChardev implements Chardev {
  readonly #server: Server | undefined
  readonly #input = new Set<(bytes: Uint8Array) => void>()
  readonly #connections = new Set<(connected: boolean) => void>()
  #peer: Socket | undefined

  private constructor(server?: Server) {
    this.#server = server
    server?.on('connection', (socket) => this.#use(socket))
  }

  static async listen(address: SocketAddress): Promise<SocketChardev> {
    const server = createServer()
    const chardev = new SocketChardev(server)
    await listen(server, address)
    return chardev
  }

  /** @throws UsageError nobody listens there */
  static async connect(address: SocketAddress): Promise<SocketChardev> {
    const socket = connect(address)
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', (error) =>
        reject(new UsageError(`cannot connect to ${addressText(address)}: ${error.message}`, { cause: error })),
      )
    })
    const chardev = new SocketChardev()
    chardev.#use(socket)
    return chardev
  }

  write(bytes: Uint8Array): void | Promise<void> {
    const peer = this.#peer
    if (!peer || peer.write(bytes)) return undefined
    return new Promise((resolve) => {
      peer.once('drain', resolve)
      peer.once('close', () => resolve())
    })
  }

  onInput(listener: (bytes: Uint8Array) => void): Disposable {
    this.#input.add(listener)
    return { [Symbol.dispose]: () => void this.#input.delete(listener) }
  }

  onConnection(listener: (connected: boolean) => void): Disposable {
    this.#connections.add(listener)
    listener(this.#peer !== undefined)
    return { [Symbol.dispose]: () => void this.#connections.delete(listener) }
  }

  setReadable(readable: boolean): void {
    if (readable) this.#peer?.resume()
    else this.#peer?.pause()
  }

  async close(): Promise<void> {
    this.#peer?.destroy()
    await new Promise<void>((resolve) => (this.#server ? this.#server.close(() => resolve()) : resolve()))
  }

  #use(socket: Socket): void {
    this.#peer?.destroy()
    this.#peer = socket
    socket.setNoDelay(true)
    socket.on('data', (bytes) => {
      for (const listener of this.#input) listener(bytes)
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      if (this.#peer !== socket) return
      this.#peer = undefined
      this.#tell(false)
    })
    this.#tell(true)
  }

  #tell(connected: boolean): void {
    for (const listener of this.#connections) listener(connected)
  }
}

export type SocketAddress = { readonly path: string } | { readonly host: string; readonly port: number }

/**
 * `unix:PATH[,server=on][,wait=off]`, `tcp:HOST:PORT[,server=on]`.
 * @throws UsageError not of that form
 */
export function parseListenAddress(text: string): SocketAddress {
  const { head, server = 'on', wait: _, nodelay: __, ...rest } = parseKeyvals(text, 'head')
  const unknown = Object.keys(rest)[0]
  if (unknown) throw new UsageError(`'${text}': unknown option '${unknown}'`)
  if (server === 'off') throw new UsageError(`'${text}': only server=on is supported`)
  const unix = /^unix:(.+)$/.exec(head ?? '')
  if (unix) return { path: unix[1]! }
  const tcp = /^tcp:(.*):(\d+)$/.exec(head ?? '')
  if (tcp && Number(tcp[2]) <= 65535) return { host: tcp[1] || '127.0.0.1', port: Number(tcp[2]) }
  throw new UsageError(`'${text}' is not unix:PATH or tcp:HOST:PORT`)
}

const addressText = (address: SocketAddress): string =>
  'path' in address ? `unix:${address.path}` : `tcp:${address.host}:${address.port}`

/** @throws UsageError the address cannot be listened on (in use, no permission): says which and why */
export async function listen(server: Server, address: SocketAddress): Promise<void> {
  server.maxConnections = MAX_CLIENTS
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(new UsageError(`cannot listen on ${addressText(address)}: ${error.message}`, { cause: error })),
    )
    server.listen(address, () => resolve())
  })
}
