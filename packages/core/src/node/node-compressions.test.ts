import { deflateSync, zstdCompressSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { nodeCompressions } from './node-compressions.ts'

describe.each(['zlib', 'zstd'] as const)('%s of Node', (method) => {
  const compression = nodeCompressions[method]!
  const piece = (seed: number, length: number) => Uint8Array.from({ length }, (_, i) => (i * seed) >>> 5)

  it('takes every piece apart as soon as it is there, with what earlier ones left', async () => {
    const compressor = compression.createCompressor(1)
    const decompressor = compression.createDecompressor()
    const sizes: number[] = []
    for (let i = 0; i < 6; i++) {
      const input = piece(7, 128 * 4096)
      const packed = await compressor.compress(input)
      sizes.push(packed.length)
      const output = new Uint8Array(input.length)
      await decompressor.decompress(packed, output)
      expect(Buffer.compare(output, input)).toBe(0)
    }
    expect(Math.max(...sizes)).toBeLessThan(128 * 4096)
    compressor.close()
    decompressor.close()
  })

  it.each<[string, Uint8Array, number, RegExp]>([
    ['broken data', Uint8Array.from({ length: 100 }, (_, i) => i * 37), 4096, /is broken/],
    [
      'more than it should hold',
      method === 'zlib' ? deflateSync(new Uint8Array(50 << 20)) : zstdCompressSync(new Uint8Array(50 << 20)),
      4096,
      /holds more than 4096 bytes/,
    ],
    [
      'less than it should hold',
      method === 'zlib' ? deflateSync(new Uint8Array(100)) : zstdCompressSync(new Uint8Array(100)),
      4096,
      /holds 100 bytes instead of 4096/,
    ],
  ])('refuses %s, also the next time', async (_, packed, length, message) => {
    const decompressor = compression.createDecompressor()
    await expect(decompressor.decompress(packed, new Uint8Array(length))).rejects.toThrow(message)
    await expect(decompressor.decompress(packed, new Uint8Array(length))).rejects.toMatchObject({
      code: 'FERRY_COMPRESSION',
    })
    decompressor.close()
  })
})
