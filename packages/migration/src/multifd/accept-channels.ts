import { type Channel, type Logger, type QEMUFileReader, STREAM_MAGIC } from '@ferryvm/core'
import { MultifdError } from '../errors.ts'
import { type IncomingMultifd, introduction } from './incoming-multifd.ts'
import { MULTIFD_MAGIC } from './multifd-packet.ts'

/** How long a connection may be silent before it says what it is. */
const SILENCE_MS = 10_000
/** From the first connection of a migration to the last. */
const ALL_CHANNELS_MS = 30_000
/** Connections beyond those of the migration that may be here at once and have not said what they are. */
const STRANGERS = 4

export interface AcceptOptions {
  readonly channels: number
  readonly log: Logger
  readonly signal: AbortSignal
  readonly silenceMs?: number
  readonly allChannelsMs?: number
}

/**
 * Sorts connections by their first bytes until the main channel and all others are here; what is neither is turned away,
 * and does not hold up the rest.
 * @returns the main channel, with what was read of it
 * @throws MultifdError some did not come in time
 */
export async function acceptChannels(
  connections: AsyncIterator<Channel>,
  multifd: IncomingMultifd,
  options: AcceptOptions,
): Promise<{ channel: Channel; reader: QEMUFileReader }> {
  const { channels, log, signal, silenceMs = SILENCE_MS, allChannelsMs = ALL_CHANNELS_MS } = options
  let main: { channel: Channel; reader: QEMUFileReader } | undefined
  const unknown = new Set<Channel>()
  let settle: { resolve(): void; reject(error: unknown): void }
  const everybody = new Promise<void>((resolve, reject) => (settle = { resolve, reject }))
  everybody.catch(() => {})
  let timer: ReturnType<typeof setTimeout> | undefined

  const turnAway = (channel: Channel, why: string) => {
    log.warn(`a connection is turned away: ${why}`)
    void channel.close(new MultifdError(undefined, why, 0)).catch(() => {})
  }
  const meet = async (channel: Channel) => {
    unknown.add(channel)
    try {
      const { reader, first } = await introduction(channel, silenceMs)
      if (first === STREAM_MAGIC) {
        if (main) throw new MultifdError(undefined, 'a main channel is here already', 0)
        main = { channel, reader }
      } else if (first === MULTIFD_MAGIC) {
        await multifd.add(channel, reader)
      } else throw new MultifdError(undefined, `it begins with 0x${first.toString(16)}`, 0)
      timer ??= setTimeout(() => {
        const here = `${multifd.count} of ${channels} multifd channels and ${main ? 'the' : 'no'} main channel`
        settle.reject(new MultifdError(undefined, `${here} came within ${allChannelsMs} ms`, 0))
      }, allChannelsMs)
      if (main && multifd.complete) settle.resolve()
    } catch (error) {
      turnAway(channel, error instanceof Error ? error.message : String(error))
    } finally {
      unknown.delete(channel)
    }
  }
  const accept = async () => {
    for (;;) {
      const next = await connections.next()
      if (next.done) {
        settle.reject(new MultifdError(undefined, 'the listener was closed', 0))
        return
      }
      if (unknown.size >= channels + 1 + STRANGERS)
        turnAway(next.value, 'too many connections have not said what they are')
      else void meet(next.value)
    }
  }
  const onAbort = () => settle.reject(signal.reason)
  signal.addEventListener('abort', onAbort)
  accept().catch((error) => settle.reject(error))
  try {
    await everybody
    return main!
  } catch (error) {
    const reason = error instanceof Error ? error : new Error(String(error))
    await main?.channel.close(reason).catch(() => {})
    throw error
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
    for (const channel of unknown) turnAway(channel, 'all channels of the migration are here')
  }
}
