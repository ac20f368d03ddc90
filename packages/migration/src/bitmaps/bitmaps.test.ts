import { readFileSync } from 'node:fs'
import { type BlockBackend, bufferReader, bufferWriter, DirtyBitmaps, drive } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { Parameters } from '../parameters.ts'
import { BitmapLoader, DirtyBitmapLoadError } from './bitmap-load.ts'
import type { BitmapMapping } from './bitmap-mapping.ts'
import { BitmapSaver } from './bitmap-save.ts'

const MiB = 1 << 20
/** START and END as 7.2 and 10.0 send them, alike: disk0 with b (512, off) and a (1 MiB), n1, the node qn, with c (64 KiB). */
const stock = new Uint8Array(readFileSync(new URL('./__fixtures__/dirty-bitmap.v1.bin', import.meta.url)))
const STOCK_START_BYTES = 34

function disk(name: string, node = name, capacityBytes = 16 * MiB + 512) {
  const bitmaps = new DirtyBitmaps(capacityBytes)
  const backend: BlockBackend = {
    capacityBytes,
    readOnly: false,
    bitmaps,
    async read() {},
    async write(offset, from) {
      bitmaps.written(offset, from.length)
    },
    async flush() {},
  }
  return { name, node, backend, bitmaps }
}
const disks = () => [disk('disk0'), disk('n1', 'qn')] as const

async function load(
  devices: readonly ReturnType<typeof disk>[],
  bytes: Uint8Array,
  { sections = 1, mapping = undefined as BitmapMapping | undefined } = {},
) {
  const loader = new BitmapLoader(
    () => devices,
    () => mapping,
  )
  loader.begin()
  const reader = bufferReader(bytes, 0x100)
  for (let i = 0; i < sections; i++) await drive(reader, loader.load(reader, 1))
  return loader
}
const marks = ({ bitmaps }: ReturnType<typeof disk>, name: string) => {
  const { log } = bitmaps.find(name)!
  const found: number[] = []
  for (let chunk = log.next(0); chunk >= 0; chunk = log.next(chunk + 1)) found.push(chunk)
  return found
}

describe('bitmaps in the stream', () => {
  it('of stock QEMU arrive, and record once the guest is here', async () => {
    const [disk0, n1] = disks()
    const loader = await load([disk0, n1], stock, { sections: 2 })
    loader.finish(0)
    const [a, b, c] = [disk0.bitmaps.find('a')!, disk0.bitmaps.find('b')!, n1.bitmaps.find('c')!]
    expect([marks(disk0, 'a'), marks(disk0, 'b'), marks(n1, 'c')]).toEqual([[1, 16], [], [16]])
    expect([a, b, c].map(({ log }) => log.granularityBytes)).toEqual([MiB, 512, 65_536])
    expect([a, b, c].map(({ recording, busy }) => [recording, busy])).toEqual(Array(3).fill([false, true]))
    loader.guestIsHere()
    expect([a, b, c].map(({ recording, busy }) => [recording, busy])).toEqual([
      [true, false],
      [false, false],
      [true, false],
    ])
  })

  it('go as stock QEMU sends them, with what was written before the end', async () => {
    const [disk0, n1] = disks()
    disk0.bitmaps.add('a', { granularityBytes: MiB })
    disk0.bitmaps.add('b', { granularityBytes: 512, recording: false })
    n1.bitmaps.add('c')
    await disk0.backend.write(16 * MiB, new Uint8Array(512))
    const saver = new BitmapSaver()
    saver.begin([disk0, n1], undefined)
    expect(disk0.bitmaps.all.map(({ busy }) => busy)).toEqual([true, true])
    const f = bufferWriter()
    saver.setup(f)
    expect(f.bytes()).toEqual(stock.subarray(0, STOCK_START_BYTES))
    await disk0.backend.write(MiB, new Uint8Array(65_536))
    await n1.backend.write(MiB, new Uint8Array(65_536))
    await saver.complete(f)
    expect(Buffer.from(f.bytes()).toString('hex')).toBe(Buffer.from(stock.subarray(STOCK_START_BYTES)).toString('hex'))
    saver.end()
    expect(disk0.bitmaps.all.map(({ busy, recording }) => [busy, recording])).toEqual([
      [false, false],
      [false, true],
    ])
    expect(saver.active).toBe(false)
  })

  it('that are mapped go and come under their aliases, and no others', async () => {
    const [disk0, n1] = disks()
    disk0.bitmaps.add('a')
    n1.bitmaps.add('c')
    n1.bitmaps.add('stays')
    n1.bitmaps.written(0, 1)
    const mapping: BitmapMapping = [{ 'node-name': 'qn', alias: 'disk', bitmaps: [{ name: 'c', alias: 'sent' }] }]
    const saver = new BitmapSaver()
    saver.begin([disk0, n1], mapping)
    const f = bufferWriter()
    saver.setup(f)
    await saver.complete(f)
    saver.end()
    const sent = f.bytes()
    const [to0, to1] = disks()
    const back = [{ 'node-name': 'disk0', alias: 'disk', bitmaps: [{ name: 'came', alias: 'sent' }] }]
    await load([to0, to1], sent, { sections: 2, mapping: back })
    expect([to0.bitmaps.all.map(({ name }) => name), to1.bitmaps.all]).toEqual([['came'], []])
    expect(marks(to0, 'came')).toEqual([0])
    await expect(load([to0, to1], sent, { mapping: [] })).rejects.toThrow(/> disk: block-bitmap-mapping has no node/)
    const none = [{ 'node-name': 'disk0', alias: 'disk', bitmaps: [] }]
    await expect(load([to0, to1], sent, { mapping: none })).rejects.toThrow(/> disk > sent: .*no bitmap of that alias/)
  })

  it('of which something else is in use stay where they are', () => {
    const [disk0] = disks()
    const [first, second] = [disk0.bitmaps.add('a'), disk0.bitmaps.add('b')]
    first.busy = true
    const saver = new BitmapSaver()
    expect(() => saver.begin([disk0], undefined)).toThrow("Bitmap 'a' is currently in use")
    expect(second.busy).toBe(false)
    first.busy = false
    const long = disk0.bitmaps.add('x'.repeat(256))
    expect(() => saver.begin([disk0], undefined)).toThrow(/longer than 255 bytes/)
    expect(long.busy).toBe(false)
  })

  it('that came with a stream that failed are gone', async () => {
    const [disk0, n1] = disks()
    const loader = await load([disk0, n1], stock, { sections: 1 })
    expect(() => loader.finish(0x99)).toThrow(/disk0 > b: the stream ended before its bits were complete .*0x99/)
    loader.giveUp()
    expect([disk0.bitmaps.all, n1.bitmaps.all]).toEqual([[], []])
  })
})

describe('a sender that cannot be right', () => {
  const name = [0x0c, 5, ...Buffer.from('disk0'), 1, 0x61]
  const chunk = (kind: number, ...body: number[]) => [kind | name[0]!, ...name.slice(1), ...body]
  const be64 = (value: number) => [...Array(4).fill(0), 0, 0, value >> 8, value & 255]
  const BEGUN = chunk(0x10, 0, 1, 0, 0, 1)
  const SECTORS = 32_769
  it.each([
    ['flags that there are not', [0x80], /flags 0x80 .*offset 0x100/],
    ['two things at once', chunk(0x30), /flags 0x3c/],
    ['the end with a chunk', [0x11], /flags 0x11/],
    ['zeros of nothing', [0x02], /flags 0x2 /],
    ['a chunk of no disk', [0x20], /without the name of a disk/],
    ['a chunk of no bitmap', [0x28, 5, ...Buffer.from('disk0')], /without the name of a bitmap/],
    ['an unknown disk', [0x1c, 2, 0x78, 0x0a, 1, 0x61], /section dirty-bitmap > x\?: this machine has no disk/],
    ['an unknown bitmap', chunk(0x20), /disk0 > a: it was not begun/],
    ['a bitmap that is there', [...BEGUN, 0x10, 0, 1, 0, 0, 1], /disk0 > a: Bitmap already exists/],
    ['a granularity of 0', chunk(0x10, 0, 0, 0, 0, 1), /Granularity must be power of 2/],
    ['a granularity of 768', chunk(0x10, 0, 0, 3, 0, 1), /Granularity must be power of 2/],
    ['flags of a bitmap that there are not', chunk(0x10, 0, 1, 0, 0, 9), /flags 0x9 are unknown/],
    ['a bitmap in the image', chunk(0x10, 0, 1, 0, 0, 3), /kept in the image/],
    [
      'a chunk beyond the end',
      [...BEGUN, 0x42, ...be64(1), 0, 0, 0x80, 1],
      /32769 sectors at 1 are beyond the end .* 32769 here/,
    ],
    ['a chunk of 2^64', [...BEGUN, 0x42, ...Array(8).fill(255), 0, 0, 0, 1], /beyond the end/],
    [
      'a chunk in the middle of a byte',
      [...BEGUN, 0x42, ...be64(128), 0, 0, 0, 1],
      /do not begin at a multiple of 64 bits/,
    ],
    [
      'more bits than there are',
      [...BEGUN, 0x40, ...be64(0), 0, 0, 0x80, 1, ...be64(96)],
      /96 bytes of bits .* instead of 40 to 64/,
    ],
    ['fewer bits than there are', [...BEGUN, 0x40, ...be64(0), 0, 0, 0x80, 1, ...be64(32)], /32 bytes of bits/],
    [
      'bits behind the last',
      [...BEGUN, 0x40, ...be64(0), 0, 0, 0x80, 1, ...be64(40), ...Array(40).fill(255)],
      /marks behind the last/,
    ],
    ['bits after the end of a bitmap', [...BEGUN, 0x20, 0x42, ...be64(0), 0, 0, 0, 1], /complete already/],
    ['bits that end early', [...BEGUN, 0x40, ...be64(0), 0, 0, 0x80, 1, ...be64(40), 1, 2], /the stream ended/],
    ['a name that ends early', [0x1c, 200, 0x61], /the stream ended/],
    ['no end', BEGUN, /the stream ended/],
  ])('%s: a typed error', async (_, bytes, wanted) => {
    expect(disk('disk0').backend.capacityBytes).toBe(SECTORS * 512)
    await expect(load(disks(), Uint8Array.from(bytes))).rejects.toThrow(wanted)
  })

  it('bitmaps without number, or larger than memory: they meet a bound', async () => {
    const many = Array.from({ length: 1025 }, (_, i) => [0x14, 4, ...Buffer.from(`${i + 1000}`), 0, 1, 0, 0, 1]).flat()
    const bytes = Uint8Array.from([0x1c, 5, ...Buffer.from('disk0'), 1, 0x61, 0, 1, 0, 0, 1, ...many])
    await expect(load(disks(), bytes)).rejects.toThrow(/more than 1024 bitmaps/)
    const large = disk('disk0', 'disk0', 2 ** 42)
    await expect(load([large], Uint8Array.from(chunk(0x10, 0, 0, 2, 0, 1)))).rejects.toMatchObject({
      code: 'FERRY_DIRTY_BITMAP_LOAD',
      device: 'disk0',
      bitmap: 'a',
      offset: 0x100,
    })
    expect(large.bitmaps.all).toEqual([])
  })

  it('another version of the section', async () => {
    const reader = bufferReader(Uint8Array.of(1))
    const loader = new BitmapLoader(
      () => [],
      () => undefined,
    )
    await expect(async () => drive(reader, loader.load(reader, 2))).rejects.toThrow(DirtyBitmapLoadError)
  })
})

describe('block-bitmap-mapping', () => {
  const node = (more: object = {}) => ({ 'node-name': 'n', alias: 'a', bitmaps: [], ...more })
  it.each([
    [[node(), node({ alias: 'b' })], "The node name 'n' is mapped twice"],
    [[node(), node({ 'node-name': 'm' })], "The node alias 'a' is used twice"],
    [[node({ alias: '' })], "The node alias '' is not well-formed"],
    [[node({ alias: 'a'.repeat(256) })], /The node alias 'a+' is longer than 255 bytes/],
    [[node({ bitmaps: [{ name: 'x', alias: 'é'.repeat(128) }] })], /The bitmap alias 'é+' is longer than 255 bytes/],
    [[node({ bitmaps: ['y', 'z'].map((alias) => ({ name: 'x', alias })) })], "The bitmap 'n'/'x' is mapped twice"],
    [[node({ bitmaps: ['y', 'z'].map((name) => ({ name, alias: 'x' })) })], "The bitmap alias 'a'/'x' is used twice"],
    [5, 'it is no list'],
    [[{ alias: 'a', bitmaps: [] }], '"node-name" is missing'],
    [[null], 'it has no objects'],
  ])('%j is refused in the words of QEMU', (mapping, wanted) => {
    const parameters = new Parameters()
    expect(() => parameters.set({ 'block-bitmap-mapping': mapping })).toThrow(wanted)
    expect(() => parameters.set({ 'block-bitmap-mapping': mapping })).toThrow(
      /^Invalid mapping given for block-bitmap-mapping: /,
    )
    expect(parameters.values['block-bitmap-mapping']).toBeUndefined()
  })

  it('is kept as it was given', () => {
    const parameters = new Parameters()
    const mapping = [node({ bitmaps: [{ name: 'x', alias: 'y', transform: { persistent: false } }] })]
    parameters.set({ 'block-bitmap-mapping': mapping })
    expect(parameters.values['block-bitmap-mapping']).toEqual(mapping)
    expect(() => parameters.setText('block-bitmap-mapping', 'x')).toThrow('only QMP')
  })
})
