import { bufferReader, bufferWriter, drive, GuestMemory, PAGE_BYTES } from '@ferryvm/core'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { rawPages, zeroPages } from '../plain-pages.ts'
import { RamLoader } from '../ram-load.ts'
import { RamSaver } from '../ram-save.ts'
import { createZeroPageTest } from '../zero-page.ts'
import { PageCache } from './page-cache.ts'
import { createXbzrleDecode, xbzrleDecode } from './xbzrle-decode.ts'
import { XBZRLE_OVERFLOW, xbzrleEncode } from './xbzrle-encode.ts'
import { XbzrlePages } from './xbzrle-pages.ts'

const page = (fill: (i: number) => number) => Uint8Array.from({ length: PAGE_BYTES }, (_, i) => fill(i))

/** Both encoders; they have to agree. */
function encode(before: Uint8Array, after: Uint8Array): number[] | 'overflow' {
  const out = new Uint8Array(PAGE_BYTES)
  const length = xbzrleEncode(before, after, out)
  const cache = new PageCache(2)
  cache.claim(1, 1, 0).set(before)
  expect(cache.encode(1, after)).toBe(length)
  if (length === XBZRLE_OVERFLOW) return 'overflow'
  expect([...cache.encoded(length)]).toEqual([...out.subarray(0, length)])
  cache.update(1)
  expect(cache.contents(1)).toEqual(after)
  return [...out.subarray(0, length)]
}

const memory = new GuestMemory()
const block = memory.addBlock('ram', 2 * PAGE_BYTES)
const decodeInMemory = createXbzrleDecode(memory)
/** Both decoders; they have to agree. */
function decode(encoded: number[], before: Uint8Array): { problem?: string; page: Uint8Array } {
  const bytes = Uint8Array.from(encoded)
  const plain = before.slice()
  block.bytes.set(before, PAGE_BYTES)
  block.bytes.fill(0x77, 0, PAGE_BYTES)
  const problem = decodeInMemory(bytes, block.offset + PAGE_BYTES)
  expect(xbzrleDecode(bytes, plain)).toBe(problem)
  if (problem === undefined) expect([...block.bytes.subarray(PAGE_BYTES)]).toEqual([...plain])
  expect(block.bytes.subarray(0, PAGE_BYTES).every((b) => b === 0x77)).toBe(true)
  return { problem, page: plain }
}

describe('the encoding (ram.md section 4)', () => {
  const zeros = page(() => 0)
  it.each<[string, Uint8Array, number[] | 'overflow']>([
    ['equal pages', page(() => 0), []],
    ['the last byte only', page((i) => (i === 4095 ? 9 : 0)), [0xff, 0x1f, 1, 9]],
    ['the first byte only', page((i) => (i === 0 ? 9 : 0)), [0, 1, 9]],
    ['every other byte', page((i) => i & 1), 'overflow'],
    ['every byte', page(() => 1), 'overflow'],
    ['as many as fit', page((i) => (i < 4093 ? 1 : 0)), [0, 0xfd, 0x1f, ...new Array(4093).fill(1)]],
    ['one more', page((i) => (i < 4094 ? 1 : 0)), 'overflow'],
    ['a recorded one', page((i) => (i === 0x10 ? 0xde : 0)), [0x10, 1, 0xde]],
    ['another', page((i) => (i === 0x46c ? 0xe6 : 0)), [0xec, 8, 1, 0xe6]],
  ])('%s', (_, after, expected) => {
    expect(encode(zeros, after)).toEqual(expected)
  })

  it('brings back every page that fits, whatever changed', () => {
    const change = fc.record({
      at: fc.integer({ min: 0, max: PAGE_BYTES - 1 }),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 200 }),
    })
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 255 }), fc.array(change, { maxLength: 40 }), (fill, changes) => {
        const before = page((i) => (i * fill) >>> 3)
        const after = before.slice()
        for (const { at, bytes } of changes) after.set(bytes.subarray(0, PAGE_BYTES - at), at)
        const encoded = encode(before, after)
        if (encoded === 'overflow') return
        const decoded = decode(encoded, before)
        expect(decoded.problem).toBeUndefined()
        expect(decoded.page).toEqual(after)
      }),
      { numRuns: 150 },
    )
  })

  it.each<[string, number[], RegExp]>([
    ['half a pair', [3], /ends within a run/],
    ['no length', [3, 1], /ends within a run/],
    ['too few bytes', [3, 2, 7], /ends within a run/],
    ['a number of three bytes', [0x80, 0x80, 1, 1, 1], /more than 14 bits/],
    ['an empty copy', [3, 0, 0], /different bytes is empty/],
    ['an empty skip later on', [3, 1, 7, 0, 1, 7], /equal bytes is empty/],
    ['a skip beyond the end', [0xff, 0x7f, 1, 1], /beyond the end/],
    ['a copy beyond the end', [0xff, 0x1f, 2, 1, 1], /beyond the end/],
  ])('refuses %s', (_, encoded, problem) => {
    expect(
      decode(
        encoded,
        page(() => 5),
      ).problem,
    ).toMatch(problem)
  })

  it('never writes beside the page, and the two decoders agree, on any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        decode(
          [...bytes],
          page(() => 5),
        )
      }),
      { numRuns: 500 },
    )
  })
})

function journey(cacheBytes = { value: 1 << 20 }, pages = 64) {
  const m = new GuestMemory()
  const ram = m.addBlock('ram', pages * PAGE_BYTES)
  const isZero = createZeroPageTest(m)
  const xbzrle = new XbzrlePages(isZero, () => cacheBytes.value)
  // A pass sends everything, however slow the machine is.
  const passMs = Number.POSITIVE_INFINITY
  const saver = new RamSaver({ memory: m, migratableBlocks: () => [ram], flushWriteTlb: async () => {} }, { passMs })
  saver.use([xbzrle, zeroPages(isZero), rawPages()])
  const there = new GuestMemory()
  const copy = there.addBlock('ram', pages * PAGE_BYTES)
  const loader = new RamLoader(there, () => [copy])
  loader.begin()
  const f = bufferWriter()
  return {
    ram,
    copy,
    saver,
    counters: () => xbzrle.report()['xbzrle-cache'],
    write(at: number, ...bytes: number[]) {
      ram.bytes.set(bytes, at)
      m.written(ram.offset + at, bytes.length)
    },
    /** @returns bytes of the section */
    async section(which: 'setup' | 'iterate' | 'complete') {
      if (which === 'iterate') await saver.sync()
      await saver[which](f)
      const bytes = f.bytes()
      const reader = bufferReader(bytes)
      await drive(reader, loader.load(reader, 4))
      return bytes.length
    },
    same: () => expect(Buffer.compare(Buffer.from(copy.bytes), Buffer.from(ram.bytes))).toBe(0),
  }
}

describe('a migration with XBZRLE', () => {
  it('sends a page that was sent before as its difference', async () => {
    const j = journey()
    for (let i = 0; i < 64; i++) j.write(i * PAGE_BYTES, 1, 2, 3)
    await j.section('setup')
    await j.section('iterate') // everything, raw
    for (let i = 0; i < 64; i++) j.write(i * PAGE_BYTES + 100, 9)
    await j.section('iterate') // not in the cache yet: raw, and remembered
    expect(j.counters()).toMatchObject({ 'cache-size': 1 << 20, 'cache-miss': 64, pages: 0 })
    for (let i = 0; i < 64; i++) j.write(i * PAGE_BYTES + 200, 9)
    j.write(5 * PAGE_BYTES, ...new Uint8Array(PAGE_BYTES).fill(6)) // everything: does not fit
    j.write(6 * PAGE_BYTES, ...new Uint8Array(PAGE_BYTES)) // zeros
    j.write(7 * PAGE_BYTES + 200, 0) // as it was
    const bytes = await j.section('iterate')
    expect(j.counters()).toMatchObject({ overflow: 1, pages: 61 })
    expect(j.counters().bytes).toBeLessThan(61 * 9 + 10)
    expect(bytes).toBeLessThan(61 * 20 + PAGE_BYTES + 100)
    for (let i = 0; i < 8; i++) j.write(i * PAGE_BYTES + 300, 9)
    await j.section('complete')
    expect(j.counters().pages).toBe(61 + 8)
    j.same()
  })

  it('keeps a slot for its page while that is fresh, and follows a new size', async () => {
    const size = { value: 16 * PAGE_BYTES }
    const j = journey(size)
    await j.section('setup')
    const touch = async (which: 'iterate' | 'complete', value: number) => {
      for (let i = 0; i < 64; i++) j.write(i * PAGE_BYTES + 8, value, i)
      return j.section(which)
    }
    await touch('iterate', 1)
    await touch('iterate', 2)
    await touch('iterate', 3)
    expect(j.counters().pages).toBe(16) // those that got a slot first
    size.value = 64 * PAGE_BYTES
    await touch('iterate', 4)
    expect(j.counters()['cache-size']).toBe(64 * PAGE_BYTES)
    const before = j.counters().pages
    await touch('iterate', 5)
    await touch('iterate', 6)
    expect(j.counters().pages - before).toBeGreaterThan(64)
    await touch('complete', 7)
    j.same()
  })
})
