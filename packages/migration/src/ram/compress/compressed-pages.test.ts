import { deflateSync } from 'node:zlib'
import { bufferReader, bufferWriter, drive, GuestMemory, PAGE_BYTES } from '@ferryvm/core'
import { nodeCompressions } from '@ferryvm/core/node'
import { describe, expect, it } from 'vitest'
import { rawPages, zeroPages } from '../plain-pages.ts'
import { RamLoader } from '../ram-load.ts'
import { RamSaver } from '../ram-save.ts'
import { createZeroPageTest } from '../zero-page.ts'
import { CompressedPages, compressedPageDecoder } from './compressed-pages.ts'

const zlib = nodeCompressions.zlib!

function machine() {
  const m = new GuestMemory()
  const big = m.addBlock('big', 60 * PAGE_BYTES)
  const small = m.addBlock('small', 5 * PAGE_BYTES)
  return { m, big, small, blocks: [big, small], isZero: createZeroPageTest(m) }
}
async function load(bytes: Uint8Array) {
  const to = machine()
  const loader = new RamLoader(to.m, () => to.blocks)
  loader.begin({ decoders: [compressedPageDecoder(zlib, loader.stats)] })
  const reader = bufferReader(bytes)
  while (reader.available > 0) await drive(reader, loader.load(reader, 4))
  return to
}
const record = (length: number, data: Uint8Array) =>
  Uint8Array.from([0, 0, 0, 0, 0, 0, 1, 0, 5, ...Buffer.from('small'), 0, 0, length >> 8, length & 0xff, ...data])

describe('compress (ram.md section 6)', () => {
  it.each([
    ['waiting for a worker', true],
    ['sending pages as they are when none is free', false],
  ])('brings every page over, %s', async (_, wait) => {
    const from = machine()
    for (const block of from.blocks) {
      for (let page = 0; page < block.sizeBytes / PAGE_BYTES; page++) {
        if (page % 7 !== 3) block.bytes.fill(page + 1, page * PAGE_BYTES + 5, (page + 1) * PAGE_BYTES)
      }
    }
    const parameters = { 'compress-level': 1, 'compress-threads': 3, 'compress-wait-thread': wait }
    const pages = new CompressedPages({ zlib, isZero: from.isZero, parameters, firstPassOnly: false })
    const saver = new RamSaver({ memory: from.m, migratableBlocks: () => from.blocks, flushWriteTlb: async () => {} })
    saver.use([pages, zeroPages(from.isZero), rawPages()])
    const f = bufferWriter()
    await saver.setup(f)
    await saver.iterate(f)
    from.big.bytes[0] = 99
    from.m.written(from.big.offset, 1)
    await saver.complete(f)
    const bytes = f.bytes()
    const to = await load(bytes)
    from.blocks.forEach((block, i) => {
      expect(Buffer.compare(to.blocks[i]!.bytes, block.bytes)).toBe(0)
    })
    const { compression } = pages.report()
    expect(compression.pages + saver.stats.normalPages + saver.stats.zeroPages).toBe(66)
    expect(compression['compression-rate']).toBeGreaterThan(50)
    if (wait) expect(bytes.length).toBeLessThan(4 * PAGE_BYTES)
  })

  const fine = deflateSync(new Uint8Array(PAGE_BYTES).fill(7))
  it.each<[string, Uint8Array, RegExp]>([
    ['no bytes', record(0, new Uint8Array()), /small: a compressed page of 0 bytes/],
    ['more bytes than a page can need', record(4111, new Uint8Array(4111)), /a compressed page of 4111 bytes/],
    ['no zlib stream', record(9, new Uint8Array(9)), /cannot be taken apart/],
    ['half a stream', record(fine.length - 5, fine.subarray(0, -5)), /cannot be taken apart/],
    ['half a page', record(...measured(deflateSync(new Uint8Array(2048)))), /2048 bytes instead of 4096/],
    ['two pages', record(...measured(deflateSync(new Uint8Array(8192)))), /cannot be taken apart/],
  ])('refuses a page with %s', async (_, bytes, message) => {
    await expect(load(bytes)).rejects.toThrow(message)
  })
})

function measured(data: Uint8Array): [number, Uint8Array] {
  return [data.length, data]
}
