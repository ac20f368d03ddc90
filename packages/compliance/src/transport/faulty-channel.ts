import { type Channel, ChannelClosedError, type Transport } from '@ferryvm/core'

/** What can go wrong with one channel. Offsets count the bytes of one direction from 0. */
export interface Faults {
  /** Every read and write takes this much longer, ms. */
  readonly delayMs?: number
  /** Reads deliver at most this many bytes at once: 1 shows who assumes that a read fills its buffer. */
  readonly readAtMost?: number
  /** Writes hand on at most this many bytes at once. */
  readonly writeAtMost?: number
  /** After that many bytes were read, the connection breaks. */
  readonly cutReadAfter?: number
  /** After that many bytes were written, the connection breaks. */
  readonly cutWriteAfter?: number
  /** After that many bytes were read, the peer seems to have shut down its writing side. */
  readonly endReadAfter?: number
  /** After that many bytes were written, this direction is shut down, and the rest is thrown away. */
  readonly endWriteAfter?: number
  /** This byte arrives with its lowest bit flipped. */
  readonly corruptReadAt?: number
  /** This byte leaves with its lowest bit flipped. */
  readonly corruptWriteAt?: number
  /** After that many bytes were read, nothing comes any more, and nothing fails either. */
  readonly stallReadAfter?: number
  /** After that many bytes were written, writes do not settle any more, and nothing fails either. */
  readonly stallWriteAfter?: number
}

/** A channel with faults built in, for tests of what lies above it. */
export function faultyChannel(channel: Channel, faults: Faults): Channel {
  let read = 0
  let written = 0
  let ended = false
  let broken: ChannelClosedError | undefined
  const stalled = new Set<(error: Error) => void>()

  function breakNow(): ChannelClosedError {
    broken ??= new ChannelClosedError('the connection was cut (injected)')
    void channel.close(broken)
    return broken
  }
  const later = () => new Promise<void>((resolve) => setTimeout(resolve, faults.delayMs ?? 0))
  const stall = () => new Promise<never>((_, reject) => stalled.add(reject))
  /** How far the next transfer may go from `at`, so that no fault lies within it. */
  const upTo = (at: number, wanted: number, limits: readonly (number | undefined)[]) =>
    Math.min(wanted, ...limits.map((limit) => (limit === undefined || limit <= at ? wanted : limit - at)))

  async function slowRead(into: Uint8Array): Promise<number> {
    if (faults.delayMs !== undefined) await later()
    if (broken) throw broken
    const { cutReadAfter, endReadAfter, stallReadAfter, corruptReadAt, readAtMost } = faults
    if (cutReadAfter !== undefined && read >= cutReadAfter) throw breakNow()
    if (endReadAfter !== undefined && read >= endReadAfter) return 0
    if (stallReadAfter !== undefined && read >= stallReadAfter) return stall()
    const limit = upTo(read, Math.min(into.length, readAtMost ?? into.length), [
      cutReadAfter,
      endReadAfter,
      stallReadAfter,
    ])
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
    for (const buffer of buffers) {
      for (let at = 0; at < buffer.length; ) {
        const count = await writePart(buffer.subarray(at))
        at += count
        written += count
      }
    }
  }

  async function writePart(rest: Uint8Array): Promise<number> {
    const { cutWriteAfter, endWriteAfter, stallWriteAfter, corruptWriteAt, writeAtMost } = faults
    if (cutWriteAfter !== undefined && written >= cutWriteAfter) throw breakNow()
    if (stallWriteAfter !== undefined && written >= stallWriteAfter) return stall()
    if (endWriteAfter !== undefined && written >= endWriteAfter) {
      if (!ended) await channel.shutdown('write')
      ended = true
      return rest.length
    }
    const count = upTo(written, Math.min(rest.length, writeAtMost ?? rest.length), [
      cutWriteAfter,
      endWriteAfter,
      stallWriteAfter,
    ])
    let part = rest.subarray(0, count)
    if (corruptWriteAt !== undefined && corruptWriteAt >= written && corruptWriteAt < written + count) {
      part = part.slice() // it is the caller's
      part[corruptWriteAt - written]! ^= 1
    }
    await channel.write([part])
    return count
  }

  return {
    features: channel.features,
    ...(channel.remoteAddress !== undefined && { remoteAddress: channel.remoteAddress }),
    read: slowRead,
    write: slowWrite,
    shutdown: (how) => channel.shutdown(how),
    async close(reason) {
      await channel.close(reason)
      const error = reason
        ? new ChannelClosedError('the channel is closed', { cause: reason })
        : new ChannelClosedError()
      for (const reject of stalled) reject(error)
      stalled.clear()
    },
    ...(channel.finish && { finish: () => channel.finish!() }),
  }
}

/**
 * A transport whose connections have faults at the connecting end.
 * @param faultsOf asked for each connection, counted from 0
 */
export function faultyTransport<A>(transport: Transport<A>, faultsOf: (connection: number) => Faults): Transport<A> {
  let connections = 0
  return {
    scheme: transport.scheme,
    features: transport.features,
    parseAddress: (text) => transport.parseAddress(text),
    ...(transport.formatAddress && { formatAddress: (address: A) => transport.formatAddress!(address) }),
    connect: async (address, context) =>
      faultyChannel(await transport.connect(address, context), faultsOf(connections++)),
    listen: (address, context) => transport.listen(address, context),
  }
}
