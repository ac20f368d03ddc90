import { describe, expect, it } from 'vitest'
import { StreamConversionError } from '../errors.ts'
import { inspectStream } from '../inspect/inspect-stream.ts'
import { editStream, parseAssignment } from '../rewrite/edit-stream.ts'
import { BytesSink } from '../source/byte-sink.ts'
import { bytesSource } from '../source/byte-source.ts'
import { isStateNode, type StateNode } from '../state/state-node.ts'
import { loadStream as load, stockStreams } from '../stock-streams-testing.ts'
import { type UpgradeOptions, upgradeStream } from './upgrade-stream.ts'

const read = (bytes: Uint8Array) => inspectStream(bytesSource(bytes))

async function upgrade(bytes: Uint8Array, to: '7.2' | '10.0', options: UpgradeOptions = {}) {
  const sink = new BytesSink()
  const result = await upgradeStream(bytesSource(bytes), sink, to, options)
  return { ...result, stream: sink.bytes() }
}
/** Names, types, sizes: all that the layout is, without values. */
const shape = (node: StateNode): unknown => [
  node.name,
  node.version,
  node.fields.map(({ name, type, bytes, array, values }) => {
    const first = values[0]
    return [name, type, bytes, array, values.length, isStateNode(first) ? shape(first) : undefined]
  }),
  node.subsections.map(shape),
]
/** Captures of the same machine by both releases. */
const pairs = stockStreams
  .map((f) => /^rv72-(.*)$/.exec(f)?.[1])
  .filter((name): name is string => name !== undefined && stockStreams.includes(`rv100-${name}`))

// Spec: virt-vmstate.md, "Converting between v5 and v10".
describe.each(pairs)('%s', (name) => {
  it.each([
    ['rv72', '10.0', 'rv100'],
    ['rv100', '7.2', 'rv72'],
  ] as const)('%s becomes what %s sends', async (from, to, native) => {
    const converted = await read((await upgrade(load(`${from}-${name}`), to)).stream)
    expect(converted.problems).toEqual([])
    const theirs = await read(load(`${native}-${name}`))
    const stock = new Map(theirs.sections.map((s) => [`${s.kind} ${s.idstr}/${s.instanceId}`, s]))
    for (const section of converted.sections) {
      const other = stock.get(`${section.kind} ${section.idstr}/${section.instanceId}`)
      expect(other, section.idstr).toBeDefined()
      expect([section.idstr, section.version]).toEqual([section.idstr, other!.version])
      // Same bytes, described in another way; ACPI sizes are not made up.
      if (['globalstate', 'fw_cfg'].includes(section.idstr) || !section.state) continue
      expect(shape(section.state), section.idstr).toEqual(shape(other!.state!))
    }
    expect(converted.commands.map((c) => c.name)).toEqual(to === '10.0' ? ['SWITCHOVER_START'] : [])
    const blocks = converted.ram!.blocks.map((b) => b.idstr)
    expect(blocks.filter((b) => b.startsWith('/rom@'))).toEqual([])
  })

  it('there and back again it is the same guest', async () => {
    const original = await read(load(`rv72-${name}`))
    const there = await upgrade(load(`rv72-${name}`), '10.0')
    const back = await read((await upgrade(there.stream, '7.2')).stream)
    const hart = (r: typeof back) => r.sections.find((s) => s.idstr === 'cpu')!.state!
    const fields = (r: typeof back) =>
      hart(r)
        // The extension version of a CPU without V is not told apart by 10.0; delegation is forced there.
        .fields.filter((f) => !['env.vext_ver', 'env.mideleg'].includes(f.name))
        .map((f) => [f.name, f.values.map((v) => (isStateNode(v) ? v.fields.map((g) => g.values) : v))])
    expect(fields(back)).toEqual(fields(original))
  })
})

describe('a guest that depends on what 7.2 lacks', () => {
  const changed = async (...sets: string[]) => {
    const sink = new BytesSink()
    await editStream(bytesSource(load('rv100-bm-viommu-smp2')), sink, sets.map(parseAssignment))
    return sink.bytes()
  }

  it('is refused, and all reasons are given', async () => {
    const stream = await changed(
      'cpu/0:env.mvien=4',
      'cpu/1:env.menvcfg=0xa000000000000008',
      'virt_acpi_build/0:patched=true',
    )
    const refused = await upgrade(stream, '7.2').catch((e) => e)
    expect(refused).toBeInstanceOf(StreamConversionError)
    expect(refused.reasons).toEqual([
      expect.stringMatching(/virtio-iommu.* on this machine/),
      expect.stringMatching(/cpu\/0: .*AIA.*env.mvien = 0x4/),
      expect.stringMatching(/cpu\/1: .*menvcfg.*bits 0x8/),
      expect.stringMatching(/ACPI tables/),
    ])
  })
  it('is converted by force, and the reasons become notes', async () => {
    const { notes, stream } = await upgrade(await changed('cpu/0:env.mvien=4'), '7.2', { force: true })
    expect(notes.join()).toMatch(/AIA/)
    expect((await read(stream)).problems).toEqual([])
  })
})

it('counters that firmware has opened with -1 keep the 32 bits that there are', async () => {
  const sink = new BytesSink()
  const opened = [parseAssignment('cpu/0:env.mcounteren=0xffffffffffffffff')]
  await editStream(bytesSource(load('rv72-bm-pci-smp2')), sink, opened)
  const report = await read((await upgrade(sink.bytes(), '10.0')).stream)
  const cpu = report.sections.find((s) => s.idstr === 'cpu' && s.instanceId === 0)!.state!
  expect(cpu.fields.find((f) => f.name === 'env.mcounteren')).toMatchObject({ type: 'uint32', values: [0xffff_ffff] })
})

describe('what has no rules', () => {
  it.runIf(stockStreams.includes('x86-72-q35-vtd'))('another machine is refused', async () => {
    await expect(upgrade(load('x86-72-q35-vtd'), '10.0')).rejects.toThrow(/machine pc-q35-7.2; rules exist for virt/)
  })
  it('a stream of the release itself stays', async () => {
    const stream = load('rv72-bm-pci-smp2')
    const { changed, dropped } = await upgrade(stream, '7.2')
    expect([changed, dropped]).toEqual([[], []])
  })
})

it('a register that the description calls a buffer is refused', async () => {
  const stream = load('rv72-bm-pci-smp2')
  const text = Buffer.from(stream.buffer, stream.byteOffset, stream.length)
  const field = '"name": "env.mip", "type": "uint64"'
  const at = text.lastIndexOf(field)
  expect(at).toBeGreaterThan(0)
  text.write(field.replace('uint64', 'buffer'), at)
  const conversion = upgrade(stream, '10.0', { nudge: true })
  await expect(conversion).rejects.toThrow('cpu env.mip is no integer; its description is not one of stock QEMU')
})
