import { describe, expect, it } from 'vitest'
import { diffStreams, diffText } from '../diff/diff-streams.ts'
import { inspectStream } from '../inspect/inspect-stream.ts'
import { BytesSink } from '../source/byte-sink.ts'
import { bytesSource, channelSource } from '../source/byte-source.ts'
import { loadStream as load, stockStreams } from '../stock-streams-testing.ts'
import { editStream, parseAssignment } from './edit-stream.ts'
import { rewriteStream } from './rewrite-stream.ts'

/** Every section is decoded to its fields and made from them again; only the description stays as text. */
async function rewritten(bytes: Uint8Array): Promise<Uint8Array> {
  const sink = new BytesSink()
  let opaque = 0
  const { changed } = await rewriteStream(bytesSource(bytes), sink, {
    section({ version }, state) {
      if (!state) opaque++
      return state && { version, state }
    },
    keepDescription: true,
  })
  expect(opaque).toBe(0)
  expect(changed.length).toBeGreaterThan(10)
  return sink.bytes()
}
const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0

describe.each(stockStreams)('%s', (name) => {
  const bytes = load(name)
  it('comes out as it went in, taken apart and put together', async () => {
    expect(same(await rewritten(bytes), bytes)).toBe(true)
  })
  it('comes out as it went in from a pipe', async () => {
    const source = bytesSource(bytes)
    const sink = new BytesSink()
    await rewriteStream(channelSource({ read: (into) => source.read(into) }), sink)
    expect(same(sink.bytes(), bytes)).toBe(true)
  })
  it('is the same as itself', async () => {
    const diff = await diffStreams(bytesSource(bytes), bytesSource(bytes))
    expect([...diffText(diff)]).toEqual([])
    expect(diff.same).toBe(true)
  })
})

describe('an edit', () => {
  it('changes the field and nothing else', async () => {
    const bytes = load('rv72-bm-pci-smp2')
    const sink = new BytesSink()
    const edits = ['serial/0:ier=7', 'cpu/1:env.gpr[5]=0x123456789abcdef0', 'cpu/0:cpu/hyper.env.htval=9']
    const { changed } = await editStream(bytesSource(bytes), sink, edits.map(parseAssignment))
    expect(changed).toEqual(['cpu/0', 'cpu/1', 'serial/0'])
    const diff = await diffStreams(bytesSource(bytes), bytesSource(sink.bytes()))
    expect(diff.sections.map((s) => [s.name, s.fields.map((f) => [f.path, f.b])])).toEqual([
      ['cpu/0', [['cpu/hyper.env.htval', 9n]]],
      ['cpu/1', [['env.gpr[5]', 0x123456789abcdef0n]]],
      ['serial/0', [['serial.ier', 7]]],
    ])
    expect(diff.ram).toEqual([])
    const report = await inspectStream(bytesSource(sink.bytes()))
    expect(report.problems).toEqual([])
  })

  it.each([
    ['serial/0:nothing=1', /serial\/0: there is no field nothing/],
    ['serial/3:ier=1', /there is no section serial\/3/],
    ['serial/0:ier=256', /out of range: 0 to 255/],
    ['cpu/0:env.gpr=1', /name one element, as in env.gpr\[0\]/],
    ['hpet/0:cmp=1', /there is no section/],
    ['fw_cfg/0:cur_entry=x', /not an integer/],
    [
      'globalstate/0:runstate="a name that is longer than the hundred bytes that are there for it, which are a lot for the name of a run state"',
      /does not fit/,
    ],
  ])('%s says what is wrong', async (text, message) => {
    const assignments = [parseAssignment(text)]
    await expect(editStream(bytesSource(load('rv72-bm-pci-smp2')), new BytesSink(), assignments)).rejects.toThrow(
      message,
    )
  })
  it('an ambiguous name lists what it could be', async () => {
    const assignments = [parseAssignment('cpu/0:mhpmcounter_val=1')]
    const edit = editStream(bytesSource(load('rv72-bm-pci-smp2')), new BytesSink(), assignments)
    await expect(edit).rejects.toThrow(/could be env.pmu_ctrs\[0\].mhpmcounter_val, env.pmu_ctrs\[1\]/)
  })
  it('a text that is no assignment is refused', () => {
    expect(() => parseAssignment('serial:ier=1')).toThrow(/section\/instance:field=value/)
  })
})
