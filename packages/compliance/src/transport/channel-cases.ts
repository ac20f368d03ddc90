import { bufferWriter, type Channel, createQEMUFileReader, createQEMUFileWriter, FerryError } from '@ferryvm/core'
import { check, checkSameBytes, failureOf, pattern, sleep, type TestRunner, within } from '../runner.ts'

export interface ChannelComplianceOptions {
  /** Two connected channels, made anew for each case. */
  pair(): Promise<readonly [Channel, Channel]> | readonly [Channel, Channel]
}

/** The contract of a channel, one case per sentence. Works on both ends of a pair. */
export function channelCompliance({ describe, it }: TestRunner, options: ChannelComplianceOptions): void {
  const withPair = (name: string, run: (a: Channel, b: Channel) => Promise<void>): void => {
    it(name, async () => {
      const [a, b] = await within(options.pair(), 'connecting')
      try {
        await within(run(a, b), name, 20_000)
      } finally {
        await Promise.all([a.close(), b.close()])
      }
    })
  }

  describe('a channel', () => {
    withPair('delivers all bytes in order, however they were cut into writes', async (a, b) => {
      const sizes = [1, 2, 3, 4096, 1, 65_537, 0, 300_000, 17]
      const parts = sizes.map((size, i) => pattern(size, i + 1))
      const [received] = await Promise.all([
        readBytes(
          b,
          sizes.reduce((x, y) => x + y),
        ),
        (async () => {
          for (const part of parts) await a.write([part])
        })(),
      ])
      checkSameBytes(received, concat(parts), 'what arrives is what was written')
    })

    withPair('gathers many buffers of one write, empty ones included', async (a, b) => {
      const parts = Array.from({ length: 1500 }, (_, i) => pattern(i % 7 === 0 ? 0 : 64 + (i % 100), i + 1))
      const whole = concat(parts)
      const [received] = await Promise.all([readBytes(b, whole.length), a.write(parts)])
      checkSameBytes(received, whole, 'the buffers arrive in their order')
    })

    withPair('a write of nothing settles', async (a) => {
      await within(a.write([]), 'a write without a buffer settles')
      await within(a.write([new Uint8Array()]), 'a write of an empty buffer settles')
    })

    withPair('never reads more than there is room for, and reads at least one byte', async (a, b) => {
      const bytes = pattern(1000)
      const sent = a.write([bytes])
      const received: number[] = []
      while (received.length < bytes.length) {
        const into = new Uint8Array(7).fill(0xee)
        const room = 1 + (received.length % 5)
        const count = await b.read(into.subarray(0, room))
        check(count >= 1 && count <= room, `a read into ${room} bytes returned ${count}`)
        check(
          into.subarray(room).every((byte) => byte === 0xee),
          'a read leaves what is behind its buffer alone',
        )
        received.push(...into.subarray(0, count))
      }
      checkSameBytes(Uint8Array.from(received), bytes, 'small reads get all bytes')
      await sent
    })

    withPair('flows in both directions at once', async (a, b) => {
      const [there, back] = [pattern(1 << 20, 3), pattern(1 << 20, 5)]
      const [, , atB, atA] = await Promise.all([
        writePieces(a, there),
        writePieces(b, back),
        readBytes(b, there.length),
        readBytes(a, back.length),
      ])
      checkSameBytes(atB, there, 'one direction')
      checkSameBytes(atA, back, 'the other direction')
    })

    withPair('a buffer belongs to its caller again once the write has settled', async (a, b) => {
      const buffer = pattern(40_000)
      const expected = buffer.slice()
      const reading = readBytes(b, buffer.length)
      await a.write([buffer])
      buffer.fill(0)
      checkSameBytes(await reading, expected, 'what was written before the buffer changed')
    })

    withPair('takes views of shared memory, as guest pages are', async (a, b) => {
      if (typeof SharedArrayBuffer === 'undefined') return
      const page = new Uint8Array(new SharedArrayBuffer(8192), 4096, 4096)
      page.set(pattern(4096))
      const [received] = await Promise.all([readBytes(b, 4096), a.write([page])])
      checkSameBytes(received, page, 'a page of shared memory')
    })

    withPair('holds a writer back when nobody reads, and lets it go on afterwards', async (a, b) => {
      const chunk = pattern(1 << 20)
      let accepted = 0
      let waiting: Promise<void> | undefined
      while (accepted < 128 && !waiting) {
        const written = Promise.resolve(a.write([chunk]))
        const settled = await Promise.race([written.then(() => true), sleep(300).then(() => false)])
        if (settled) accepted++
        else waiting = written
      }
      check(waiting, `${accepted} MiB were accepted although nobody reads: there is no back-pressure`)
      const received = await readBytes(b, (accepted + 1) * chunk.length)
      await within(waiting, 'the writer goes on once somebody reads')
      checkSameBytes(received.subarray(-chunk.length), chunk, 'the last MiB')
    })

    withPair('shutdown(write) ends the peer’s reads and leaves the way back open, if it is a feature', async (a, b) => {
      if (!a.features.has('shutdown')) {
        const error = await failureOf(() => a.shutdown('write'), 'an undeclared feature is refused')
        check(codeOf(error) === 'FERRY_UNSUPPORTED_FEATURE', `it is refused with UnsupportedFeatureError, not ${error}`)
        return
      }
      const sent = a.write([pattern(5000)])
      const reading = readBytes(b, 5000)
      await sent
      await a.shutdown('write')
      checkSameBytes(await reading, pattern(5000), 'what was written before the shutdown')
      check((await b.read(new Uint8Array(1))) === 0, 'then a read returns 0')
      check((await b.read(new Uint8Array(1))) === 0, 'and again 0')
      const error = await failureOf(() => a.write([pattern(1)]), 'a write after shutdown')
      check(FerryError.isInstance(error), `a write after shutdown fails with an error of ours, not ${error}`)
      const [answer] = await Promise.all([readBytes(a, 3000), b.write([pattern(3000, 9)])])
      checkSameBytes(answer, pattern(3000, 9), 'the way back')
    })

    withPair('close(reason) rejects what is pending and what comes later, with the reason as cause', async (a) => {
      const reason = new Error('enough')
      const reading = failureOf(() => a.read(new Uint8Array(10)), 'the pending read')
      await sleep(5)
      await a.close(reason)
      const calls: [string, Promise<Error>][] = [
        ['the pending read', reading],
        ['a later read', failureOf(() => a.read(new Uint8Array(1)), 'a later read')],
        ['a later write', failureOf(() => a.write([pattern(1)]), 'a later write')],
        ['a later shutdown', failureOf(() => a.shutdown('write'), 'a later shutdown')],
      ]
      for (const [what, call] of calls) {
        const error = await within(call, `${what} rejects`)
        check(codeOf(error) === 'FERRY_CHANNEL_CLOSED', `${what} rejects with ChannelClosedError, not ${error}`)
        check(error.cause === reason, `${what} has the reason as its cause`)
      }
    })

    withPair('close(reason) rejects a write that waits', async (a) => {
      const reason = new Error('enough')
      const chunk = pattern(1 << 20)
      let failure: Promise<Error> | undefined
      for (let i = 0; i < 128 && !failure; i++) {
        const written = Promise.resolve(a.write([chunk]))
        const caught = written.then(
          () => new Error('it was accepted'),
          (error: Error) => error,
        )
        if ((await Promise.race([caught, sleep(200)])) === undefined) failure = caught
      }
      check(failure, 'a write waits when nobody reads')
      await a.close(reason)
      const error = await within(failure, 'the waiting write rejects')
      check(codeOf(error) === 'FERRY_CHANNEL_CLOSED', `it rejects with ChannelClosedError, not ${error}`)
      check(error.cause === reason, 'the reason is its cause')
    })

    withPair('closing twice is closing once', async (a) => {
      await Promise.all([a.close(), a.close(new Error('again'))])
      await within(a.close(), 'the third close')
    })

    withPair('after close the peer gets what was accepted, then the end', async (a, b) => {
      const bytes = pattern(2000)
      const rest = readBytes(b, 1000).then(async (first) => [first, await readBytes(b, 1000)] as const)
      await a.write([bytes])
      await a.close()
      checkSameBytes(concat(await rest), bytes, 'accepted bytes')
      const end = await within(endOf(b), 'the end arrives')
      check(end === 0 || codeOf(end) === 'FERRY_CHANNEL_CLOSED', `a read then returns 0 or rejects, not ${end}`)
    })

    withPair('the peer going away ends a pending read and soon fails writes', async (a, b) => {
      const reading = endOf(a)
      await b.close(new Error('the peer gives up'))
      const end = await within(reading, 'the pending read ends')
      check(end === 0 || codeOf(end) === 'FERRY_CHANNEL_CLOSED', `it returns 0 or ChannelClosedError, not ${end}`)
      const error = await within(
        failureOf(async () => {
          for (let i = 0; i < 200; i++) {
            await a.write([pattern(65_536)])
            await sleep(5)
          }
        }, 'writes to nobody fail'),
        'a write to nobody never hangs',
      )
      check(codeOf(error) === 'FERRY_CHANNEL_CLOSED', `a write to nobody rejects with ChannelClosedError, not ${error}`)
    })

    withPair('refuses a second read while one waits', async (a) => {
      const first = failureOf(() => a.read(new Uint8Array(1)), 'the first read')
      const error = await failureOf(async () => a.read(new Uint8Array(1)), 'a second read')
      check(!FerryError.isInstance(error), 'a second read is a mistake of the caller: no error of the channel')
      await a.close()
      await first
    })

    withPair('carries a QEMUFile', async (a, b) => {
      const writer = createQEMUFileWriter(a)
      const memory = bufferWriter()
      for (const out of [writer, memory]) {
        out.putBe32(0x5145564d)
        out.putBe64(0x0123_4567_89ab_cdefn)
        out.putBufferAsync(pattern(4096))
        out.putStr8('ram')
      }
      const expected = memory.bytes()
      const flushed = writer.flush()
      const reader = createQEMUFileReader(b)
      await reader.fill(expected.length)
      await flushed
      const received = new Uint8Array(expected.length)
      reader.getBuffer(received)
      checkSameBytes(received, expected, 'the bytes of the file')
    })
  })
}

/** How reading ends: 0, or the error. */
async function endOf(channel: Channel): Promise<number | Error> {
  try {
    return await channel.read(new Uint8Array(16))
  } catch (error) {
    return error as Error
  }
}

const codeOf = (error: unknown): string | undefined => (FerryError.isInstance(error) ? error.code : undefined)

export async function readBytes(channel: Channel, count: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(count)
  for (let at = 0; at < count; ) {
    const got = await channel.read(bytes.subarray(at))
    check(got > 0, `the stream ended after ${at} of ${count} bytes`)
    at += got
  }
  return bytes
}

async function writePieces(channel: Channel, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; at += 50_000) await channel.write([bytes.subarray(at, at + 50_000)])
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
