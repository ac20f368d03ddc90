import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { duplexPair, PassThrough } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { fromDuplex } from './from-duplex.ts'

const MiB = 2 ** 20

describe('fromDuplex', () => {
  it('frees what a socket read as soon as it was taken, with nothing lost', async () => {
    const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const sending = connect((server.address() as { port: number }).port, '127.0.0.1')
    const [receiving] = (await once(server, 'connection')) as [Socket]
    const chunks: Uint8Array[] = []
    const read = receiving.read.bind(receiving)
    receiving.read = () => {
      const chunk = read()
      if (chunk) chunks.push(chunk)
      return chunk
    }
    const channel = fromDuplex(receiving)
    const total = 64 * MiB
    const words = new Uint32Array(MiB / 4)
    const sent = (async () => {
      for (let at = 0; at < total; at += MiB) {
        for (let i = 0; i < words.length; i++) words[i] = at / 4 + i
        if (!sending.write(new Uint8Array(words.buffer.slice(0)))) await once(sending, 'drain')
      }
      sending.end()
    })()
    // No multiple of a word, nor a divisor of what a socket reads at once.
    const into = new Uint8Array(100_003)
    let count = 0
    let wrong = 0
    const pattern = new DataView(new ArrayBuffer(4))
    for (;;) {
      const length = await channel.read(into)
      if (length === 0) break
      for (let i = 0; i < length; i += 997) {
        const at = count + i
        pattern.setUint32(0, at >>> 2, true)
        if (into[i] !== pattern.getUint8(at & 3)) wrong++
      }
      count += length
    }
    await sent
    await channel.close()
    server.close()
    expect(count).toBe(total)
    expect(wrong).toBe(0)
    // Node 20 has no way to do it.
    if ('transfer' in ArrayBuffer.prototype) expect(chunks.every((chunk) => chunk.buffer.byteLength === 0)).toBe(true)
  })

  it('leaves buffers alone that another stream may still own', async () => {
    const [ours, theirs] = duplexPair()
    const channel = fromDuplex(ours)
    const page = Buffer.alloc(4096, 7)
    theirs.write(page)
    expect(await channel.read(new Uint8Array(4096))).toBe(4096)
    expect(page.length).toBe(4096)
    expect(page[4095]).toBe(7)
    await channel.close(new Error('done'))
  })

  it('a shutdown of a stream that is gone fails and does not hang', async () => {
    const [ours] = duplexPair()
    const channel = fromDuplex(ours)
    ours.destroy()
    await expect(channel.shutdown('write')).rejects.toMatchObject({ code: 'FERRY_CHANNEL_CLOSED' })
    await channel.close()
  })

  it('the end of a stream stays an end after the stream is destroyed', async () => {
    const ours = new PassThrough()
    const channel = fromDuplex(ours)
    ours.end()
    const destroyed = once(ours, 'close')
    expect(await channel.read(new Uint8Array(1))).toBe(0)
    await destroyed
    expect(await channel.read(new Uint8Array(1))).toBe(0)
    await channel.close()
  })
})
