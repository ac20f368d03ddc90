import { RdmaConnectError } from '../verbs/errors.ts'
import type {
  Connection,
  ConnectionListener,
  ConnectionManager,
  ConnectionRequest,
  ConnectOptions,
  DisconnectReason,
  RdmaAddress,
} from '../verbs/verbs.ts'
import { type Frame, FrameKind, frame } from './frame.ts'
import type { Fabric, Link, LinkReceiver } from './link.ts'
import { SoftwareQueuePair } from './queue-pair.ts'

const MAX_REQUEST_DATA = 56
const MAX_REPLY_DATA = 196
/** Requests that wait for the program's answer; more are refused. */
const MAX_WAITING_REQUESTS = 16

export interface ConnectionTimes {
  /** A sign of life after so long without other frames. Default 5000. */
  readonly keepAliveMs: number
  /** Nothing heard for so long: the peer is gone. Default 20000. */
  readonly silenceMs: number
  /** A peer that connects and asks for nothing, a request that nobody answers. Default 10000. */
  readonly requestMs: number
  /** See `RetryPolicy`. Default 2000 and 10. */
  readonly acknowledgeTimeoutMs: number
  readonly receiverNotReadyMs: number
}

/** Connection requests, replies, goodbyes and signs of life over the links of a fabric. */
export class SoftwareConnectionManager implements ConnectionManager {
  readonly #fabric: Fabric
  readonly #times: ConnectionTimes
  readonly #connections = new Set<SoftwareConnection>()
  #closed = false

  constructor(fabric: Fabric, times: ConnectionTimes) {
    this.#fabric = fabric
    this.#times = times
  }

  /** The device is gone. */
  removeAll(reason: DisconnectReason): void {
    this.#closed = true
    for (const connection of [...this.#connections]) connection.finish(reason)
  }

  async connect(
    address: RdmaAddress,
    options: ConnectOptions & { readonly timeoutMs: number; readonly signal: AbortSignal },
  ): Promise<Connection> {
    const { signal, timeoutMs, privateData } = options
    const queuePair = this.#usable(options, MAX_REQUEST_DATA)
    const late = AbortSignal.timeout(timeoutMs)
    const either = AbortSignal.any([signal, late])
    const why = () => (signal.aborted ? 'given up' : `no answer within ${timeoutMs} ms`)
    let link: Link
    try {
      link = await this.#fabric.dial(address, either)
    } catch (error) {
      if (either.aborted) throw new RdmaConnectError(address, why(), { cause: error })
      throw error
    }
    const answer = Promise.withResolvers<{ accepted: boolean; data: Uint8Array }>()
    const connection: { made?: SoftwareConnection } = {}
    const giveUp = () => answer.reject(new RdmaConnectError(address, why(), { cause: either.reason }))
    link.receiver = handshake(
      (arrived, data) => {
        if (arrived.kind !== FrameKind.CONNECT_REPLY && arrived.kind !== FrameKind.CONNECT_REJECT) return
        const accepted = arrived.kind === FrameKind.CONNECT_REPLY
        // Frames of the connection may follow at once, so it takes over before the promise is looked at.
        try {
          if (accepted && !either.aborted) this.#establish(link, queuePair, options, data, connection)
        } catch (cause) {
          answer.reject(new RdmaConnectError(address, 'the queue pair broke meanwhile', { cause }))
        }
        answer.resolve({ accepted, data })
      },
      MAX_REPLY_DATA,
      (cause) => answer.reject(new RdmaConnectError(address, 'the peer went away', { cause })),
    )
    either.addEventListener('abort', giveUp)
    try {
      if (either.aborted) giveUp()
      const request = frame(FrameKind.CONNECT_REQUEST, { key: queuePair.number, length: privateData.length })
      void link.send(request, [privateData.slice()])
      const { accepted } = await answer.promise
      if (!accepted) throw new RdmaConnectError(address, 'the peer refused')
      return connection.made!
    } catch (error) {
      link.destroy()
      throw error
    } finally {
      either.removeEventListener('abort', giveUp)
    }
  }

  async listen(address: RdmaAddress, { signal }: { readonly signal: AbortSignal }): Promise<ConnectionListener> {
    const waiting: ConnectionRequest[] = []
    const unanswered = new Set<Link>()
    let closed = false
    let wake = () => {}
    const arrived = (link: Link) => {
      if (closed || unanswered.size >= MAX_WAITING_REQUESTS) {
        link.destroy()
        return
      }
      unanswered.add(link)
      const forget = () => {
        unanswered.delete(link)
        clearTimeout(timer)
        const at = waiting.findIndex((request) => (request as SoftwareRequest).link === link)
        if (at >= 0) waiting.splice(at, 1)
      }
      const drop = () => {
        forget()
        link.destroy()
      }
      const timer = setTimeout(drop, this.#times.requestMs)
      link.receiver = handshake(
        (request, privateData) => {
          if (request.kind !== FrameKind.CONNECT_REQUEST) {
            drop()
            return
          }
          waiting.push(this.#request(link, privateData, forget))
          wake()
        },
        MAX_REQUEST_DATA,
        forget,
      )
    }
    const below = await this.#fabric.listen(address, arrived, signal)
    const close = async () => {
      if (closed) return
      closed = true
      signal.removeEventListener('abort', close)
      for (const link of [...unanswered]) link.destroy()
      unanswered.clear()
      waiting.length = 0
      wake()
      await below.close()
    }
    signal.addEventListener('abort', close)
    return {
      address: below.address,
      async next() {
        while (!closed && waiting.length === 0) await new Promise<void>((resolve) => (wake = resolve))
        return waiting.shift()
      },
      close,
    }
  }

  #request(link: Link, privateData: Uint8Array, answered: () => void): SoftwareRequest {
    return {
      link,
      privateData,
      accept: async (options) => {
        const queuePair = this.#usable(options, MAX_REPLY_DATA)
        const alive = link.receiver !== undefined
        answered()
        if (!alive) throw new RdmaConnectError(undefined, 'the peer went away')
        const made: { made?: SoftwareConnection } = {}
        this.#establish(link, queuePair, options, privateData, made)
        const { privateData: data } = options
        void link.send(frame(FrameKind.CONNECT_REPLY, { key: queuePair.number, length: data.length }), [data.slice()])
        return made.made!
      },
      reject: (data = new Uint8Array()) => {
        answered()
        void link.send(frame(FrameKind.CONNECT_REJECT, { length: data.length }), [data.slice(0, MAX_REPLY_DATA)])
        link.close()
      },
    }
  }

  #establish(
    link: Link,
    queuePair: SoftwareQueuePair,
    options: ConnectOptions,
    privateData: Uint8Array,
    into: { made?: SoftwareConnection },
  ): void {
    const { retryCount, receiverNotReadyRetryCount } = options
    const { acknowledgeTimeoutMs, receiverNotReadyMs } = this.#times
    queuePair.attach(link, { retryCount, receiverNotReadyRetryCount, acknowledgeTimeoutMs, receiverNotReadyMs })
    const connection = new SoftwareConnection(link, queuePair, privateData, this.#times)
    this.#connections.add(connection)
    void connection.disconnected.then(() => this.#connections.delete(connection))
    into.made = connection
  }

  #usable({ queuePair, privateData }: ConnectOptions, most: number): SoftwareQueuePair {
    if (this.#closed) throw new RdmaConnectError(undefined, 'the device was removed')
    if (privateData.length > most) throw new RangeError(`private data of ${privateData.length} bytes; ${most} fit`)
    if (!(queuePair instanceof SoftwareQueuePair)) throw new TypeError('a queue pair of another device')
    return queuePair
  }
}

interface SoftwareRequest extends ConnectionRequest {
  readonly link: Link
}

/** Waits for one frame of the connection manager. */
function handshake(
  arrived: (frame: Frame, data: Uint8Array) => void,
  maxData: number,
  lost: (cause: Error | undefined) => void,
): LinkReceiver {
  let data = new Uint8Array()
  return {
    begin(header) {
      data = new Uint8Array(Math.min(header.length, maxData))
      return [data]
    },
    end: (header) => arrived(header, data),
    lost,
  }
}

class SoftwareConnection implements Connection, LinkReceiver {
  readonly privateData: Uint8Array
  readonly remoteAddress: string | undefined
  readonly disconnected: Promise<DisconnectReason>
  readonly #resolve: (reason: DisconnectReason) => void
  readonly #link: Link
  readonly #queuePair: SoftwareQueuePair
  readonly #timer: ReturnType<typeof setInterval>
  #ended = false
  #disconnecting: Promise<void> | undefined

  constructor(link: Link, queuePair: SoftwareQueuePair, privateData: Uint8Array, times: ConnectionTimes) {
    this.#link = link
    this.#queuePair = queuePair
    this.privateData = privateData
    this.remoteAddress = link.remoteAddress
    const { promise, resolve } = Promise.withResolvers<DisconnectReason>()
    this.disconnected = promise
    this.#resolve = resolve
    link.receiver = this
    const { keepAliveMs, silenceMs } = times
    let heardAt = 0
    let quiet = 0
    // Ticks are counted, not time: after our own process stood still, what came meanwhile has not been looked at yet.
    this.#timer = setInterval(() => {
      quiet = link.heardAt === heardAt ? quiet + 1 : 0
      heardAt = link.heardAt
      if (quiet * keepAliveMs > silenceMs) {
        link.destroy()
        this.lost()
      } else void link.send(frame(FrameKind.KEEP_ALIVE))
    }, keepAliveMs)
  }

  begin(arriving: Frame): readonly Uint8Array[] {
    return this.#queuePair.begin(arriving)
  }

  end(arrived: Frame): void {
    switch (arrived.kind) {
      case FrameKind.DISCONNECT:
        this.#queuePair.arrivedThere(arrived.sequence)
        this.finish('peer')
        return
      case FrameKind.KEEP_ALIVE:
        return
      case FrameKind.CONNECT_REQUEST:
      case FrameKind.CONNECT_REPLY:
      case FrameKind.CONNECT_REJECT:
        this.#link.destroy()
        this.lost()
        return
      default:
        this.#queuePair.end(arrived)
    }
  }

  lost(): void {
    this.finish('lost')
  }

  disconnect(): Promise<void> {
    this.#disconnecting ??= (async () => {
      await this.#queuePair.drained()
      if (this.#ended) return
      // Acknowledgements may have been lost, and nothing will be repeated any more: the goodbye says what has arrived.
      void this.#link.send(frame(FrameKind.DISCONNECT, { sequence: this.#queuePair.arrivedCount }))
      this.finish('local')
    })()
    return this.#disconnecting
  }

  /** By whatever ended it. */
  finish(reason: DisconnectReason): void {
    if (this.#ended) return
    this.#ended = true
    clearInterval(this.#timer)
    if (reason === 'lost') this.#queuePair.lost()
    else this.#queuePair.modify('error')
    if (reason === 'peer' || reason === 'local') this.#link.close()
    else this.#link.destroy()
    this.#resolve(reason)
  }
}
