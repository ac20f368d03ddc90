import {
  type Channel,
  ChannelClosedError,
  createChannelPair,
  defineTransport,
  FerryError,
  type Transport,
} from '@ferryvm/core'

class LoopAddressError extends FerryError {
  readonly code = 'FERRY_LOOP_ADDRESS'
}

/** A transport inside of one process: what a layer is wrapped around to be tested. */
export function loopTransport(): Transport<string> {
  const listeners = new Map<string, (channel: Channel) => void>()
  return defineTransport<string>({
    scheme: 'loop',
    features: new Set(['shutdown']),
    parseAddress(text) {
      if (text === '') throw new LoopAddressError('a loop address has a name')
      return text
    },
    formatAddress: (name) => name,
    async connect(name, { signal }) {
      signal.throwIfAborted()
      const give = listeners.get(name)
      if (!give) throw new ChannelClosedError(`nobody listens at loop:${name}`)
      const [client, server] = createChannelPair()
      give(server)
      return client
    },
    async listen(name) {
      if (listeners.has(name)) throw new LoopAddressError(`loop:${name} is taken`)
      const waiting: Channel[] = []
      let closed = false
      let wake = () => {}
      listeners.set(name, (channel) => {
        waiting.push(channel)
        wake()
      })
      return {
        address: name,
        async *[Symbol.asyncIterator]() {
          for (;;) {
            while (waiting.length > 0) yield waiting.shift()!
            if (closed) return
            await new Promise<void>((resolve) => {
              wake = resolve
            })
          }
        },
        async [Symbol.asyncDispose]() {
          closed = true
          listeners.delete(name)
          wake()
        },
      }
    },
  })
}
