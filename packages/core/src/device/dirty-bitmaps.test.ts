import { describe, expect, it } from 'vitest'
import { DirtyBitmaps } from './dirty-bitmaps.ts'
import { createWriteLog } from './write-log.ts'

const MiB = 1 << 20

describe('the bitmaps of a disk', () => {
  it('mark what is written while they record, each in its own chunks, and keep it', () => {
    const bitmaps = new DirtyBitmaps(16 * MiB + 512)
    const coarse = bitmaps.add('coarse')
    const fine = bitmaps.add('fine', { granularityBytes: 512 })
    const off = bitmaps.add('off', { recording: false })
    bitmaps.written(16 * MiB, 512)
    bitmaps.written(65_536 - 512, 1024)
    expect([coarse.log.count, fine.log.count, off.log.count]).toEqual([3, 3, 0])
    fine.recording = false
    off.recording = true
    bitmaps.written(0, 512)
    expect([coarse.log.count, fine.log.count, off.log.count]).toEqual([3, 3, 1])
    expect(bitmaps.all.map(({ name }) => name)).toEqual(['off', 'fine', 'coarse'])
    bitmaps.remove(fine)
    expect(bitmaps.find('fine')).toBeUndefined()
  })

  it('take the marks of others, whatever their chunks; not of a disk of another size', () => {
    const bitmaps = new DirtyBitmaps(MiB)
    const [fine, coarse] = [bitmaps.add('fine', { granularityBytes: 512 }), bitmaps.add('coarse')]
    fine.log.mark(70_000, 1)
    bitmaps.merge(coarse, [fine])
    expect([coarse.log.count, coarse.log.next(0)]).toEqual([1, 1])
    bitmaps.merge(fine, [coarse])
    expect([fine.log.count, fine.log.next(0)]).toEqual([128, 128])
    const other = new DirtyBitmaps(2 * MiB).add('other')
    expect(() => bitmaps.merge(fine, [other])).toThrow(
      /'other' and 'fine' are of disks of different sizes: 2097152 and 1048576/,
    )
  })

  it.each([
    ['', {}, 'Bitmap name cannot be empty'],
    ['é'.repeat(512), {}, /^Bitmap name too long: é/],
    ['a', { granularityBytes: 256 }, 'Granularity must be power of 2 and at least 512'],
    ['a', { granularityBytes: 1000 }, 'Granularity must be power of 2 and at least 512'],
    ['a', { granularityBytes: 0 }, 'Granularity must be power of 2 and at least 512'],
    ['there', {}, 'Bitmap already exists: there'],
    ['huge', { granularityBytes: 512 }, /^Bitmap 'huge' would be too large: 8589934592 chunks/],
  ])('%o %o is refused', (name, options, wanted) => {
    const bitmaps = new DirtyBitmaps(2 ** 42)
    bitmaps.add('there', { granularityBytes: 2 ** 30 })
    expect(() => bitmaps.add(name, options)).toThrow(wanted)
    expect(bitmaps.all).toHaveLength(1)
  })
})

describe('the bits of a log', () => {
  it('are those of its marks, whole words of eight bytes', () => {
    const log = createWriteLog(70 * 512, 512)
    log.mark(512, 33 * 512)
    log.mark(69 * 512, 512)
    expect(Buffer.from(log.bits).toString('hex')).toBe('feffffff030000002000000000000000')
    expect([log.chunks, log.count]).toEqual([70, 34])
  })

  it('mark another, beside what is marked there, and count once', () => {
    const log = createWriteLog(70 * 512, 512)
    log.mark(512, 512)
    log.markBits(0, Uint8Array.of(0x83))
    log.markBits(64, Uint8Array.of(0x20, 0, 0))
    expect([log.count, log.isMarked(0), log.isMarked(1), log.isMarked(7), log.isMarked(69)]).toEqual([
      4,
      true,
      true,
      true,
      true,
    ])
    expect(() => log.markBits(64, Uint8Array.of(0x41))).toThrow('marks behind the last of 70 chunks')
    expect(() => log.markBits(64, Uint8Array.of(1, 1))).toThrow('marks behind')
    expect(log.count).toBe(4)
  })
})
