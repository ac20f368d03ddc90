import { Duplex } from 'node:stream'
import type { Channel } from '@ferryvm/core'

const READ_CHUNK_BYTES = 64 * 1024

/**
 * The opposite of core's `fromDuplex`: a Node stream over any channel. Ending it is a half-close, destroying it closes the
 * channel.
 *
 * @param onBytes sees what is read, before the stream's user does
 */
export function toDuplex(channel: Channel, onBytes: (bytes: Uint8Array) => void): Duplex {
  let spare: Buffer | undefined
  const duplex = new Duplex({
    allowHalfOpen: true,
    readableHighWaterMark: READ_CHUNK_BYTES,
    read() {
      void readChunk()
    },
    write(chunk: Buffer, _encoding, done) {
      void settle(() => channel.write([chunk]), done)
    },
    writev(chunks, done) {
      void settle(() => channel.write(chunks.map(({ chunk }) => chunk as Buffer)), done)
    },
    final(done) {
      void settle(() => (channel.features.has('shutdown') ? channel.shutdown('write') : undefined), done)
    },
    destroy(error, done) {
      channel.close(error ?? undefined).then(
        () => done(error),
        () => done(error),
      )
    },
  })

  async function readChunk(): Promise<void> {
    const into = spare ?? Buffer.allocUnsafeSlow(READ_CHUNK_BYTES)
    spare = undefined
    try {
      const count = await channel.read(into)
      if (count === 0) {
        duplex.push(null)
        return
      }
      const bytes = into.subarray(0, count)
      onBytes(bytes)
      // A short read leaves most of the buffer free; a copy of it is cheaper than a new one.
      if (count > READ_CHUNK_BYTES / 4) duplex.push(bytes)
      else {
        spare = into
        duplex.push(Buffer.from(bytes))
      }
    } catch (error) {
      duplex.destroy(error as Error)
    }
  }
  return duplex
}

async function settle(run: () => void | Promise<void>, done: (error?: Error) => void): Promise<void> {
  try {
    await run()
  } catch (error) {
    done(error as Error)
    return
  }
  done()
}
