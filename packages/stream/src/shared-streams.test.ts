import { describe, expect, it } from 'vitest'
import { inspectStream } from './inspect/inspect-stream.ts'
import { type Json, stateJson } from './inspect/report-json.ts'
import { bytesSource, channelSource } from './source/byte-source.ts'
import { isStateNode } from './state/state-node.ts'
import { decodedText, loadStream, recordedBlocks, stockStreams } from './stock-streams-testing.ts'

/** Large integers as text, on both sides. */
const parseExact = (text: string): any =>
  JSON.parse(text, (_, value, context?: { source?: string }) =>
    typeof value === 'number' && !Number.isSafeInteger(value) ? (context?.source ?? String(value)) : value,
  )

/** The oracle's form: subsections are a key of the fields. */
function flat(node: any): any {
  if (Array.isArray(node)) return node.map(flat)
  if (typeof node !== 'object' || node === null) return node
  const { subsections, ...fields } = node
  const out: any = Object.fromEntries(Object.entries(fields).map(([k, v]) => [k, flat(v)]))
  if (subsections)
    out._subsections = Object.fromEntries(
      Object.entries(subsections as object).map(([k, { version, fields }]: any) => [k, { version, ...flat(fields) }]),
    )
  return out
}

describe.each(stockStreams)('%s', (name) => {
  const bytes = loadStream(name)
  const oracle = parseExact(decodedText(name))
  const reading = inspectStream(bytesSource(bytes))

  it('has the elements that are in it', async () => {
    const report = await reading
    expect(report.problems).toEqual([])
    expect(report.complete).toBe(true)
    expect(report.bytes).toBe(bytes.length)
    expect(report.configuration?.machine).toBe(oracle.config.name)
    expect(report.commands.map((c) => [c.offset, c.id])).toEqual(oracle.commands.map((c: any) => [c[0], c[1]]))
    const rows = (sections: readonly any[], body: string) =>
      sections.map((s) => [
        s.kind ?? s.type,
        s.offset ?? s.off,
        s.sectionId ?? s.section_id,
        s.idstr,
        s.version,
        s[body],
      ])
    expect(rows(report.sections, 'bytes')).toEqual(rows(oracle.sections, 'body_len'))
  })

  it('has the values that the independent parser found', async () => {
    const report = await reading
    const full = report.sections.filter((s) => s.kind === 'full')
    const theirs = oracle.sections.filter((s: any) => s.type === 'full')
    for (const [i, section] of full.entries()) {
      const json = stateJson(section.state!) as { fields: Json; subsections?: Json }
      const ours = flat({ ...(json.fields as object), ...(json.subsections && { subsections: json.subsections }) })
      expect(ours, section.idstr).toEqual(likeOurs(theirs[i].data, ours))
    }
  })

  it('has the pages of RAM that the independent parser found', async () => {
    const { ram } = await reading
    const rows = ram!.blocks.map((b) => [b.idstr, b.usedLength, b.zeroPages, b.normalPages, b.distinctPages])
    const theirs = recordedBlocks(name)
    expect(rows).toEqual(
      theirs.map((b) => [b.idstr, b.used_length, b.zero_page_records, b.data_page_records, b.distinct_pages]),
    )
  })

  it('knows what is in its virtio devices', async () => {
    const report = await reading
    for (const section of report.sections) {
      const field = section.state?.fields.find((f) => f.type === 'virtio')
      if (!field) continue
      const virtio = field.values[0]!
      expect(isStateNode(virtio), section.idstr).toBe(true)
      if (!isStateNode(virtio)) continue
      const value = (name: string) => virtio.fields.find((f) => f.name === name)?.values
      const status = value('status')![0]
      // Reset, or driven by a driver that is ready.
      expect([0, 0xf, 0x7], `${section.idstr} ${status}`).toContain(status)
      expect(value('queue')).toHaveLength(value('queue_count')![0] as number)
      expect(virtio.subsections.map((s) => s.name)).toContain('virtio/64bit_features')
      if (/virtio-(blk|rng)$/.test(section.idstr)) expect(virtio.fields.at(-1)!.bytes).toBeLessThan(100)
    }
  })

  it('reads the same from a pipe, in pieces', async () => {
    let at = 0
    let turn = 0
    const pipe = channelSource({
      async read(into) {
        const part = bytes.subarray(at, at + Math.min(into.length, 1 + ((turn++ * 7919) % 30_000)))
        into.set(part)
        at += part.length
        return part.length
      },
    })
    expect(await inspectStream(pipe)).toEqual(await reading)
  })

  it('is read to its end from a sender that then waits for an answer', async () => {
    let at = 0
    let turn = 0
    const socket = channelSource({
      async read(into) {
        // Asked for more than there is, this waits for ever.
        if (at === bytes.length) return new Promise<number>(() => {})
        const part = bytes.subarray(at, at + Math.min(into.length, 1 + ((turn++ * 7919) % 30_000)))
        into.set(part)
        at += part.length
        return part.length
      },
    })
    expect(await inspectStream(socket, { live: true })).toEqual(await reading)
  })
})

/** The other parser prints some types as hex: read as the number that ours is. */
function likeOurs(theirs: any, ours: any): any {
  if (Array.isArray(theirs)) return theirs.map((t, i) => likeOurs(t, ours?.[i]))
  if (typeof theirs === 'object' && theirs !== null) {
    // Of arrays whose last element has no index it makes a list in a list.
    const multi = Object.keys(theirs).find((k) => k.startsWith('_multi_'))
    if (multi) {
      const { [multi]: _, ...rest } = theirs
      const name = multi.slice('_multi_'.length)
      return likeOurs({ ...rest, [name]: rest[name].flat() }, ours)
    }
    return Object.fromEntries(Object.entries(theirs).map(([k, v]) => [k, likeOurs(v, ours?.[k])]))
  }
  // It does not look into temporaries (80-bit floats); they are zero in all of these streams.
  // Nor into virtio; that ours are the same bytes is what the rewriting tests show.
  if (typeof theirs === 'string' && typeof ours === 'object' && 'queue_count' in ours) return ours
  if (typeof theirs === 'string' && /^0+$/.test(theirs) && typeof ours === 'object' && ours !== null)
    return Object.fromEntries(Object.keys(ours).map((k) => [k, 0]))
  if (theirs === ours) return ours
  if (typeof theirs === 'string' && typeof ours === 'string' && /^-?\d+$/.test(ours) && theirs.length === 16)
    return String(BigInt.asIntN(64, BigInt(`0x${theirs}`)))
  if (typeof theirs === 'string' && typeof ours === 'number' && /^[0-9a-f]+$/.test(theirs))
    return Number(BigInt.asIntN(theirs.length * 4, BigInt(`0x${theirs}`)))
  return theirs
}
