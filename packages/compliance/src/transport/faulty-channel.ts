import { type Channel, ChannelClosedError } from '@ferryvm/core'

/** What can go wrong with one channel. Offsets count the bytes of one direction from 0. */
export interface Faults {
  /** Every read and write takes this much longer, ms. */
  readonly delayMs?: number
  /** Reads deliver at most this many bytes at once: 1 shows who assumes that a read fills its buffer. */
  readonly readAtMost?: number
  /** After that many bytes were read, the connection breaks. */
  readonly cutReadAfter?: number
  /** After that many bytes were written, the connection breaks. */
  readonly cutWriteAfter?: number
  /** After that many bytes were read, the peer seems to have shut down its writing side. */
  readonly endReadAfter?: number
  /** This byte arrives with its lowest bit flipped. */
  readonly corruptReadAt?: number
  /** After that many bytes were read, nothing comes any more, and nothing fails either. */
  readonly stallReadAfter?: number
}

/** A channel with faults built in, for tests of what lies above it. */
export function faultyChannel(channel: Channel, faults: Faults): Channel {
  let read = 0
  let written = 0
  let broken: ChannelClosedError | undefined
  let failStalled: ((error: Error) => void) | undefined

  function breakNow(): ChannelClosedError {
    broken ??= new ChannelClosedError('the connection was cut (injected)')
    void channel.close(broken)
    return broken
  }
  const later = () => new Promise<void>((resolve) => setTimeout(resolve, faults.delayMs ?? 0))

  async function slowRead(into: Uint8Array): Promise<number> {
    if (faults.delayMs !== undefined) await later()
    if (broken) throw broken
    const { cutReadAfter, endReadAfter, stallReadAfter, corruptReadAt, readAtMost } = faults
    if (cutReadAfter !== undefined && read >= cutReadAfter) throw breakNow()
    if (endReadAfter !== undefined && read >= endReadAfter) return 0
    if (stallReadAfter !== undefined && read >= stallReadAfter) {
      return new Promise((_, reject) => {
        failStalled = reject
      })
    }
    const limit = Math.min(
      into.length,
      readAtMost ?? into.length,
      ...[cutReadAfter, endReadAfter, stallReadAfter].map((at) => (at === undefined ? into.length : at - read)),
    )
    const count = await channel.read(into.subarray(0, limit))
    if (corruptReadAt !== undefined && corruptReadAt >= read && corruptReadAt < read + count) {
      into[corruptReadAt - read]! ^= 1
    }
    read += count
    return count
  }

  async function slowWrite(buffers: readonly Uint8Array[]): Promise<void> {
    if (faults.delayMs !== undefined) await later()
    if (broken) throw broken
    const { cutWriteAfter } = faults
    for (const buffer of buffers) {
      const room = cutWriteAfter === undefined ? buffer.length : Math.max(0, cutWriteAfter - written)
      const part = buffer.subarray(0, room)
      if (part.length > 0) await channel.write([part])
      written += part.length
      if (part.length < buffer.length) throw breakNow()
    }
  }

  return {
    features: channel.features,
    read: slowRead,
    write: slowWrite,
    shutdown: (how) => channel.shutdown(how),
    async close(reason) {
      await channel.close(reason)
      failStalled?.(
        reason ? new ChannelClosedError('the channel is closed', { cause: reason }) : new ChannelClosedError(),
      )
    },
  }
}
