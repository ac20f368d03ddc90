import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { FerryError } from '@ferryvm/core'

export class QmpCommandError extends FerryError {
  readonly code = 'FERRY_QMP_COMMAND'
  readonly command: string
  /** QMP's error class, `GenericError`, `CommandNotFound` ... */
  readonly errorClass: string
  constructor(command: string, errorClass: string, description: string) {
    super(`${command}: ${description}`)
    this.command = command
    this.errorClass = errorClass
  }
}

export interface QmpEvent {
  readonly event: string
  readonly data?: Record<string, unknown>
  readonly timestamp: { readonly seconds: number; readonly microseconds: number }
}

interface Pending {
  readonly command: string
  resolve(value: any): void
  reject(error: Error): void
}

/** A small QMP client for one monitor socket; works with ours and with stock QEMU's. */
export class QmpClient {
  readonly events: QmpEvent[] = []
  readonly #socket: Socket
  readonly #pending = new Map<number, Pending>()
  readonly #eventWaiters = new Set<() => void>()
  #nextId = 1
  #text = ''
  #closed: Error | undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text) => this.#receive(String(text)))
    socket.on('error', () => {})
    socket.on('close', () => this.#close(new Error('the QMP connection was closed')))
  }

  /**
   * Connects and negotiates. Tries again while the socket is not there yet.
   * @param address path of a unix socket, or host and port
   */
  static async connect(address: string | { host: string; port: number }, timeoutMs = 20_000): Promise<QmpClient> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      try {
        const socket = await new Promise<Socket>((resolve, reject) => {
          const s = typeof address === 'string' ? connect(address) : connect(address.port, address.host)
          s.once('connect', () => resolve(s))
          s.once('error', reject)
        })
        const client = new QmpClient(socket)
        await client.execute('qmp_capabilities')
        return client
      } catch (error) {
        if (performance.now() > deadline) throw error
        await delay(20)
      }
    }
  }

  /** @throws QmpCommandError the monitor refused */
  execute(command: string, args?: object): Promise<any> {
    if (this.#closed) return Promise.reject(this.#closed)
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { command, resolve, reject })
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`)
    })
  }

  hmp(line: string): Promise<string> {
    return this.execute('human-monitor-command', { 'command-line': line })
  }

  /** The first event that matches, past or future; it and all before it are taken off {@link events}. */
  async waitEvent(matches: (event: QmpEvent) => boolean, timeoutMs = 60_000): Promise<QmpEvent> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const at = this.events.findIndex(matches)
      if (at >= 0) return this.events.splice(0, at + 1).at(-1)!
      if (this.#closed) throw this.#closed
      const left = deadline - performance.now()
      if (left <= 0)
        throw new Error(`no such QMP event within ${timeoutMs} ms; seen: ${this.events.map((e) => e.event).join(' ')}`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.#eventWaiters.add(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
  }

  close(): void {
    this.#socket.destroy()
  }

  #receive(text: string): void {
    this.#text += text
    const lines = this.#text.split('\n')
    this.#text = lines.pop()!
    for (const line of lines) {
      if (line.trim() === '') continue
      const message = JSON.parse(line)
      if (message.event) {
        this.events.push(message)
        this.#wake()
        continue
      }
      const pending = this.#pending.get(message.id)
      if (!pending) continue // the greeting
      this.#pending.delete(message.id)
      if (message.error) pending.reject(new QmpCommandError(pending.command, message.error.class, message.error.desc))
      else pending.resolve(message.return)
    }
  }

  #close(error: Error): void {
    this.#closed = error
    for (const { reject } of this.#pending.values()) reject(error)
    this.#pending.clear()
    this.#wake()
  }

  #wake(): void {
    for (const wake of this.#eventWaiters) wake()
    this.#eventWaiters.clear()
  }
}
