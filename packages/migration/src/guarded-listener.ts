import { type Channel, isLoopback, type Listener, type TransportContext } from '@ferryvm/core'
import { UnwelcomePeerError } from './errors.ts'

export interface GuardOptions {
  /** From where a guest may come without encryption. */
  readonly plaintextFrom: 'loopback' | 'anywhere'
  /** Of a first connection over a network that says nothing. */
  readonly silenceTimeoutMs: number
}

/**
 * A listener for guests that arrive unencrypted. Connections from other hosts are refused unless told otherwise; a first one over
 * a network that says nothing is dropped after a while, so that it does not keep the place of the source. Neither ends the
 * listener. Connections within the host that are no network (a unix socket, a pipe, a file) are taken as they come.
 */
export function guardedListener<A>(
  listener: Listener<A>,
  { plaintextFrom, silenceTimeoutMs }: GuardOptions,
  { log }: TransportContext,
): Listener<A> {
  /** Later connections of a migration may well be silent until they are needed. */
  let first = true
  let waiting: Channel | undefined
  const refuse = async (channel: Channel, problem: string): Promise<void> => {
    const error = new UnwelcomePeerError(problem)
    log.warn(error.message, { error })
    await channel.close(error)
  }
  return {
    address: listener.address,
    async *[Symbol.asyncIterator]() {
      for await (const channel of listener) {
        const { remoteAddress } = channel
        if (remoteAddress !== undefined && plaintextFrom === 'loopback' && !isLoopback(remoteAddress)) {
          const mend = 'set tls-creds on both ends, or allow plaintext here'
          await refuse(channel, `a connection from ${remoteAddress} was refused, because it is not encrypted; ${mend}`)
          continue
        }
        if (!first || remoteAddress === undefined) {
          first = false
          yield channel
          continue
        }
        waiting = channel
        const spoken = await firstBytes(channel, silenceTimeoutMs)
        waiting = undefined
        if (spoken) {
          first = false
          yield spoken
        } else {
          await refuse(
            channel,
            `a connection from ${remoteAddress} said nothing for ${silenceTimeoutMs} ms and was dropped`,
          )
        }
      }
    },
    async [Symbol.asyncDispose]() {
      await listener[Symbol.asyncDispose]()
      await waiting?.close(new UnwelcomePeerError('the listener was closed'))
    },
  }
}

/** The channel with nothing read from it, as soon as there is something to read, or an end; undefined: nothing came in time. */
async function firstBytes(channel: Channel, timeoutMs: number): Promise<Channel | undefined> {
  const bytes = new Uint8Array(4)
  let timer: ReturnType<typeof setTimeout> | undefined
  const silence = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), timeoutMs)
  })
  try {
    const count = await Promise.race([channel.read(bytes), silence])
    return count === undefined ? undefined : unread(channel, bytes.subarray(0, count))
  } catch {
    return channel // which fails again when it is read
  } finally {
    clearTimeout(timer)
  }
}

function unread(channel: Channel, bytes: Uint8Array): Channel {
  let rest = bytes
  return {
    features: channel.features,
    ...(channel.remoteAddress !== undefined && { remoteAddress: channel.remoteAddress }),
    read(into) {
      if (rest.length === 0) return channel.read(into)
      const count = Math.min(rest.length, into.length)
      into.set(rest.subarray(0, count))
      rest = rest.subarray(count)
      return count
    },
    write: (buffers) => channel.write(buffers),
    shutdown: (how) => channel.shutdown(how),
    async close(reason) {
      rest = rest.subarray(rest.length)
      await channel.close(reason)
    },
    ...(channel.finish && { finish: () => channel.finish!() }),
    ...(channel.ramHooks && { ramHooks: channel.ramHooks }),
  }
}
