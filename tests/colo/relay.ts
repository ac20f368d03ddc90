import { rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'

/** A unix socket that stands before another, or before a TCP port of this host, and breaks. */
export class Relay {
  readonly path: string
  readonly #sockets = new Set<Socket>()
  readonly #server: Server
  /** `cut`: everything is hung up, at once and from then on. `stall`: connections stay, and nothing passes. */
  #state: 'passes' | 'cut' | 'stall' = 'passes'

  private constructor(path: string, target: string | number) {
    this.path = path
    this.#server = createServer({ allowHalfOpen: true }, (near) => {
      if (this.#state === 'cut') {
        near.on('error', () => {}).destroy()
        return
      }
      const far =
        typeof target === 'string'
          ? connect({ path: target, allowHalfOpen: true })
          : connect({ port: target, host: '127.0.0.1', allowHalfOpen: true })
      this.#pass(near, far)
      this.#pass(far, near)
    })
  }

  static async open(path: string, target: string | number): Promise<Relay> {
    rmSync(path, { force: true })
    const relay = new Relay(path, target)
    await new Promise<void>((resolve, reject) => relay.#server.once('error', reject).listen(path, resolve))
    return relay
  }

  cut(): void {
    this.#state = 'cut'
    for (const socket of this.#sockets) socket.destroy()
  }

  stall(): void {
    this.#state = 'stall'
    for (const socket of this.#sockets) socket.pause()
  }

  restore(): void {
    this.#state = 'passes'
    for (const socket of this.#sockets) socket.resume()
  }

  close(): void {
    this.cut()
    this.#server.close()
  }

  #pass(from: Socket, to: Socket): void {
    this.#sockets.add(from)
    if (this.#state === 'stall') from.pause()
    from.on('error', () => {})
    from.on('data', (chunk) => {
      if (to.write(chunk)) return
      from.pause()
      to.once('drain', () => this.#state !== 'stall' && from.resume())
    })
    from.on('end', () => to.end())
    from.on('close', () => {
      this.#sockets.delete(from)
      to.destroy()
    })
  }
}
