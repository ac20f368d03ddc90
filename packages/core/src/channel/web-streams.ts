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

  async function write(buffers: readonly Uint8Array[]): Promise<void> {
    state.throwIfClosed()
    try {
      for (const buffer of buffers) {
        if (buffer.length === 0) continue
        await writer.ready
        await writer.write(new Uint8Array(buffer))
      }
    } catch (error) {
      throw state.closed ? state.error() : asChannelClosed(error)
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
      inbox.drop(state.error())
      const cancelled = reader.cancel(reason).catch(() => {})
      if (reason !== undefined) await writer.abort(reason).catch(() => {})
      else if (!writeShut) await writer.close().catch(() => {})
      await cancelled
    },
  }
}
