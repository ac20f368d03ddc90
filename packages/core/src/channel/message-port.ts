import { ChannelClosedError } from '../errors/channel-error.ts'
import type { Channel } from './channel.ts'
import { CloseState } from './close-state.ts'
import { Inbox } from './inbox.ts'

const FEATURES: Channel['features'] = new Set(['shutdown'])
/** Bytes under way that the peer has not read; a write beyond that waits. */
const WINDOW_BYTES = 1 << 20

/** What both ends say to each other. */
type Message =
  | { readonly kind: 'data'; readonly bytes: Uint8Array }
  /** That many bytes were read. */
  | { readonly kind: 'read'; readonly bytes: number }
  /** No more data from here. */
  | { readonly kind: 'end' }
  /** No more reading here. */
  | { readonly kind: 'deaf' }
  | { readonly kind: 'close' }

/** The part of a MessagePort that is needed: browsers', Node's and a worker's fit. */
export interface PortLike {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void
  addEventListener(type: 'message', listener: (event: any) => void): void
  removeEventListener(type: 'message', listener: (event: any) => void): void
  start?(): void
  close?(): void
}

/** A channel over a MessagePort, whose other end is a channel made by this function too. Bytes are copied once. */
export function fromMessagePort(port: PortLike): Channel {
  const state = new CloseState()
  let reported = 0
  let received = 0
  let underWay = 0
  let writeShut = false
  let readShut = false
  let peerGone: string | undefined
  let wake: (() => void)[] = []

  const send = (message: Message, transfer: ArrayBuffer[] = []): void => port.postMessage(message, transfer)
  const wakeWriters = (): void => {
    const waiting = wake
    wake = []
    for (const resolve of waiting) resolve()
  }
  const reportRead = (): void => {
    const taken = received - inbox.bytes - reported
    if (taken === 0 || state.closed) return
    reported += taken
    send({ kind: 'read', bytes: taken })
  }
  const inbox = new Inbox(state, () => reportRead())

  function onMessage({ data: message }: { data: Message }): void {
    if (message.kind === 'data') {
      if (readShut) return
      received += message.bytes.length
      inbox.push(message.bytes)
      return
    }
    if (message.kind === 'read') underWay -= message.bytes
    if (message.kind === 'deaf') peerGone = 'the peer does not read any more'
    if (message.kind === 'close') peerGone = 'the peer closed the channel'
    if (message.kind === 'end' || message.kind === 'close') inbox.end()
    wakeWriters()
  }
  port.addEventListener('message', onMessage)
  port.start?.()

  function check(): void {
    state.throwIfClosed()
    if (peerGone !== undefined) throw new ChannelClosedError(peerGone)
    if (writeShut) throw new ChannelClosedError('this direction was shut down')
  }

  async function write(buffers: readonly Uint8Array[]): Promise<void> {
    check()
    for (const buffer of buffers) {
      if (buffer.length === 0) continue
      const copy = new Uint8Array(buffer)
      underWay += copy.length
      send({ kind: 'data', bytes: copy }, [copy.buffer])
      while (underWay > WINDOW_BYTES) {
        await new Promise<void>((resolve) => wake.push(resolve))
        check()
      }
    }
  }

  return {
    features: FEATURES,
    read: (into) => inbox.read(into),
    write,
    async shutdown(how) {
      state.throwIfClosed()
      if (how !== 'read' && !writeShut) {
        writeShut = true
        send({ kind: 'end' })
      }
      if (how !== 'write' && !readShut) {
        readShut = true
        inbox.end()
        send({ kind: 'deaf' })
      }
    },
    async close(reason) {
      if (!state.close(reason)) return
      inbox.drop(state.error())
      send({ kind: 'close' })
      wakeWriters()
      port.removeEventListener('message', onMessage)
      port.close?.()
    },
  }
}
