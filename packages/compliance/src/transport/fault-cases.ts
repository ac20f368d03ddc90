import { type Channel, createQEMUFileReader, createQEMUFileWriter, FerryError } from '@ferryvm/core'
import { check, checkSameBytes, failureOf, pattern, sleep, type TestRunner, within } from '../runner.ts'
import { type ChannelComplianceOptions, readBytes } from './channel-cases.ts'
import { type Faults, faultyChannel } from './faulty-channel.ts'

/** Around buffers and records: a byte, the end of a page, more than a socket takes at once. */
const OFFSETS = [0, 1, 4096, 100_000]

/** What a channel makes of a bad connection, one case per fault; either end of a pair may have it. */
export function faultCompliance({ describe, it }: TestRunner, options: ChannelComplianceOptions): void {
  const withFaults = (name: string, faults: Faults, run: (a: Channel, b: Channel) => Promise<void>): void => {
    it(name, async () => {
      const [a, b] = await within(options.pair(), 'connecting')
      const bad = faultyChannel(a, faults)
      try {
        await within(run(bad, b), name, 20_000)
      } finally {
        await Promise.all([bad.close(), b.close()])
      }
    })
  }

  describe('a channel over a bad connection', () => {
    const crawl = { readAtMost: 1, writeAtMost: 1 }
    for (const [name, faults] of [
      ['one byte at a time', crawl],
      ['with delays', { delayMs: 3, writeAtMost: 500 }],
    ] as const) {
      withFaults(`carries a QEMUFile ${name}, both ways`, faults, async (a, b) => {
        for (const [from, to] of [
          [a, b],
          [b, a],
        ] as const) {
          const writer = createQEMUFileWriter(from)
          writer.putBe64(0x0123_4567_89ab_cdefn)
          writer.putBufferAsync(pattern(1500))
          const flushed = writer.flush()
          const reader = createQEMUFileReader(to)
          await reader.fill(1508)
          check(reader.getBe64() === 0x0123_4567_89ab_cdefn, 'a number arrives whole')
          const received = new Uint8Array(1500)
          reader.getBuffer(received)
          checkSameBytes(received, pattern(1500), 'bytes arrive in their order')
          await flushed
        }
      })
    }

    for (const cutWriteAfter of OFFSETS) {
      withFaults(
        `cut after ${cutWriteAfter} bytes: no more than those arrive, then both ends notice`,
        { cutWriteAfter },
        async (a, b) => {
          const sent = pattern(300_000)
          const writing = failureOf(() => a.write([sent]), 'a write over a connection that is cut')
          const received = await readToEnd(b)
          check(received.length <= cutWriteAfter, `${received.length} bytes arrived of ${cutWriteAfter}`)
          checkSameBytes(received, sent.subarray(0, received.length), 'what arrived before')
          checkOurs(await writing, 'the write')
          checkOurs(await failureOf(() => a.read(new Uint8Array(1)), 'a read afterwards'), 'a read afterwards')
        },
      )
    }

    withFaults(
      'a peer that stalls is left by close(reason), whose reason is the cause',
      { stallReadAfter: 100 },
      async (a, b) => {
        const reading = readBytes(a, 100)
        await b.write([pattern(200)])
        checkSameBytes(await reading, pattern(200).subarray(0, 100), 'what came before')
        const reason = new Error('waited long enough')
        const stalled = failureOf(() => a.read(new Uint8Array(1)), 'the read that stalls')
        await sleep(20)
        await a.close(reason)
        check((await within(stalled, 'the stalled read ends')).cause === reason, 'the reason is its cause')
        const end = await readToEnd(b)
        check(end.length === 0, 'and the peer notices')
      },
    )

    withFaults(
      'a reader that stalls holds the writer, and close(reason) frees it',
      { stallWriteAfter: 1000 },
      async (a, b) => {
        const writing = failureOf(() => a.write([pattern(5000)]), 'the write that stalls')
        checkSameBytes(await readBytes(b, 1000), pattern(5000).subarray(0, 1000), 'what came before')
        await a.close(new Error('waited long enough'))
        checkOurs(await within(writing, 'the stalled write ends'), 'the write')
      },
    )

    for (const endWriteAfter of OFFSETS) {
      withFaults(
        `half-closed after ${endWriteAfter} bytes: an end, and the way back stays open`,
        { endWriteAfter },
        async (a, b) => {
          if (!a.features.has('shutdown')) return
          const writing = a.write([pattern(200_000)])
          checkSameBytes(await readToEnd(b), pattern(200_000).subarray(0, endWriteAfter), 'what was sent before')
          await writing
          const [answer] = await Promise.all([readBytes(a, 3000), b.write([pattern(3000, 7)])])
          checkSameBytes(answer, pattern(3000, 7), 'the way back')
        },
      )
    }

    withFaults('a corrupt byte changes no other', { corruptWriteAt: 70_000 }, async (a, b) => {
      const expected = pattern(150_000)
      const [received] = await Promise.all([readBytes(b, expected.length), a.write([expected])])
      const differ = received.reduce((count, byte, i) => count + Number(byte !== expected[i]), 0)
      check(differ === 1 && received[70_000] === (expected[70_000]! ^ 1), `${differ} bytes differ`)
    })
  })
}

const checkOurs = (error: Error, what: string): void =>
  check(FerryError.isInstance(error), `${what} fails with a FerryError, not ${error}`)

/** Whatever comes until the end, or until the connection breaks. */
async function readToEnd(channel: Channel): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  const into = new Uint8Array(65_536)
  try {
    for (let count = 1; count > 0; ) {
      count = await within(channel.read(into), 'a read ends')
      chunks.push(into.slice(0, count))
    }
  } catch (error) {
    checkOurs(error as Error, 'a read over a connection that is cut')
  }
  const whole = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.length
  }
  return whole
}
