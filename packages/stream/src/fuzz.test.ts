import { expect, it } from 'vitest'
import { diffStreams } from './diff/diff-streams.ts'
import { StreamRewriteError } from './errors.ts'
import { inspectStream } from './inspect/inspect-stream.ts'
import { reportJson } from './inspect/report-json.ts'
import { reportText } from './inspect/report-text.ts'
import { rewriteStream, type StreamEdits } from './rewrite/rewrite-stream.ts'
import { bytesSource, channelSource } from './source/byte-source.ts'
import { loadStream, stockStreams } from './stock-streams-testing.ts'

/** FERRY_FUZZ_CASES=100000 FERRY_FUZZ_SEED=7 for a long run. */
const CASES = Number(process.env.FERRY_FUZZ_CASES ?? 300)
const SEED = Number(process.env.FERRY_FUZZ_SEED ?? 1)

const sameAgain: StreamEdits['section'] = ({ version }, state) => state && { version, state }

/** mulberry32 */
function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * below)
  }
}

it(`${CASES} damaged streams: no crash, no hang, no memory beyond the bounds`, {
  timeout: 60_000 + CASES * 100,
}, async () => {
  const next = random(SEED)
  const streams = stockStreams.map(loadStream)
  const bounds = { sectionBytes: 1 << 20 }
  for (let i = 0; i < CASES; i++) {
    const original = streams[next(streams.length)]!
    const damaged = original.slice(0, next(4) === 0 ? next(original.length) : original.length)
    // Where structure is: headers in front, devices and description behind RAM.
    const tail = Math.max(1, damaged.length - 80_000)
    for (let n = next(4); n >= 0 && damaged.length > 0; n--) {
      const at = next(3) === 0 ? next(Math.min(400, damaged.length)) : Math.min(damaged.length - 1, tail + next(80_000))
      damaged[at] = next(3) === 0 ? 0xff : next(256)
    }
    const source = () => {
      const seekable = bytesSource(damaged)
      return i % 2 === 0 ? seekable : channelSource({ read: (into) => seekable.read(into) })
    }
    const report = await inspectStream(source(), { bounds })
    expect(report.bytes, `case ${i}`).toBeLessThanOrEqual(damaged.length)
    if (i % 8 === 0) {
      JSON.stringify(reportJson(report))
      for (const line of reportText(report)) expect(line.length).toBeLessThan(1 << 20)
    }
    if (i % 16 === 0) await diffStreams(source(), bytesSource(original), { bounds })
    // What can be read whole comes out as it went in; what cannot is refused.
    let at = 0
    let same = true
    const compare = {
      write(bytes: Uint8Array) {
        same &&= Buffer.compare(bytes, damaged.subarray(at, at + bytes.length)) === 0
        at += bytes.length
      },
    }
    try {
      const edits = { keepDescription: true, section: sameAgain }
      await rewriteStream(source(), compare, i % 4 === 0 ? edits : {}, { bounds })
      expect([same, at], `case ${i}`).toEqual([true, damaged.length])
    } catch (error) {
      expect(error, `case ${i}`).toBeInstanceOf(StreamRewriteError)
    }
  }
})
