import type { Channel } from './channel.ts'
import type { Listener, TransportContext } from './transport.ts'

/**
 * Connections that shake hands at once, and those that have and wait to be taken. Further ones wait in the backlog of the
 * transport.
 */
const MAX_AT_ONCE = 16

/**
 * A listener whose channels are wrapped side by side: one client that never finishes its handshake keeps nobody else out, and one
 * that is refused does not end the listener.
 */
export function layeredListener<A>(
  listener: Listener<A>,
  wrap: (channel: Channel, ctx: TransportContext) => Promise<Channel>,
  ctx: TransportContext,
): Listener<A> {
  const disposed = new AbortController()
  const context = { ...ctx, signal: AbortSignal.any([ctx.signal, disposed.signal]) }
  const ready: Channel[] = []
  const waiting = new Set<() => void>()
  let wrapping = 0
  let started = false
  let ended = false
  let failure: { error: unknown } | undefined

  const changed = () => new Promise<void>((resolve) => waiting.add(resolve))
  const change = () => {
    for (const resolve of waiting) resolve()
    waiting.clear()
  }

  async function shakeHands(channel: Channel): Promise<void> {
    try {
      const wrapped = await wrap(channel, context)
      if (disposed.signal.aborted) await wrapped.close()
      else ready.push(wrapped)
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      if (!disposed.signal.aborted) ctx.log.warn(`a connection was refused by a channel layer: ${why}`, { error })
    } finally {
      wrapping--
      change()
    }
  }

  async function take(): Promise<void> {
    try {
      for await (const channel of listener) {
        wrapping++
        void shakeHands(channel)
        while (wrapping + ready.length >= MAX_AT_ONCE) await changed()
      }
    } catch (error) {
      failure = { error }
    } finally {
      ended = true
      change()
    }
  }

  return {
    address: listener.address,
    async *[Symbol.asyncIterator]() {
      if (!started) void take()
      started = true
      for (;;) {
        const channel = ready.shift()
        if (channel) {
          change()
          yield channel
        } else if (disposed.signal.aborted || (ended && wrapping === 0)) {
          if (failure) throw failure.error
          return
        } else await changed()
      }
    },
    async [Symbol.asyncDispose]() {
      disposed.abort(new Error('the listener was closed'))
      change()
      await listener[Symbol.asyncDispose]()
      for (const channel of ready.splice(0)) await channel.close()
    },
  }
}
