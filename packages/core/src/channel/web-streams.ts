import type { Channel } from './channel.ts'
import { asChannelClosed, CloseState } from './close-state.ts'
import { Inbox } from './inbox.ts'

const FEATURES: Channel['features'] = new Set(['shutdown'])

export interface WebStreamPair {
  readonly readable: ReadableStream<Uint8Array>
  readonly writable: WritableStream<Uint8Array>
}

/**
 * A channel over a pair of web streams (WebTransport, a fetch body, a compression stream). Chunks are copied when
 * written, because a stream may keep or transfer them.
 */
export function fromWebStreams({ readable, writable }: WebStreamPair): Channel {
  const reader = readable.getReader()
  const writer = writable.getWriter()
  const state = new CloseState()
  let pulling = false
  const inbox = new Inbox(state, () => void pull())
  // Errors reach the caller through read and write.
  writer.closed.catch(() => {})
  reader.closed.catch(() => {})
  let writeShut = false
  let readShut = false
  /** Writes that the stream has not taken yet. */
  const waiting = new Set<(error: Error) => void>()

  async function pull(): Promise<void> {
    if (pulling || readShut || state.closed) return
    pulling = true
    try {
      const { done, value } = await reader.read()
      pulling = false
      if (done) inbox.end()
      else if (value.length === 0) await pull()
      else inbox.push(value)
    } catch (error) {
      pulling = false
      inbox.fail(error)
    }
  }

  async function writeAll(buffers: readonly Uint8Array[]): Promise<void> {
    for (const buffer of buffers) {
      if (buffer.length === 0) continue
      await writer.ready
      if (state.closed) return
      await writer.write(new Uint8Array(buffer))
    }
  }
  function write(buffers: readonly Uint8Array[]): Promise<void> {
    if (state.closed) return Promise.reject(state.error())
    // A stream settles an aborted write only when its sink lets go of it, which may be never.
    return new Promise((resolve, reject) => {
      waiting.add(reject)
      writeAll(buffers)
        .then(resolve, (error) => reject(state.closed ? state.error() : asChannelClosed(error)))
        .finally(() => waiting.delete(reject))
    })
  }

  return {
    features: FEATURES,
    read: (into) => inbox.read(into),
    write,
    async shutdown(how) {
      state.throwIfClosed()
      if (how !== 'read' && !writeShut) {
        writeShut = true
        await writer.close().catch((error) => {
          throw asChannelClosed(error)
        })
      }
      if (how !== 'write' && !readShut) {
        readShut = true
        inbox.end()
        await reader.cancel().catch(() => {})
      }
    },
    async close(reason) {
      if (!state.close(reason)) return
      const error = state.error()
      inbox.drop(error)
      const unsent = waiting.size > 0
      for (const reject of waiting) reject(error)
      waiting.clear()
      // Not awaited: what was accepted still goes out, as fast as the peer reads it.
      reader.cancel(reason).catch(() => {})
      if (reason !== undefined || unsent) writer.abort(error).catch(() => {})
      else if (!writeShut) writer.close().catch(() => {})
    },
  }
}
