import { type Channel, createChannelPair, type Transport } from '@ferryvm/core'

/** Looked at while bytes pass, so a test may change them between two migrations. */
export interface LoopOptions {
  /** The connection breaks after so many bytes went to the listener. */
  cutAfter?: number
  /** One bit of what goes to the listener is wrong. */
  flip?: { readonly byte: number; readonly bit: number }
  /** Gets a copy of what goes to the listener. */
  record?: (bytes: Uint8Array) => void
  /** Without it the connection cannot answer. Default true. */
  duplex?: boolean
  bufferBytes?: number
}

/** `loop:name`, within one process, with a wire that can be made to fail. */
export function loopTransport(options: LoopOptions = {}): Transport<string> {
  const waiting = new Map<string, (channel: Channel) => void>()
  const features: Channel['features'] = new Set(options.duplex === false ? [] : ['shutdown', 'multi-channel'])
  return {
    scheme: 'loop',
    features,
    parseAddress: (text) => text,
    formatAddress: (name) => name,
    async connect(name, { signal }) {
      signal.throwIfAborted()
      const accept = waiting.get(name)
      if (!accept) throw new Error(`nobody listens on loop:${name}`)
      const [near, far] = createChannelPair({ bufferBytes: options.bufferBytes })
      accept(far)
      return faulty(near, features, options)
    },
    async listen(name) {
      const arrived: Channel[] = []
      let wake = () => {}
      let closed = false
      waiting.set(name, (channel) => {
        arrived.push(channel)
        wake()
      })
      return {
        address: name,
        async *[Symbol.asyncIterator]() {
          while (!closed) {
            const next = arrived.shift()
            if (next) yield next
            else await new Promise<void>((resolve) => (wake = resolve))
          }
        },
        async [Symbol.asyncDispose]() {
          closed = true
          waiting.delete(name)
          for (const channel of arrived.splice(0)) void channel.close()
          wake()
        },
      }
    },
  }
}

function faulty(near: Channel, features: Channel['features'], options: LoopOptions): Channel {
  let sent = 0
  return {
    features,
    read: (into) => near.read(into),
    write(buffers) {
      let bytes = new Uint8Array(buffers.reduce((sum, b) => sum + b.length, 0))
      let at = 0
      for (const buffer of buffers) {
        bytes.set(buffer, at)
        at += buffer.length
      }
      const { flip, cutAfter } = options
      if (flip && flip.byte >= sent && flip.byte < sent + bytes.length) bytes[flip.byte - sent]! ^= 1 << flip.bit
      const cut = cutAfter !== undefined && sent + bytes.length > cutAfter
      if (cut) bytes = bytes.subarray(0, cutAfter - sent)
      sent += bytes.length
      options.record?.(bytes)
      const written = bytes.length > 0 ? near.write([bytes]) : undefined
      if (!cut) return written
      return (async () => {
        await written
        const reason = new Error('the wire broke')
        await near.shutdown('write')
        await near.close(reason)
        throw reason
      })()
    },
    shutdown: (how) => near.shutdown(how),
    close: (reason) => near.close(reason),
  }
}
