import { createTurnBudget } from '@ferryvm/core'
import { RdmaConnectError, RdmaListenError } from '../verbs/errors.ts'
import type { RdmaAddress } from '../verbs/verbs.ts'
import type { Frame } from './frame.ts'
import { type Fabric, type Link, type LinkReceiver, PayloadSink } from './link.ts'

const EPHEMERAL_PORT = 49152

/**
 * Devices of one process: a write is one copy from the memory of one machine to that of the other. Two fabrics do not
 * know of each other.
 */
export function inProcessFabric(): Fabric {
  const listening = new Map<string, (link: Link) => void>()
  let nextPort = EPHEMERAL_PORT
  const keyOf = ({ host, port }: RdmaAddress) => `${host || '*'}:${port}`
  return {
    name: 'in-process',
    async dial(address, signal) {
      if (signal.aborted) throw new RdmaConnectError(address, 'given up', { cause: signal.reason })
      const arrived = listening.get(keyOf(address)) ?? listening.get(keyOf({ ...address, host: '' }))
      if (!arrived) throw new RdmaConnectError(address, 'nothing listens there')
      const [near, far] = linkPair()
      arrived(far)
      return near
    },
    async listen(wanted, arrived, signal) {
      if (signal.aborted) throw new RdmaListenError(wanted, 'given up', { cause: signal.reason })
      const address = wanted.port === 0 ? { ...wanted, port: nextPort++ } : wanted
      const key = keyOf(address)
      if (listening.has(key)) throw new RdmaListenError(address, 'the address is in use')
      listening.set(key, arrived)
      const close = async () => {
        signal.removeEventListener('abort', close)
        if (listening.get(key) === arrived) listening.delete(key)
      }
      signal.addEventListener('abort', close)
      return { address, close }
    },
  }
}

interface Delivery {
  readonly frame: Frame
  readonly payload: readonly Uint8Array[]
  done(): void
}

class LinkEnd implements Link {
  receiver: LinkReceiver | undefined
  heardAt = performance.now()
  peer!: LinkEnd
  #closed = false
  readonly #queue: Delivery[] = []
  #delivering = false

  send(frame: Frame, payload: readonly Uint8Array[] = []): void | Promise<void> {
    if (this.#closed || this.peer.#closed) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#queue.push({ frame, payload, done: resolve })
    if (!this.#delivering) void this.#deliver()
    if (payload.length > 0) return promise
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.receiver = undefined
    if (!this.#delivering) this.peer.#lost()
  }

  destroy(): void {
    for (const { done } of this.#queue.splice(0)) done()
    this.close()
  }

  /** Never within `send`: a device is not faster than its caller. */
  async #deliver(): Promise<void> {
    this.#delivering = true
    const turn = createTurnBudget(1)
    await undefined
    for (let next = this.#queue.shift(); next; next = this.#queue.shift()) {
      const { frame, payload, done } = next
      const { receiver } = this.peer
      this.peer.heardAt = performance.now()
      if (receiver) {
        const sink = new PayloadSink(receiver.begin(frame))
        for (const part of payload) sink.put(part)
        receiver.end(frame)
      }
      done()
      const pending = turn()
      if (pending) await pending
    }
    this.#delivering = false
    if (this.#closed) this.peer.#lost()
  }

  #lost(): void {
    if (this.#closed) return
    this.#closed = true
    for (const { done } of this.#queue.splice(0)) done()
    const { receiver } = this
    this.receiver = undefined
    receiver?.lost(undefined)
  }
}

function linkPair(): [Link, Link] {
  const [near, far] = [new LinkEnd(), new LinkEnd()]
  near.peer = far
  far.peer = near
  return [near, far]
}
