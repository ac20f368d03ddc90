import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Channel } from '../channel/channel.ts'
import { asChannelClosed, CloseState } from '../channel/close-state.ts'
import { Inbox } from '../channel/inbox.ts'
import { ChannelClosedError } from '../errors/channel-error.ts'

const FEATURES: Channel['features'] = new Set(['shutdown'])

/**
 * A channel over Node's Duplex: a TCP or TLS socket, a pipe pair. The stream must not be in object mode, and nobody else
 * may read or write it. `allowHalfOpen` decides whether a half-close by the peer leaves our writing side open.
 */
export function fromDuplex(stream: Duplex): Channel {
  const state = new CloseState()
  let readShut = false
  let broken: ChannelClosedError | undefined
  const waiting = new Set<(error: Error) => void>()
  // `drained` asks for the next chunk; between reads the stream is left paused, which is the back-pressure.
  const inbox = new Inbox(state, pull, ownsItsChunks(stream) ? freeBuffer : undefined)
  let touched = false
  let detached = false

  function pull(): void {
    if (readShut || state.closed || inbox.bytes > 0) return
    const chunk = stream.read() as Uint8Array | null
    if (chunk !== null) inbox.push(chunk)
  }
  const fail = (error: ChannelClosedError): void => {
    broken ??= error
    // A stream that has ended is destroyed soon after; its end stays an end.
    if (!stream.readableEnded) inbox.fail(broken)
    for (const reject of waiting) reject(broken)
    waiting.clear()
  }
  const listeners = {
    readable: pull,
    end: () => inbox.end(),
    error: (error: Error) => fail(asChannelClosed(error)),
    close: () => fail(new ChannelClosedError('the connection is closed')),
  }
  stream.pause()
  for (const [event, listener] of Object.entries(listeners)) stream.on(event, listener)

  function write(buffers: readonly Uint8Array[]): Promise<void> {
    if (state.closed) return Promise.reject(state.error())
    if (broken) return Promise.reject(broken)
    if (stream.writableEnded) return Promise.reject(new ChannelClosedError('this direction was shut down'))
    const filled = buffers.filter((buffer) => buffer.length > 0)
    if (filled.length === 0) return Promise.resolve()
    touched = true
    return new Promise((resolve, reject) => {
      waiting.add(reject)
      const last = filled.length - 1
      // Corked, the buffers leave in one gather write. The last callback means that all of them are out of our hands.
      stream.cork()
      filled.forEach((buffer, i) => {
        stream.write(buffer, (error) => {
          if (error) {
            waiting.delete(reject)
            reject(state.closed ? state.error() : asChannelClosed(error))
          } else if (i === last) {
            waiting.delete(reject)
            resolve()
          }
        })
      })
      stream.uncork()
    })
  }

  function detach(): Duplex | undefined {
    if (touched || state.closed || broken || stream.destroyed || stream.readableEnded) return undefined
    const chunks = inbox.takeAll()
    if (!chunks) return undefined
    for (const [event, listener] of Object.entries(listeners)) stream.off(event, listener)
    stream.on('error', () => {}) // whoever has it now hears of it as well
    for (const chunk of chunks.reverse()) stream.unshift(chunk)
    detached = true
    inbox.fail(new ChannelClosedError('the channel was given away'))
    broken = new ChannelClosedError('the channel was given away')
    return stream
  }

  // Gone once the peer has hung up, so it is asked for now. A unix socket has none.
  const remoteAddress = stream instanceof Socket ? stream.remoteAddress : undefined
  return {
    features: FEATURES,
    ...(remoteAddress !== undefined && { remoteAddress }),
    read(into) {
      touched = true
      return inbox.read(into)
    },
    write,
    // Only what Node reads and writes by itself is worth it.
    ...(stream.constructor === Socket && { detach }),
    async shutdown(how) {
      state.throwIfClosed()
      if (how !== 'read' && !stream.writableEnded) {
        // On a destroyed stream the callback of `end` would never be called.
        if (stream.destroyed) throw (broken ??= new ChannelClosedError('the connection is closed'))
        await new Promise<void>((resolve, reject) => {
          waiting.add(reject)
          stream.end(() => {
            waiting.delete(reject)
            resolve()
          })
        })
      }
      if (how !== 'write') {
        readShut = true
        inbox.end()
        // Bytes that still come are thrown away, so that the peer is not held up.
        stream.off('readable', pull)
        stream.resume()
      }
    },
    async close(reason) {
      if (!state.close(reason)) return
      const error = state.error()
      inbox.drop(error)
      // Its owner has ended it, or has let it go.
      if (detached) stream.destroy()
      const unsent = waiting.size > 0
      for (const reject of waiting) reject(error)
      waiting.clear()
      if (stream.destroyed) return
      const closed = new Promise<void>((resolve) => stream.once('close', resolve))
      if (reason || unsent) stream.destroy()
      else {
        // What was accepted still goes out before the connection ends.
        stream.end(() => stream.destroy())
      }
      await closed
    },
  }
}

/** A TLS socket as well: see node:tls, `encrypted`. */
const ownsItsChunks = (stream: Duplex): boolean =>
  stream.constructor === Socket || (stream as { encrypted?: unknown }).encrypted === true

/**
 * A socket makes an ArrayBuffer for every read; nobody else has it. Left to the garbage collector, they bring on a full
 * collection every few dozen megabytes, which cost a machine that receives a guest 40% of its CPU time.
 */
function freeBuffer(chunk: Uint8Array): void {
  const { buffer } = chunk as Uint8Array<ArrayBuffer>
  // What was put together from several reads may be a slice of Node's pool. Node 20 has no `transfer`.
  if (chunk.length === buffer.byteLength) buffer.transfer?.(0)
}
