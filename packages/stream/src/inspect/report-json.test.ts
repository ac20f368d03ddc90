import { describe, expect, it } from 'vitest'
import { bytesSource } from '../source/byte-source.ts'
import { loadStream, stockStreams } from '../stock-streams-testing.ts'
import { inspectStream } from './inspect-stream.ts'
import type { StreamReport } from './report.ts'
import { type Json, reportJson, reportJsonText } from './report-json.ts'

describe('reportJsonText', () => {
  it.each(stockStreams)('is the text of reportJson: %s', async (name) => {
    const report = await inspectStream(bytesSource(loadStream(name)))
    expect(report.sections.length).toBeGreaterThan(5)
    expect(JSON.parse(reportJsonText(report))).toEqual(reportJson(report))
  })

  it('keeps one of two fields of a name, a subsection without fields, and bytes', () => {
    const inner = {
      name: 'in',
      version: 1,
      fields: [],
      subsections: [{ name: 's', version: 2, fields: [], subsections: [] }],
    }
    const field = (name: string, value: any) => ({ name, type: 'x', offset: 0, bytes: 1, values: [value] })
    const fields = [field('a', 1), field('b', Uint8Array.of(0, 255)), field('a', 2n ** 60n), field('c', inner)]
    const state = { name: 'vm"sd', version: 1, fields, subsections: [] }
    const section = {
      kind: 'full',
      offset: 0,
      sectionId: 1,
      idstr: 'x',
      instanceId: 0,
      version: 1,
      bytes: 4,
      count: 1,
      packaged: false,
      state,
    } as const
    const report: StreamReport = {
      bytes: 4,
      commands: [],
      sections: [section],
      complete: true,
      trailingBytes: 0,
      problems: [],
    }
    const json = JSON.parse(reportJsonText(report)) as { sections: { fields: Json }[] }
    expect(json).toEqual(reportJson(report))
    expect(json.sections[0]!.fields).toEqual({
      a: String(2n ** 60n),
      b: '00ff',
      c: { subsections: { s: { version: 2, fields: {} } } },
    })
  })
})
