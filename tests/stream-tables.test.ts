/** Streams without their description, read by the tables of our devices: the same values as with it. */
import {
  type ByteSource,
  bytesSource,
  channelSource,
  encodeState,
  inspectStream,
  type SectionReport,
  type StateNode,
} from '@ferryvm/stream'
import { describe, expect, it } from 'vitest'
import { deviceTables } from '../apps/emu/src/stream/tables.ts'
import { leavesOf } from '../packages/stream/src/rewrite/field-path.ts'
import { loadStream, stockStreams } from '../packages/stream/src/stock-streams-testing.ts'

/** Virtio devices whose own data has a table. */
const OWN_DATA = /\/virtio-(blk|console|iommu|net)$/

const values = (state: StateNode) => [...leavesOf(state)].map(({ path, value }) => [path, value])
const full = (sections: readonly SectionReport[]) => sections.filter((s) => s.kind === 'full')

describe.each(stockStreams.filter((name) => name.startsWith('rv')))('%s', (name) => {
  const bytes = loadStream(name)

  it.each([
    ['file', bytesSource],
    ['pipe', (b: Uint8Array): ByteSource => channelSource(bytesSource(b))],
  ])('has its values without a description, from a %s', async (_, source) => {
    const described = await inspectStream(bytesSource(bytes), { tables: deviceTables })
    const bare = bytes.subarray(0, described.description!.offset)
    const report = await inspectStream(source(bare), { tables: deviceTables })
    expect(report.problems.map((p) => p.message)).toEqual(['there is no description'])
    const [mine, theirs] = [full(report.sections), full(described.sections)]
    expect(mine.map((s) => s.idstr)).toEqual(theirs.map((s) => s.idstr))
    for (const [i, section] of mine.entries()) {
      expect(section.layoutSource, section.idstr).toBe('table')
      if (OWN_DATA.test(section.idstr)) {
        const paths = [...leavesOf(section.state!)].map(({ path }) => path)
        expect(paths, section.idstr).not.toContain('virtio.device')
      }
      // Of its 104 bytes the two releases make different rows, and the older one's are read as the newer one's.
      if (section.idstr === 'globalstate')
        expect(encodeState(section.state!), section.idstr).toEqual(encodeState(theirs[i]!.state!))
      else expect(values(section.state!), section.idstr).toEqual(values(theirs[i]!.state!))
    }
  })
})
