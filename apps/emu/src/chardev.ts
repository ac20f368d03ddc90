import { createWriteStream } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import type { CharBackend } from '@ferryvm/core'
import { parseKeyvals } from './keyval.ts'
import { UsageError } from './usage-error.ts'

/** Of one serial port or monitor; more are hung up on. */
const MAX_CLIENTS = 16

/** A character backend that can be closed. */
export interface Chardev extends CharBackend {
  close(): Promise<void>
}

export const nullChardev = (): Chardev => ({ write() {}, onInput: () => ({ [Symbol.dispose]() {} }), async close() {} })

/** Writes to a file; never has input. */
export function fileChardev(path: string): Chardev {
  const file = createWriteStream(path)
  const failed = new Promise<never>((_, reject) => file.once('error', reject))
  failed.catch(() => {})
  return {
    ...nullChardev(),
    write: (bytes) => {
      if (file.write(bytes)) return undefined
      return Promise.race([new Promise<void>((resolve) => file.once('drain', resolve)), failed])
    },
    close: () => new Promise((resolve) => file.end(resolve)),
  }
}

/** One client at a time; without one, output is dropped, as with QEMU's `wait=off`. */
export class SocketChardev implements Chardev {
  readonly #server: Server
  readonly #listeners = new Set<(bytes: Uint8Array) => void>()
  #client: Socket | undefined

  private constructor(server: Server) {
    this.#server = server
    server.on('connection', (socket) => {
      this.#client?.destroy()
      this.#client = socket
      socket.setNoDelay(true)
      socket.on('data', (bytes) => {
        for (const listener of this.#listeners) listener(bytes)
      })
      socket.on('error', () => {})
      socket.on('close', () => {
        if (this.#client === socket) this.#client = undefined
      })
    })
  }

  static async listen(address: ListenAddress): Promise<SocketChardev> {
    const server = createServer()
    const chardev = new SocketChardev(server)
    await listen(server, address)
    return chardev
  }

  write(bytes: Uint8Array): void | Promise<void> {
    const client = this.#client
    if (!client || client.write(bytes)) return undefined
    return new Promise((resolve) => {
      client.once('drain', resolve)
      client.once('close', () => resolve())
    })
  }

  onInput(listener: (bytes: Uint8Array) => void): Disposable {
    this.#listeners.add(listener)
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) }
  }

  async close(): Promise<void> {
    this.#client?.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

export type ListenAddress = { readonly path: string } | { readonly host: string; readonly port: number }

/**
 * `unix:PATH[,server=on][,wait=off]`, `tcp:HOST:PORT[,server=on]`.
 * @throws UsageError not of that form
 */
export function parseListenAddress(text: string): ListenAddress {
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

/** @throws UsageError the address cannot be listened on (in use, no permission): says which and why */
export async function listen(server: Server, address: ListenAddress): Promise<void> {
  server.maxConnections = MAX_CLIENTS
  const where = 'path' in address ? `unix:${address.path}` : `tcp:${address.host}:${address.port}`
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(new UsageError(`cannot listen on ${where}: ${error.message}`, { cause: error })),
    )
    server.listen(address, () => resolve())
  })
}
