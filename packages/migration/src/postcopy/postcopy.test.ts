import {
  bufferReader,
  bufferWriter,
  drive,
  GuestMemory,
  PAGE_BYTES,
  type StreamCommand,
  StreamCommandError,
} from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { RamLoader } from '../ram/ram-load.ts'
import { RamLoadError } from '../ram/ram-load-error.ts'
import { RamSaver } from '../ram/ram-save.ts'
import { ReturnPathSender, receiveReturnPath } from '../return-path.ts'
import { arrivingPages, receivedBitmap } from './arriving-pages.ts'
import { PageSource } from './page-source.ts'
import { advisePayload, checkAdvise, discardPayloads, parseDiscard, parseRecvBitmap } from './postcopy-commands.ts'

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
const command = (payload: Uint8Array): StreamCommand => ({
  name: 'POSTCOPY_RAM_DISCARD',
  id: 6,
  payload,
  offset: 0,
  refuse: (why) => new StreamCommandError(6, why, 0),
  leave() {},
})

async function source(pages = 100) {
  const memory = new GuestMemory()
  const block = memory.addBlock('pc.ram', pages * PAGE_BYTES)
  for (let page = 0; page < pages; page += 2) block.bytes.fill(page + 1, page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
  const saver = new RamSaver({ memory, migratableBlocks: () => [block], flushWriteTlb: async () => {} })
  await saver.setup(bufferWriter())
  const { blocks, encoders } = await saver.handOver()
  const out = bufferWriter()
  const from = new PageSource(blocks, encoders, () => false)
  from.connect(out)
  return { block, blocks, from, out }
}

function destination(pages = 100) {
  const memory = new GuestMemory()
  const block = memory.addBlock('pc.ram', pages * PAGE_BYTES)
  const loader = new RamLoader(memory, () => [block])
  loader.begin(arrivingPages(memory.missing, loader.stats))
  memory.missing.begin(() => {}, 1)
  return { memory, block, loader, first: block.offset / PAGE_BYTES }
}

describe('commands of postcopy (ram.md section 10)', () => {
  it('are the bytes of the reference', () => {
    const { block } = destination(4096)
    const [payload] = [...discardPayloads(block, [{ startBytes: 0, lengthBytes: 0x100_0000 }])]
    expect(hex(payload!)).toBe(`0006${Buffer.from('pc.ram').toString('hex')}0000000000000000000000000001000000`)
    expect(hex(advisePayload())).toBe('00000000000010000000000000001000')
    expect(parseDiscard(command(payload!), [block])).toEqual({
      block,
      ranges: [{ startBytes: 0, lengthBytes: 0x100_0000 }],
    })
  })

  it('a list of ranges takes as many commands as it needs, twelve in each', async () => {
    const { blocks, from, block } = await source()
    const [{ dirty }] = blocks as [(typeof blocks)[number]]
    dirty.fill(0)
    for (let page = 0; page < 60; page += 2) dirty[page >>> 5]! |= 1 << (page & 31)
    const { ranges } = [...from.discards()][0]!
    expect(ranges.map(({ startBytes }) => startBytes / PAGE_BYTES)).toEqual(Array.from({ length: 30 }, (_, i) => 2 * i))
    const payloads = [...discardPayloads(block, ranges)]
    expect(payloads.map((p) => parseDiscard(command(p), [block]).ranges.length)).toEqual([12, 12, 6])
  })

  it.each<[string, string, RegExp]>([
    ['too short', '0001610000', /only 5 bytes/],
    ['of another version', `0106${'61'.repeat(6)}00${'00'.repeat(16)}`, /version 1/],
    ['without its NUL', `0006${'61'.repeat(6)}01${'00'.repeat(16)}`, /no list of ranges/],
    ['of half a range', `0006${'61'.repeat(6)}00${'00'.repeat(24)}`, /no list of ranges/],
    ['of another block', `0006${'61'.repeat(6)}00${'00'.repeat(16)}`, /no RAM block "aaaaaa"/],
    ['beyond the block', '000670632e72616d0000000000000000000000000100000000', /no whole pages/],
    ['of half a page', '000670632e72616d0000000000000000000000000000000800', /no whole pages/],
  ])('a discard %s is refused', (_, bytes, problem) => {
    const { block } = destination()
    expect(() => parseDiscard(command(Uint8Array.from(Buffer.from(bytes, 'hex'))), [block])).toThrow(problem)
  })

  it('page sizes that are not ours, and bitmaps of nothing, are refused', () => {
    const { block } = destination()
    expect(() => checkAdvise(command(new Uint8Array(16)))).toThrow(/pages of 0 bytes/)
    expect(() => checkAdvise(command(new Uint8Array(0)))).toThrow(/dirty-bitmaps/)
    expect(() => parseRecvBitmap(command(Uint8Array.of(3, 97)), [block])).toThrow(/no name/)
  })
})

describe('pages behind the guest', () => {
  it('arrive once: what is here stays as it is', async () => {
    const { from, out } = await source()
    const { memory, block, loader, first } = destination()
    memory.missing.add(first, 50)
    block.bytes.fill(0xee)
    await from.complete(out)
    const f = bufferReader(out.bytes())
    await drive(f, loader.load(f, 4))
    expect(memory.missing.count).toBe(0)
    expect([block.bytes[0], block.bytes[PAGE_BYTES], block.bytes[50 * PAGE_BYTES]]).toEqual([1, 0, 0xee])
    expect(loader.stats).toEqual({ zeroPages: 25, normalPages: 25 })
  })

  it('what is waited for goes first, the rest follows from there', async () => {
    const { from, out } = await source(8)
    expect(from.request('pc.ram', 4 * PAGE_BYTES, PAGE_BYTES)).toBeUndefined()
    expect(from.request(undefined, 6 * PAGE_BYTES, PAGE_BYTES)).toBeUndefined()
    await from.complete(out)
    expect(pagesOf(out.bytes())).toEqual([4, 6, 7, 0, 1, 2, 3, 5])
    expect(from.request('pc.ram', 4 * PAGE_BYTES, PAGE_BYTES)).toBeUndefined()
    await from.complete(out)
    expect(pagesOf(out.bytes()), 'it was sent').toEqual([])
    expect(from.stats.requests).toBe(3)
  })

  it('have a channel of their own for what is waited for, where the peer wants one', async () => {
    const { from, out } = await source(8)
    const urgent = bufferWriter()
    from.connect(out, urgent)
    from.request('pc.ram', 2 * PAGE_BYTES, PAGE_BYTES)
    await from.complete(out)
    await from.endUrgent()
    expect(pagesOf(urgent.bytes())).toEqual([2])
    expect(pagesOf(out.bytes())).toEqual([3, 4, 5, 6, 7, 0, 1])
  })

  it('after a break only what did not arrive is sent again, and blocks are named again', async () => {
    const { from, out, block } = await source(70)
    const { memory, first } = destination(70)
    memory.missing.add(first, 70)
    await from.complete(out)
    out.bytes()
    for (let page = 0; page < 64; page++) memory.missing.arrived(first + page)
    const bitmap = receivedBitmap(memory.missing, memory.blocks[0]!)
    expect(hex(bitmap)).toBe(`${'ff'.repeat(8)}${'00'.repeat(8)}`)
    from.received(block, bitmap)
    expect(from.remainingBytes).toBe(6 * PAGE_BYTES)
    from.connect(out)
    await from.complete(out)
    expect(pagesOf(out.bytes())).toEqual([64, 65, 66, 67, 68, 69])
  })

  it.each<[string, Parameters<PageSource['request']>, RegExp]>([
    ['no block yet', [undefined, 0, PAGE_BYTES], /none before/],
    ['an unknown block', ['vga', 0, PAGE_BYTES], /no RAM block "vga"/],
    ['half a page', ['pc.ram', 0, 512], /no pages/],
    ['beyond the block', ['pc.ram', 99 * PAGE_BYTES, 2 * PAGE_BYTES], /no pages/],
  ])('a request of %s is refused', async (_, request, problem) => {
    const { from } = await source()
    expect(from.request(...request)).toMatch(problem)
  })

  it('a page filled with something, and kinds of records that postcopy does not know, are errors', async () => {
    for (const bytes of ['0000000000000002067063' + '2e72616d01', '0000000000000040067063' + '2e72616d0100030110de']) {
      const { loader } = destination()
      const f = bufferReader(Uint8Array.from(Buffer.from(bytes, 'hex')))
      await expect(Promise.resolve().then(() => drive(f, loader.load(f, 4)))).rejects.toThrow(RamLoadError)
    }
  })
})

describe('the return path in postcopy (ram.md section 10)', () => {
  const sent = async (write: (sender: ReturnPathSender) => Promise<void>) => {
    const out = bufferWriter()
    await write(new ReturnPathSender(out))
    return out.bytes()
  }

  it('is the bytes of the reference', async () => {
    const bytes = await sent(async (sender) => {
      await sender.requestPages('pc.ram', 0xc0000, 0x1000)
      await sender.requestPages('pc.ram', 0x55000, 0x1000)
      await sender.recvBitmap('pc.ram', Uint8Array.of(1, 2))
      await sender.resumeAck()
    })
    expect(hex(bytes)).toBe(
      '0003001300000000000c0000000010000670632e72616d' +
        '0004000c000000000005500000001000' +
        '000500070670632e72616d000000000000000201020123456789abcdef' +
        '0006000400000001',
    )
  })

  it('brings requests, bitmaps and the word of a resume', async () => {
    const bytes = await sent(async (sender) => {
      await sender.requestPages('pc.ram', 4096, 4096)
      await sender.requestPages('pc.ram', 8192, 4096)
      await sender.recvBitmap('pc.ram', new Uint8Array(8).fill(0xff))
      await sender.resumeAck()
      await sender.shut(0)
    })
    const seen: unknown[] = []
    await receiveReturnPath(bufferReader(bytes), {
      request: (...request) => void seen.push(request),
      bitmap: (idstr, bitmap) => void seen.push([idstr, bitmap.length]),
      resumeAck: () => seen.push('ack'),
    })
    expect(seen).toEqual([['pc.ram', 4096, 4096], [undefined, 8192, 4096], ['pc.ram', 8], 'ack'])
  })

  it.each<[string, string, RegExp]>([
    ['a bitmap without end mark', '00050007' + '0670632e72616d' + '0000000000000000' + '00'.repeat(8), /ends with 0x0/],
    [
      'a bitmap of an exabyte',
      '00050007' + '0670632e72616d' + '1000000000000000',
      /bitmap of 1152921504606846976 bytes/,
    ],
    ['a request with a broken name', '00030010' + '00'.repeat(12) + '09616161', /proper name/],
    ['a request that is too short', '00030004' + '00'.repeat(4), /with 4 bytes/],
    ['a long message', '00030400', /with 1024 bytes/],
    ['a request nobody can serve', '0004000c' + '00'.repeat(12), /because/],
  ])('%s is an error', async (_, bytes, problem) => {
    const reading = receiveReturnPath(bufferReader(Uint8Array.from(Buffer.from(bytes, 'hex'))), {
      request: () => 'because',
      bitmap: () => undefined,
    })
    await expect(reading).rejects.toThrow(problem)
  })
})

/** Page numbers of the records, in order. */
function pagesOf(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const pages: number[] = []
  for (let at = 0; at < bytes.length; ) {
    const low = view.getUint32(at + 4)
    at += 8
    if (low === 0x10) continue
    if (!(low & 0x20)) at += 1 + bytes[at]!
    at += low & 2 ? 1 : PAGE_BYTES
    pages.push(low >>> 12)
  }
  return pages
}
