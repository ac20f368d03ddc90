import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Channel } from '../channel/channel.ts'
import { createChannelPair } from '../channel/channel-pair.ts'
import { StreamTruncatedError } from '../errors/stream-error.ts'
import { bufferReader, createQEMUFileReader, drive } from './qemufile-reader.ts'
import { bufferWriter, createQEMUFileWriter } from './qemufile-writer.ts'

const chunks = fc.array(
  fc.oneof(
    fc.record({ put: fc.constant('byte' as const), value: fc.integer({ min: 0, max: 255 }) }),
    fc.record({ put: fc.constant('be32' as const), value: fc.integer({ min: 0, max: 2 ** 32 - 1 }) }),
    fc.record({ put: fc.constant('be64' as const), value: fc.bigInt(0n, 2n ** 64n - 1n) }),
    fc.record({ put: fc.constant('buffer' as const), value: fc.integer({ min: 0, max: 70_000 }) }),
    fc.record({ put: fc.constant('page' as const), value: fc.integer({ min: 1, max: 5000 }) }),
    fc.record({ put: fc.constant('flush' as const), value: fc.constant(0) }),
  ),
  { maxLength: 40 },
)
const pattern = (length: number) => Uint8Array.from({ length }, (_, i) => (i * 7 + length) & 0xff)

describe('QEMUFile', () => {
  it('brings over what was put, in any mixture, over a channel and in memory', async () => {
    await fc.assert(
      fc.asyncProperty(chunks, async (steps) => {
        const [near, far] = createChannelPair({ bufferBytes: 1000 })
        const [writer, memory] = [createQEMUFileWriter(near), bufferWriter()]
        const write = async () => {
          for (const { put, value } of steps) {
            for (const w of [writer, memory]) {
              if (put === 'byte') w.putByte(value)
              if (put === 'be32') w.putBe32(value)
              if (put === 'be64') w.putBe64(value)
              if (put === 'buffer') w.putBuffer(pattern(value))
              if (put === 'page') w.putBufferAsync(pattern(value))
            }
            if (put === 'flush') await writer.flush()
            expect(writer.position).toBe(memory.position)
          }
          await writer.flush()
          expect(writer.buffered).toBe(0)
          await near.shutdown('write')
        }
        const received: number[] = []
        const read = async () => {
          const reader = createQEMUFileReader(far)
          for (;;) {
            await reader.fill(1)
            if (reader.available === 0) break
            const part = new Uint8Array(reader.available)
            reader.getBuffer(part)
            for (const byte of part) received.push(byte)
          }
          expect(reader.ended).toBe(true)
          expect(reader.position).toBe(received.length)
        }
        await Promise.all([write(), read()])
        const all = memory.bytes()
        expect(Buffer.from(received).equals(all)).toBe(true)
      }),
      { numRuns: 60 },
    )
  })

  it('is big-endian, and cuts numbers to their width', () => {
    const out = bufferWriter()
    out.putByte(0x101)
    out.putBe16(-2)
    out.putBe32(-70000)
    out.putBe64(-1n)
    out.putStr8('ram')
    expect(Buffer.from(out.bytes()).toString('hex')).toBe('01fffefffeee90ffffffffffffffff0372616d')
    expect(() => out.putStr8('x'.repeat(256))).toThrow(RangeError)
  })

  it('a page is a reference until it is flushed: no copy, but its content then', async () => {
    const written: Uint8Array[] = []
    const writer = createQEMUFileWriter({ ...sink, write: (buffers) => void written.push(...buffers) })
    const page = new Uint8Array(4096)
    writer.putByte(1)
    writer.putBufferAsync(page)
    writer.putByte(2)
    page[0] = 99
    await writer.flush()
    expect(written).toHaveLength(3)
    expect(written[1]).toBe(page)
  })

  it('does not touch buffers that a slow channel still holds', async () => {
    const held: Uint8Array[] = []
    let settle = () => {}
    const writer = createQEMUFileWriter({
      ...sink,
      write(buffers) {
        held.push(...buffers)
        return new Promise<void>((resolve) => {
          settle = resolve
        })
      },
    })
    writer.putBe32(0x11111111)
    const flushed = writer.flush()
    for (let i = 0; i < 100_000; i++) writer.putByte(0x22)
    expect(writer.buffered).toBe(100_004)
    expect([...held[0]!]).toEqual([0x11, 0x11, 0x11, 0x11])
    settle()
    await flushed
    expect(writer.buffered).toBe(100_000)
  })

  it('after a failed flush every later one fails with the same error', async () => {
    const error = new Error('cut')
    const writer = createQEMUFileWriter({ ...sink, write: () => Promise.reject(error) })
    writer.putByte(1)
    await expect(writer.flush()).rejects.toBe(error)
    writer.putByte(2)
    expect(() => writer.flush()).toThrow(error)
  })

  it('taking more than is there names the offset; peeking says -1', () => {
    const reader = bufferReader(Uint8Array.of(1, 2, 3), 0x100)
    expect(reader.getByte()).toBe(1)
    expect([reader.peekByte(), reader.peekByte(1), reader.peekByte(2)]).toEqual([2, 3, -1])
    expect(() => reader.getBe32()).toThrow(StreamTruncatedError)
    expect(() => reader.getBe32()).toThrow(expect.objectContaining({ offset: 0x101, wanted: 4, available: 2 }))
    reader.skip(2)
    expect(() => reader.getByte()).toThrow('(stream offset 0x103)')
  })

  it('reads without a promise what is here, and more than its buffer holds', async () => {
    const big = pattern(300_000)
    const [near, far] = createChannelPair({ bufferBytes: 1 << 20 })
    near.write([big])
    const reader = createQEMUFileReader(far)
    expect(reader.fill(10)).toBeUndefined()
    reader.skip(10)
    expect(reader.fill(250_000)).toBeUndefined()
    expect(reader.available).toBeGreaterThanOrEqual(250_000)
    const part = new Uint8Array(250_000)
    reader.getBuffer(part)
    expect(Buffer.from(part).equals(big.subarray(10, 250_010))).toBe(true)
  })
})

describe('drive', () => {
  it('feeds a coroutine from a channel, and hands it the errors of the channel', async () => {
    const [near, far] = createChannelPair()
    const reader = createQEMUFileReader(far)
    const coroutine = (function* () {
      const values: number[] = []
      try {
        for (let i = 0; i < 3; i++) {
          if (reader.available < 4) yield 4
          values.push(reader.getBe32())
        }
      } catch (error) {
        throw new Error(`after ${values.length}`, { cause: error })
      }
    })()
    const done = drive(reader, coroutine)
    near.write([Uint8Array.of(0, 0, 0, 1, 0)])
    near.write([Uint8Array.of(0, 0, 2)])
    const reason = new Error('gone')
    setTimeout(() => void far.close(reason), 5)
    await expect(done).rejects.toMatchObject({
      message: 'after 2',
      cause: { code: 'FERRY_CHANNEL_CLOSED', cause: reason },
    })
  })
})

const sink: Channel = { features: new Set(), read: () => 0, write() {}, async shutdown() {}, async close() {} }
