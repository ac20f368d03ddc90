import { bufferReader, bufferWriter, drive, FerryError, GuestMemory, PAGE_BYTES } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { RamLoader } from './ram-load.ts'
import { RamSaver } from './ram-save.ts'
import { createZeroPageTest, isZeroPageScalar } from './zero-page.ts'

const be64 = (n: number) => [...new Uint8Array(new BigUint64Array([BigInt(n)]).buffer)].reverse()
const str8 = (s: string) => [s.length, ...new TextEncoder().encode(s)]
const EOS = be64(0x10)

function memory() {
  const m = new GuestMemory()
  const small = m.addBlock('small', 2 * PAGE_BYTES)
  const big = m.addBlock('big', 40 * PAGE_BYTES)
  return { m, small, big, blocks: [big, small] }
}
function saver(made = memory(), flushWriteTlb: () => Promise<void> = async () => {}) {
  const syncs: number[] = []
  const ram = new RamSaver(
    { memory: made.m, migratableBlocks: () => made.blocks, flushWriteTlb },
    { onSync: (n) => syncs.push(n), passMs: Number.POSITIVE_INFINITY },
  )
  return { ...made, ram, syncs }
}
async function load(bytes: number[] | Uint8Array, made = memory(), version = 4) {
  const loader = new RamLoader(made.m, () => made.blocks)
  loader.begin()
  const reader = bufferReader(Uint8Array.from(bytes))
  while (reader.available > 0) await drive(reader, loader.load(reader, version))
  return { ...made, loader }
}
const fails = (bytes: number[], version?: number) =>
  load(bytes, memory(), version).then(
    () => 'loaded',
    (e: Error) => (FerryError.isInstance(e) ? e.message : `not ours: ${e.stack}`),
  )

describe('the zero page test', () => {
  it('sees every single bit, as the loop does', () => {
    const { m, big } = memory()
    const isZero = createZeroPageTest(m)
    const page = new Uint8Array(m.buffer, big.offset + PAGE_BYTES, PAGE_BYTES)
    const words = new BigUint64Array(m.buffer, big.offset + PAGE_BYTES, 512)
    big.bytes[0] = 1 // neighbours do not count
    big.bytes[2 * PAGE_BYTES] = 1
    expect(isZero(big.offset)).toBe(false)
    expect(isZero(big.offset + PAGE_BYTES)).toBe(true)
    for (let at = 0; at < PAGE_BYTES; at++) {
      page[at] = 0x80 >> (at & 7)
      expect(isZero(big.offset + PAGE_BYTES), `byte ${at}`).toBe(false)
      expect(isZeroPageScalar(words)).toBe(false)
      page[at] = 0
    }
    expect(isZero(big.offset + PAGE_BYTES)).toBe(true)
  })
})

describe('saving (ram.md sections 1 to 3)', () => {
  it('lists blocks and totals, then zero and data pages, naming a block once', async () => {
    const { ram, big, small, syncs } = saver()
    big.bytes.fill(7, 3 * PAGE_BYTES, 3 * PAGE_BYTES + 10)
    small.bytes[PAGE_BYTES] = 9
    const f = bufferWriter()
    await ram.setup(f)
    expect([...f.bytes()]).toEqual([
      ...be64((42 * PAGE_BYTES) | 4),
      ...[...str8('big'), ...be64(40 * PAGE_BYTES)],
      ...[...str8('small'), ...be64(2 * PAGE_BYTES)],
      ...EOS,
    ])
    expect(ram.remainingBytes).toBe(42 * PAGE_BYTES)
    expect(await ram.iterate(f)).toBe(true)
    const bytes = f.bytes()
    expect([...bytes.subarray(0, 13)]).toEqual([...be64(2), ...str8('big'), 0])
    expect([...bytes.subarray(13, 22)]).toEqual([...be64(0x1022), 0])
    expect([...bytes.subarray(31, 39)]).toEqual(be64(0x3028))
    expect([...bytes.subarray(-8)]).toEqual(EOS)
    expect(ram.stats).toMatchObject({ zeroPages: 40, normalPages: 2, syncCount: 1, dirtyPages: 0 })
    expect(syncs).toEqual([1])
    await ram.complete(f)
    expect([...f.bytes()]).toEqual(EOS) // nothing was written since
    expect(syncs).toEqual([1, 2])
  })

  it('sends again what was written meanwhile, also a page that became zero', async () => {
    const { ram, big, m } = saver()
    const f = bufferWriter()
    big.bytes[0] = 1
    await ram.setup(f)
    await ram.iterate(f)
    f.bytes()
    big.bytes[0] = 0
    m.written(big.offset, 1)
    big.bytes[39 * PAGE_BYTES] = 5
    m.written(big.offset + 39 * PAGE_BYTES, 1)
    expect(ram.remainingBytes).toBe(0) // not known yet
    await ram.sync()
    expect(ram.remainingBytes).toBe(2 * PAGE_BYTES)
    await ram.complete(f)
    const bytes = f.bytes()
    expect([...bytes.subarray(0, 13)]).toEqual([...be64(2), ...str8('big'), 0])
    expect([...bytes.subarray(13, 21)]).toEqual(be64((39 * PAGE_BYTES) | 0x28))
    expect(bytes.length).toBe(13 + 8 + PAGE_BYTES + 8)
  })

  it('takes the log before it waits for the write TLBs, and reads pages after', async () => {
    const order: string[] = []
    const made = memory()
    const { ram, big, m } = saver(made, async () => {
      order.push('flush')
      // A hart that still had the page in its write TLB wrote it without a mark, until now.
      big.bytes[0] = 0x77
    })
    const f = bufferWriter()
    m.dirtyLog.enabled = true
    await ram.setup(f)
    expect(order).toEqual(['flush'])
    await ram.iterate(f)
    const there = await load(f.bytes())
    expect(there.big.bytes[0]).toBe(0x77)
  })

  it('a second migration begins with everything, and the log is off in between', async () => {
    const { ram, m } = saver()
    const f = bufferWriter()
    await ram.setup(f)
    expect(m.dirtyLog.enabled).toBe(true)
    await ram.iterate(f)
    ram.cleanup()
    expect(m.dirtyLog.enabled).toBe(false)
    await ram.setup(f)
    expect(ram.remainingBytes).toBe(42 * PAGE_BYTES)
    ram.cleanup()
  })
})

describe('loading (ram.md sections 1 and 2)', () => {
  it('applies pages in order; a zero page clears what was there', async () => {
    const page = new Array(PAGE_BYTES).fill(3)
    const made = await load([
      ...[...be64(8), ...str8('small'), ...page],
      ...[...be64(0x1028), ...page],
      ...[...be64(0x22), 0],
      ...EOS,
      ...[...be64(0x2028 - 0x2000 + 0x0000), ...new Array(PAGE_BYTES).fill(4)], // CONTINUE goes over sections
      ...EOS,
    ])
    expect([made.small.bytes[0], made.small.bytes[PAGE_BYTES]]).toEqual([4, 3])
    expect(made.loader.stats).toEqual({ zeroPages: 1, normalPages: 3 })
  })

  it.each<[string, number[], RegExp]>([
    ['an unknown block', [...be64(8), ...str8('huge')], /huge: this machine has no RAM block of that name/],
    [
      'a page beyond the end',
      [...be64(0x2008), ...str8('small')],
      /small: a page at 0x2000 of 0x2000 bytes.*offset 0x0/,
    ],
    ['a page far beyond', [0xff, ...be64(8).slice(1), ...str8('small')], /small: a page at 0xff000000000000/],
    ['CONTINUE without a block', [...be64(0x28)], /continues the previous block, but there was none/],
    ['a fill byte', [...be64(2), ...str8('big'), 1], /big: a zero page is filled with 0x1/],
    ['two kinds at once', [...be64(0xa)], /ZERO\|PAGE \(0xa\)/],
    ['no kind', [...be64(0x1000)], /no flag/],
    ['XBZRLE in another encoding', [...be64(0x40), ...str8('big'), 2, 0, 0], /big: an XBZRLE page in encoding 2/],
    ['XBZRLE longer than a page', [...be64(0x40), ...str8('big'), 1, 0x10, 1], /big: an XBZRLE page of 4097 bytes/],
    [
      'XBZRLE that ends early',
      [...be64(0x40), ...str8('big'), 1, 0, 2, 5, 3],
      /cannot be applied: it ends within a run/,
    ],
    ['compressed pages', [...be64(0x100)], /COMPRESS_PAGE/],
    ['MULTIFD_FLUSH', [...be64(0x200)], /MULTIFD_FLUSH/],
    ['EOS that continues', [...be64(0x30)], /EOS\|CONTINUE/],
    [
      'a block of another size',
      [...be64(0x3004), ...str8('small'), ...be64(0x3000)],
      /small: the sender's block has 0x3000 bytes, ours 0x2000/,
    ],
    [
      'a list beyond its total',
      [...be64(0x1004), ...str8('small'), ...be64(0x2000)],
      /larger than the announced total/,
    ],
    [
      'a list that never ends',
      [...be64(0x7fff_f004), ...str8('small'), ...be64(0x2000), ...str8('small'), ...be64(0x2000)],
      /lists it twice/,
    ],
    ['an odd name', [...be64(8), 3, 0x1b, 0xff, 0x41], /\?\?A: this machine/],
  ])('%s', async (_, bytes, message) => {
    expect(await fails(bytes)).toMatch(message)
  })

  it('only version 4', async () => {
    expect(await fails([...EOS], 3)).toMatch(/version 3/)
    expect(await fails([...EOS])).toBe('loaded')
  })

  it('what was saved, cut anywhere, is an error', async () => {
    const { ram, small } = saver()
    small.bytes.fill(1)
    const f = bufferWriter()
    await ram.setup(f)
    await ram.iterate(f)
    const bytes = f.bytes()
    const startBytes = 8 + 4 + 8 + 6 + 8 + 8
    for (let cut = 1; cut < bytes.length; cut += cut < 500 ? 1 : 97) {
      if (cut === startBytes) continue
      expect(await fails([...bytes.subarray(0, cut)]), `cut at ${cut}`).toMatch(/the stream ended/)
    }
  })
})
