import { ChannelClosedError } from '../errors/channel-error.ts'
import type { Channel } from './channel.ts'
import type { Listener } from './transport.ts'

/**
 * The listener of a transport on which exactly one channel can arrive (a command's output, a file, a descriptor): hands it
 * out once, then waits. Disposing it, or aborting `signal`, closes a channel that nobody took.
 */
export function singleChannelListener<A>(address: A, channel: Channel, signal: AbortSignal): Listener<A> {
  let waiting: Channel | undefined = channel
  const disposed = Promise.withResolvers<void>()
  const dispose = async (): Promise<void> => {
    signal.removeEventListener('abort', dispose)
    disposed.resolve()
    const unused = waiting
    waiting = undefined
    await unused?.close(new ChannelClosedError('the listener was closed'))
  }
  signal.addEventListener('abort', dispose)
  return {
    address,
    async *[Symbol.asyncIterator]() {
      const only = waiting
      waiting = undefined
      if (only) yield only
      await disposed.promise
    },
    [Symbol.asyncDispose]: dispose,
  }
}
