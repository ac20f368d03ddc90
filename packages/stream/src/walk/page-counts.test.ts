import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Inspector } from '../inspect/inspect-stream.ts'
import { bytesSource, channelSource } from '../source/byte-source.ts'
import { walkStream } from './walk-stream.ts'

/** Counts each record by itself, as visitors do that look at pages. */
class EachRecord extends Inspector {
  override counts(): undefined {}
}

const PAGE = 4096
const BLOCKS = [
  { name: 'ram', pages: 6 },
  { name: 'r2', pages: 3 },
]
/** Past the ends of blocks too, and not aligned. */
const record = fc.record({
  zero: fc.boolean(),
  block: fc.constantFrom(0, 0, 0, 1),
  page: fc.integer({ min: 0, max: 7 }),
  named: fc.boolean(),
  ascending: fc.integer({ min: 0, max: 9 }),
  odd: fc.constantFrom(0, 0, 0, 0, 0, 0x400),
})
type Made = typeof record extends fc.Arbitrary<infer T> ? T : never

function stream(records: readonly Made[], cut: number): Uint8Array {
  const parts: number[] = [0x51, 0x45, 0x56, 0x4d, 0, 0, 0, 3]
  const be64 = (value: number) =>
    parts.push(0, 0, 0, 0, value >>> 24, (value >> 16) & 255, (value >> 8) & 255, value & 255)
  const text = (name: string) => parts.push(name.length, ...new TextEncoder().encode(name))
  parts.push(1, 0, 0, 0, 2)
  text('ram')
  parts.push(0, 0, 0, 0, 0, 0, 0, 4)
  be64(BLOCKS.reduce((sum, b) => sum + b.pages, 0) * PAGE + 4)
  for (const { name, pages } of BLOCKS) {
    text(name)
    be64(pages * PAGE)
  }
  const first = parts.length
  let last = -1
  let page = 0
  for (const { zero, block, ...r } of records) {
    page = r.ascending > 1 ? page + 1 : r.page
    const continues = block === last && !r.named
    be64((page * PAGE + r.odd) | (zero ? 2 : 8) | (continues ? 0x20 : 0))
    if (!continues) text(BLOCKS[block]!.name)
    if (zero) parts.push(0)
    else for (let i = 0; i < PAGE; i++) parts.push(i & 0x2f)
    last = block
  }
  be64(0x10)
  parts.push(0x7e, 0, 0, 0, 2, 0)
  return Uint8Array.from(parts.slice(0, Math.max(first, parts.length - cut)))
}

describe('pages that the walker counts', () => {
  it('are those that come one by one, in memory and in pieces', async () => {
    const streams = fc.tuple(
      fc.array(record, { maxLength: 24 }),
      fc.constantFrom(0, 0, 1, 3000),
      fc.integer({ min: 1, max: 9000 }),
    )
    await fc.assert(
      fc.asyncProperty(streams, async ([records, cut, piece]) => {
        const bytes = stream(records, cut)
        let at = 0
        const inPieces = channelSource({
          read: async (into) => {
            const part = bytes.subarray(at, at + Math.min(piece, into.length))
            into.set(part)
            at += part.length
            return part.length
          },
        })
        const [whole, pieces, each] = [new Inspector(), new Inspector(), new EachRecord()]
        await walkStream(bytesSource(bytes), whole)
        await walkStream(inPieces, pieces)
        await walkStream(bytesSource(bytes), each)
        expect(whole.report(0)).toEqual(each.report(0))
        expect(pieces.report(0)).toEqual(each.report(0))
        expect(each.report(0).ram?.blocks).toHaveLength(2)
      }),
      { numRuns: 60 },
    )
  })
})
