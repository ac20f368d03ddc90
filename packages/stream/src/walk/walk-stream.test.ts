import { defineVmstate, i32, u8 } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { inspectStream } from '../inspect/inspect-stream.ts'
import { stateJson } from '../inspect/report-json.ts'
import { rewriteStream } from '../rewrite/rewrite-stream.ts'
import { BytesSink } from '../source/byte-sink.ts'
import { bytesSource, channelSource } from '../source/byte-source.ts'
import { describe1, repeatingSource, StreamMaker } from '../stream-maker-testing.ts'

const pipe = (bytes: Uint8Array) => {
  const source = bytesSource(bytes)
  return channelSource({ read: async (into) => source.read(into) })
}
const page = (fill: number) => new Uint8Array(4096).fill(fill)
const withRam = (blocks: Readonly<Record<string, number>> = { ram: 0x4000 }) =>
  new StreamMaker().head().begin('start', 2, 'ram', 4).blocks(blocks).footer(2)
const device = [
  { name: 'a', type: 'uint8', size: 1 },
  { name: 'b', type: 'uint32', array_len: 3, size: 4 },
]
const complete = () =>
  withRam()
    .next('part', 2)
    .u64(0x0008n)
    .str8('ram')
    .bytes(page(1))
    .u64(0x1022n)
    .raw(0)
    .u64(0x2028n)
    .bytes(page(2))
    .eos()
    .footer(2)
    .next('end', 2)
    .eos()
    .footer(2)
    .begin('full', 5, 'thing')
    .raw(9, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3)
    .footer(5)
    .end(describe1('thing', device))
    .done()

describe('a stream that breaks off', () => {
  const whole = complete()
  it('is reported up to where it breaks, at every length', async () => {
    const full = await inspectStream(bytesSource(whole))
    expect(full.problems).toEqual([])
    const lengths = Array.from({ length: whole.length }, (_, i) => i).filter((i) => i < 200 || i % 97 === 0 || i > 8400)
    for (const length of lengths) {
      const cut = whole.slice(0, length)
      for (const source of [bytesSource(cut), pipe(cut)]) {
        const report = await inspectStream(source)
        expect(report.problems.length, `cut at ${length}`).toBeGreaterThan(0)
        const [problem] = report.problems
        expect(problem!.offset, `cut at ${length}`).toBeLessThanOrEqual(length)
        expect(report.sections.length).toBeLessThanOrEqual(full.sections.length)
      }
    }
  })

  it('keeps the values that a description lost its end for', async () => {
    const report = await inspectStream(bytesSource(whole.slice(0, -2)))
    expect(report.complete).toBe(true)
    expect(report.problems.map((p) => [p.message, p.fatal])).toEqual([
      ['the stream ends inside of the description', false],
    ])
    // Its one device was whole.
    expect(stateJson(report.sections.at(-1)!.state!).fields).toEqual({ a: 9, b: [1, 2, 3] })
  })

  it('without a description it has the bytes of the sections all the same', async () => {
    const end = whole.length - describe1('thing', device).length - 5
    const report = await inspectStream(pipe(whole.slice(0, end)))
    expect(report.sections.at(-1)).toMatchObject({ idstr: 'thing', bytes: 13, layoutSource: 'none' })
    expect(report.problems).toMatchObject([{ message: 'there is no description', fatal: false }])
  })

  it('without a description it has the values that a table gives', async () => {
    const table = defineVmstate({ name: 'thing', version: 1, fields: { a: u8(), b0: i32(), b1: i32(), b2: i32() } })
    const end = whole.length - describe1('thing', device).length - 5
    const tables = ({ idstr }: { idstr: string }) => (idstr === 'thing' ? table : undefined)
    const report = await inspectStream(pipe(whole.slice(0, end)), { tables })
    const section = report.sections.at(-1)!
    expect(section.layoutSource).toBe('table')
    expect(stateJson(section.state!).fields).toEqual({ a: 9, b0: 1, b1: 2, b2: 3 })
  })
})

describe('what is wrong is told with its place', () => {
  const said = async (stream: Uint8Array) => {
    const [fromFile, fromPipe] = [await inspectStream(bytesSource(stream)), await inspectStream(pipe(stream))]
    expect(fromPipe.problems).toEqual(fromFile.problems)
    return fromFile.problems.map((p) => `${p.fatal ? 'stop' : 'note'} 0x${p.offset.toString(16)} ${p.message}`)
  }
  it.each<[string, () => StreamMaker, RegExp]>([
    [
      'another file',
      () => new StreamMaker().raw(0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0),
      /stop 0x0 this is no migration stream/,
    ],
    ['version 2', () => new StreamMaker().u32(0x5145564d).u32(2), /stop 0x4 stream version 2/],
    [
      'a machine name of gigabytes',
      () => new StreamMaker().u32(0x5145564d).u32(3).raw(7).u32(0xffffffff),
      /machine name of 4294967295 bytes/,
    ],
    ['an unknown element', () => withRam().raw(9), /byte 0x9 starts no element after section ram\/0/],
    ['a part of nothing', () => new StreamMaker().head().next('part', 7), /part of section 7, which never started/],
    ['a wrong footer', () => withRam().next('end', 2).eos().footer(3), /footer of section 3/],
    [
      'no footer where there were some',
      () => withRam().next('end', 2).eos().raw(0, 0, 0, 0, 0),
      /where a section footer should be/,
    ],
    [
      'an unknown block',
      () => withRam().next('part', 2).u64(8n).str8('elsewhere').bytes(page(1)),
      /RAM block "elsewhere" is not in the block list/,
    ],
    [
      'a continued nothing',
      () => withRam().next('part', 2).u64(0x28n).bytes(page(1)),
      /continues a block before any was named/,
    ],
    ['flags that do not exist', () => withRam().next('part', 2).u64(1n).str8('ram').bytes(page(1)), /flags 0x1/],
    [
      'a compressed page of gigabytes',
      () => withRam().next('part', 2).u64(0x100n).str8('ram').u32(0xfffffff0).bytes(page(0)),
      /compressed page of 4294967280 bytes/,
    ],
    [
      'an xbzrle record that is too long',
      () => withRam().next('part', 2).u64(0x40n).str8('ram').raw(1, 0xff, 0xff).bytes(page(0)),
      /XBZRLE record of 65535 bytes/,
    ],
    [
      'more RAM blocks than the total',
      () => new StreamMaker().head().begin('start', 2, 'ram', 4).u64(0x1004n).str8('x').u64(0x2000n).bytes(page(0)),
      /RAM block "x" of 8192 bytes/,
    ],
    ['RAM of another version', () => new StreamMaker().head().begin('start', 2, 'ram', 3).eos(), /RAM of version 3/],
    [
      'an unknown part of the configuration',
      () => new StreamMaker().head('virt', [{ name: 'configuration/new', payload: page(0) }]),
      /"configuration\/new" of the configuration is unknown/,
    ],
    [
      'capabilities without end',
      () =>
        new StreamMaker().head('virt', [
          { name: 'configuration/capabilities', payload: Uint8Array.of(0xff, 0xff, 0xff, 0xff) },
        ]),
      /4294967295 capabilities/,
    ],
  ])('%s', async (_, make, message) => {
    const problems = await said(make().done())
    expect(problems.at(-1)).toMatch(message)
    expect(problems.at(-1)).toMatch(/^stop/)
  })

  it('a page outside of its block is a note', async () => {
    const stream = withRam({ ram: 0x1000 }).next('part', 2).u64(0x5002n).str8('ram').raw(0).eos().footer(2).end().done()
    expect(await said(stream)).toEqual([
      expect.stringMatching(/^note .* page 0x5000 lies outside of RAM block ram/),
      expect.stringMatching(/^note .* there is no description/),
    ])
  })
  it('after a broken footer reading goes on, and a copy is refused', async () => {
    const stream = complete()
    // Of RAM's first PART, and of the device.
    const footers = [...stream.keys()].filter((i) => stream[i] === 0x7e && stream[i + 1] === 0)
    const last = footers.at(-1)!
    for (const [at, byte] of [
      [footers[1]!, 0x7f],
      [footers[1]! + 4, 9],
      [last, 0x5e],
      [last + 4, 77],
    ] as const) {
      const damaged = stream.slice()
      damaged[at] = byte
      const report = await inspectStream(bytesSource(damaged))
      expect(report.problems).toMatchObject([{ offset: at < last ? footers[1] : last, damage: true, fatal: false }])
      expect(report.problems[0]!.expected).toMatch(/^7e and section id/)
      expect(report.sections.at(-1)).toMatchObject({ idstr: 'thing', bytes: 13, layoutSource: 'description' })
      expect(report.complete).toBe(true)
      await expect(rewriteStream(bytesSource(damaged), new BytesSink())).rejects.toThrow(
        /the stream is damaged: .*footer/,
      )
    }
  })
  it('of two block lists the second counts', async () => {
    const stream = withRam()
      .next('part', 2)
      .blocks({ other: 0x1000 })
      .footer(2)
      .next('part', 2)
      .u64(2n)
      .str8('ram')
      .raw(0)
      .done()
    const report = await inspectStream(bytesSource(stream))
    expect(report.problems.at(-1)).toMatchObject({ message: 'RAM block "ram" is not in the block list', fatal: true })
  })
  it('an unknown command and one of the wrong length are notes', async () => {
    const stream = withRam().command(77, page(0).subarray(0, 3)).command(2, new Uint8Array(1)).end().done()
    expect(await said(stream)).toEqual([
      expect.stringMatching(/command 77 is unknown/),
      expect.stringMatching(/command PING has 1 bytes/),
      expect.stringMatching(/no description/),
    ])
  })
  it('a description that is too short for its section gives way to the footer', async () => {
    const make = (fields: object[]) =>
      withRam().begin('full', 5, 'thing').raw(1, 2, 3).footer(5).end(describe1('thing', fields)).done()
    const report = await inspectStream(bytesSource(make([{ name: 'a', type: 'uint8', size: 1 }])))
    expect(report.sections.at(-1)).toMatchObject({ bytes: 3, layoutSource: 'none' })
    expect(report.problems).toMatchObject([{ message: expect.stringMatching(/says 1 bytes, and no footer follows/) }])
  })
  it.each([
    ['sizes beyond all memory', [{ name: 'a', type: 'buffer', size: 2 ** 50 }]],
    ['counts beyond all memory', [{ name: 'a', type: 'uint8', array_len: 2 ** 40, size: 1 }]],
    [
      'elements of no size',
      [
        { name: 'a', type: 'buffer', array_len: 2 ** 40, size: 0 },
        { name: 'b', type: 'buffer', size: 3 },
      ],
    ],
    [
      'a struct that is larger than its field',
      [
        {
          name: 'a',
          type: 'struct',
          size: 3,
          struct: { vmsd_name: 's', version: 1, fields: [{ name: 'x', type: 'buffer', size: 9 }] },
        },
      ],
    ],
    ['a tree of four billion nodes', [{ name: 'a', type: 'gtree', size: 3 }]],
  ])('a description with %s costs nothing', async (_, fields) => {
    const stream = withRam().begin('full', 5, 'thing').raw(1, 2, 3).footer(5).end(describe1('thing', fields)).done()
    const report = await inspectStream(bytesSource(stream))
    expect(report.sections.at(-1)).toMatchObject({ idstr: 'thing', bytes: 3, layoutSource: 'none' })
    expect(report.problems.length).toBeGreaterThan(0)
  })
})

describe('forms that are rarer', () => {
  it('an array of millions of elements is kept as bytes', async () => {
    const fields = [{ name: 'a', type: 'uint8', array_len: 5 << 20, size: 1 }]
    const stream = withRam()
      .begin('full', 5, 'thing')
      .bytes(new Uint8Array(5 << 20).fill(3))
      .footer(5)
    const report = await inspectStream(bytesSource(stream.end(describe1('thing', fields)).done()))
    expect(report.problems).toEqual([])
    const [value] = report.sections.at(-1)!.state!.fields[0]!.values
    expect(value).toBeInstanceOf(Uint8Array)
  })

  it('lists, trees, temporaries, versioned structs and subsections keep every byte', async () => {
    const inner = { vmsd_name: 'e', version: 1, fields: [{ name: 'x', type: 'uint16', size: 2 }] }
    // Lists repeat the keys once per element: JSON that an object cannot hold. Spec: stream.md section 6.
    const text = `{"page_size": 4096, "devices": [{"name": "thing", "instance_id": 0, "vmsd_name": "thing", "version": 1, "fields": [
      {"name": "q", "type": "qtailq", ${JSON.stringify(inner).slice(1, -1)}, ${JSON.stringify(inner).slice(1, -1)}, "size": 7},
      {"name": "none", "type": "qlist", "size": 1},
      {"name": "t", "type": "gtree", ${JSON.stringify(inner).slice(1, -1)}, ${JSON.stringify(inner).slice(1, -1)}, "size": 10},
      {"name": "direct", "type": "gtree", ${JSON.stringify(inner).slice(1, -1)}, "size": 16},
      {"name": "tmp", "type": "tmp", ${JSON.stringify(inner).slice(1, -1)}, "size": 2},
      {"name": "arr", "index": 0, "type": "struct", "struct": ${JSON.stringify(inner)}, "size": 2},
      {"name": "arr", "type": "struct", "struct": ${JSON.stringify(inner)}, "size": 2},
      {"name": "ptr", "type": "nullptr", "size": 1},
      {"name": "odd", "type": "bool", "size": 1}],
      "subsections": [{"vmsd_name": "thing/s", "version": 2, "fields": [{"name": "y", "type": "timer", "size": 8}]}]}]}`
    const make = new StreamMaker().head().begin('full', 5, 'thing')
    make.raw(1, 0, 10, 1, 0, 11, 0).raw(0)
    make.u32(1).raw(1, 0, 1, 0, 2, 0)
    make.u32(1).raw(1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 6, 0)
    make.raw(0, 3).raw(0, 4, 0, 5).raw(0x30).raw(7)
    make
      .raw(5)
      .str8('thing/s')
      .u32(2)
      .u64(2n ** 64n - 1n)
    const stream = make.footer(5).end(text).done()
    const report = await inspectStream(bytesSource(stream))
    expect(report.problems).toEqual([])
    expect(stateJson(report.sections[0]!.state!)).toEqual({
      vmsd: 'thing',
      fields: {
        q: [{ x: 10 }, { x: 11 }],
        none: [],
        t: [{ key: { x: 1 }, value: { x: 2 } }],
        direct: [{ key: 5, value: { x: 6 } }],
        tmp: { x: 3 },
        arr: [{ x: 4 }, { x: 5 }],
        ptr: 0x30,
        odd: 7,
      },
      subsections: { 'thing/s': { version: 2, fields: { y: -1 } } },
    })
    const sink = new BytesSink()
    await rewriteStream(bytesSource(stream), sink)
    expect(Buffer.compare(sink.bytes(), stream)).toBe(0)
  })

  it('a package (postcopy) is read as the elements it is', async () => {
    const inside = new StreamMaker()
      .command(4, new Uint8Array(0))
      .begin('full', 5, 'thing')
      .raw(1, 2)
      .footer(5)
      .command(5, new Uint8Array(0))
      .done()
    const length = new Uint8Array(4)
    new DataView(length.buffer).setUint32(0, inside.length)
    const stream = withRam().command(7, length).bytes(inside).next('end', 2).eos().footer(2).end().done()
    const report = await inspectStream(bytesSource(stream))
    expect(report.sections.map((s) => [s.kind, s.idstr, s.packaged])).toEqual([
      ['start', 'ram', false],
      ['full', 'thing', true],
      ['end', 'ram', false],
    ])
    const sink = new BytesSink()
    await rewriteStream(bytesSource(stream), sink)
    expect(Buffer.compare(sink.bytes(), stream)).toBe(0)
  })

  it('mapped RAM is counted by its bitmaps and kept as it is', async () => {
    // Spec: ram.md section 7. 4 pages, the first and the third in the file.
    const capabilities = new StreamMaker().u32(1).str8('mapped-ram').done()
    const make = new StreamMaker().head('virt', [{ name: 'configuration/capabilities', payload: capabilities }])
    make.begin('start', 2, 'ram', 4).u64(0x4004n).str8('ram').u64(0x4000n)
    const header = make.length
    make
      .u32(1)
      .u64(4096n)
      .u64(BigInt(header + 28))
      .u64(0x100000n)
      .raw(5, 0, 0, 0, 0, 0, 0, 0)
    make
      .bytes(new Uint8Array(0x100000 - make.length))
      .bytes(page(7))
      .bytes(page(0))
      .bytes(page(8))
      .bytes(page(0))
    const stream = make.eos().footer(2).next('end', 2).eos().footer(2).end().done()
    for (const source of [bytesSource(stream), pipe(stream)]) {
      const report = await inspectStream(source)
      expect(report.problems.filter((p) => p.fatal)).toEqual([])
      expect(report.ram!.blocks[0]).toMatchObject({ normalPages: 2, mapped: { pageCount: 2, pagesOffset: 0x100000 } })
      expect(report.sections.map((s) => s.kind)).toEqual(['start', 'end'])
    }
    const sink = new BytesSink()
    await rewriteStream(bytesSource(stream), sink)
    expect(Buffer.compare(sink.bytes(), stream)).toBe(0)
  })

  it('streams of old machine types have no footers', async () => {
    const stream = new StreamMaker().u32(0x5145564d).u32(3).begin('start', 2, 'ram', 4).blocks({ ram: 0x1000 })
    stream
      .next('end', 2)
      .eos()
      .begin('full', 3, 'thing')
      .raw(7)
      .end(describe1('thing', [{ name: 'a', type: 'uint8', size: 1 }]))
    const report = await inspectStream(bytesSource(stream.done()))
    expect(report.problems).toEqual([])
    expect(stateJson(report.sections[2]!.state!).fields).toEqual({ a: 7 })
  })

  it('host page sizes and addresses in the block list are understood', async () => {
    const make = new StreamMaker().head().begin('start', 2, 'ram', 4).u64(0x600004n)
    make.str8('huge').u64(0x400000n).u64(0x200000n).str8('plain').u64(0x200000n).eos().footer(2).end()
    const report = await inspectStream(bytesSource(make.done()))
    expect(report.ram!.blocks.map((b) => [b.idstr, b.hostPageBytes])).toEqual([
      ['huge', 0x200000],
      ['plain', undefined],
    ])
    const capabilities = new StreamMaker().u32(1).str8('x-ignore-shared').done()
    const shared = new StreamMaker().head('virt', [{ name: 'configuration/capabilities', payload: capabilities }])
    shared.begin('start', 2, 'ram', 4).u64(0x1004n).str8('r').u64(0x1000n).u64(0x80000000n).eos().footer(2).end()
    expect((await inspectStream(bytesSource(shared.done()))).ram!.blocks[0]!.gpa).toBe(0x80000000)
  })
})

describe('a stream that is larger than memory should be', () => {
  it('costs a bounded amount of memory and tells how far it is', async () => {
    const head = withRam({ ram: 1 << 20 })
      .next('part', 2)
      .u64(0x0008n)
      .str8('ram')
      .bytes(page(1))
      .done()
    const round = new StreamMaker()
    for (let i = 0; i < 256; i++) round.u64(BigInt(i * 4096) | 0x28n).bytes(page(i))
    const tail = new StreamMaker().eos().footer(2).next('end', 2).eos().footer(2).end().done()
    const times = 400 // 400 MiB
    const before = process.memoryUsage().arrayBuffers
    let reports = 0
    let most = 0
    const progress = () => {
      reports++
      most = Math.max(most, process.memoryUsage().arrayBuffers - before)
    }
    const report = await inspectStream(repeatingSource(head, round.done(), times, tail), { progress })
    expect(report.ram!.blocks[0]).toMatchObject({ normalPages: 1 + 256 * times, distinctPages: 256 })
    expect(reports).toBeGreaterThan(100)
    expect(most).toBeLessThan(32 << 20)
  })
  it('can be given up', async () => {
    const abort = new AbortController()
    const endless = repeatingSource(
      withRam().next('part', 2).u64(2n).str8('ram').raw(0).done(),
      new StreamMaker().u64(0x22n).raw(0).done(),
      2 ** 40,
      new Uint8Array(0),
    )
    const reading = inspectStream(endless, { signal: abort.signal, progress: () => abort.abort(new Error('enough')) })
    await expect(reading).rejects.toThrow('enough')
  })
})
