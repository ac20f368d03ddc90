import { FerryError } from '@ferryvm/core'
import type { MonitorContext } from '../context.ts'
import { MonitorCommandError, type QmpErrorClass } from '../errors.ts'
import { qmpCommands } from './commands.ts'
import { parseArguments } from './define-command.ts'
import { JsonStream } from './json-stream.ts'

const MEMBERS = ['execute', 'exec-oob', 'arguments', 'id', 'control']
/** Commands that may wait for their turn; a client that sends more without reading is not one. */
const MAX_QUEUED = 1024

/** One QMP client. Commands run one after the other; events go out between them. */
export class QmpSession {
  readonly #context: MonitorContext
  readonly #send: (text: string) => void
  readonly #json = new JsonStream()
  readonly #decoder = new TextDecoder()
  #negotiated = false
  /** The client has asked for `exec-oob`. */
  #oob = false
  #queued = 0
  #work: Promise<void> = Promise.resolve()

  /** @param send writes text to the client */
  constructor(context: MonitorContext, send: (text: string) => void) {
    this.#context = context
    this.#send = send
    const { package: text, ...qemu } = context.version
    this.#put({ QMP: { version: { qemu, package: text }, capabilities: ['oob'] } })
  }

  receive(bytes: Uint8Array | string): void {
    const text = typeof bytes === 'string' ? bytes : this.#decoder.decode(bytes, { stream: true })
    for (const event of this.#json.push(text)) {
      if (this.#queued >= MAX_QUEUED) {
        this.#error(undefined, new MonitorCommandError('too many commands at once'))
        continue
      }
      if ('value' in event && this.#outOfBand(event.value)) {
        void this.#request(event.value)
        continue
      }
      this.#queued++
      this.#work = this.#work.then(async () => {
        if ('error' in event) this.#error(undefined, new MonitorCommandError(event.error))
        else await this.#request(event.value)
        this.#queued--
      })
    }
  }

  event(name: string, data?: object): void {
    if (!this.#negotiated) return
    const us = Math.floor((performance.timeOrigin + performance.now()) * 1000)
    const timestamp = { seconds: Math.floor(us / 1e6), microseconds: us % 1e6 }
    this.#put({ timestamp, event: name, data })
  }

  /** Whether it is to run now, past those that wait. What is wrong with it is said when it runs. */
  #outOfBand(request: unknown): boolean {
    if (!this.#oob || typeof request !== 'object' || request === null) return false
    const name = (request as { 'exec-oob'?: unknown })['exec-oob']
    return typeof name === 'string' && qmpCommands.get(name)?.oob === true
  }

  async #request(request: unknown): Promise<void> {
    const id = (request as { id?: unknown } | null)?.id
    try {
      const { name, args } = readRequest(request, this.#oob)
      if (name === 'qmp_capabilities') this.#negotiate(args)
      const command = qmpCommands.get(name)
      if (!this.#negotiated) {
        throw new MonitorCommandError("Expecting capabilities negotiation with 'qmp_capabilities'", 'CommandNotFound')
      }
      if (name === 'qmp_capabilities') {
        this.#put({ return: {}, id })
        return
      }
      if (!command) throw new MonitorCommandError(`The command ${name} has not been found`, 'CommandNotFound')
      const parsed = parseArguments(command, args)
      const result = await command.run(this.#context, parsed)
      this.#put({ return: result ?? {}, id })
      command.after?.(this.#context, parsed)
    } catch (error) {
      this.#error(id, error)
    }
  }

  #negotiate(args: unknown): void {
    if (this.#negotiated) {
      throw new MonitorCommandError('Capabilities negotiation is already complete, command ignored', 'CommandNotFound')
    }
    const { enable = [], ...rest } = (args ?? {}) as { enable?: unknown }
    const unexpected = Object.keys(rest)[0]
    if (unexpected !== undefined) throw new MonitorCommandError(`Parameter '${unexpected}' is unexpected`)
    if (!Array.isArray(enable)) throw new MonitorCommandError("Invalid parameter type for 'enable', expected: array")
    for (const capability of enable) {
      if (capability !== 'oob') throw new MonitorCommandError(`Capability '${String(capability)}' is not available`)
    }
    this.#negotiated = true
    this.#oob = enable.includes('oob')
  }

  #error(id: unknown, error: unknown): void {
    const errorClass: QmpErrorClass = error instanceof MonitorCommandError ? error.errorClass : 'GenericError'
    const desc = error instanceof Error ? error.message : String(error)
    // What is not one of ours is a defect; its description would otherwise be all that is left of it.
    if (!FerryError.isInstance(error) && error instanceof Error) console.error(error)
    this.#put({ id, error: { class: errorClass, desc } })
  }

  #put(message: object): void {
    this.#send(`${JSON.stringify(message)}\r\n`)
  }
}

function readRequest(request: unknown, oobEnabled: boolean): { name: string; args: unknown } {
  if (typeof request !== 'object' || request === null || Array.isArray(request)) {
    throw new MonitorCommandError('QMP input must be a JSON object')
  }
  const unexpected = Object.keys(request).find((key) => !MEMBERS.includes(key))
  if (unexpected !== undefined) throw new MonitorCommandError(`QMP input member '${unexpected}' is unexpected`)
  const { execute, arguments: args, 'exec-oob': oob } = request as Record<string, unknown>
  if (typeof oob === 'string') {
    if (execute !== undefined) throw new MonitorCommandError("QMP input member 'execute' clashes with 'exec-oob'")
    if (qmpCommands.get(oob)?.oob !== true) throw new MonitorCommandError(`The command ${oob} does not support OOB`)
    if (!oobEnabled) throw new MonitorCommandError("QMP input member 'exec-oob' is unexpected")
  }
  const name = execute ?? oob
  if (name === undefined) throw new MonitorCommandError("QMP input lacks member 'execute'")
  if (typeof name !== 'string') throw new MonitorCommandError("QMP input member 'execute' must be a string")
  if (args !== undefined && (typeof args !== 'object' || args === null || Array.isArray(args))) {
    throw new MonitorCommandError("QMP input member 'arguments' must be an object")
  }
  return { name, args }
}
