import { PAGE_BYTES } from '@ferryvm/core'
import type { ParameterValues } from '../parameters.ts'
import { type Advice, adviceFor } from './advice.ts'
import { type Course, type ForecastFacts, simulate } from './simulate.ts'

/** How the running precopy migration will go on. Times are ms. */
export interface MigrationForecast {
  readonly throughputBytesPerS: number
  readonly remainingBytes: number
  readonly totalBytes: number
  /** What a guest that writes on as now makes dirty in a second, distinct pages. */
  readonly dirtyBytesPerS: number
  readonly passes: number
  /** Until it is completed; undefined: too early to say. */
  readonly remainingMs: Range | undefined
  /** How long the guest will stand still; undefined: too early to say. */
  readonly downtimeMs: Range | undefined
  /** `unsure`: the likely course ends, one that is a little worse does not. */
  readonly verdict: 'unknown' | 'converges' | 'unsure' | 'diverges'
  /** The verdict for people, with the numbers it stands on. */
  readonly sentence: string
  /** What would make it end, where it does not. Each alone is enough. */
  readonly advice: readonly Advice[]
}

/** Infinity: it does not end. */
export interface Range {
  /** One in ten is below. */
  readonly p10: number
  readonly p50: number
  /** One in ten is above: calibrated, see `pnpm forecast:calibrate`. */
  readonly p90: number
}

export interface ForecastInput {
  readonly facts: ForecastFacts | undefined
  /** Of the time that windows of 100 ms took, against what their pages should have cost: a relative deviation. */
  readonly spread: number
  /** By how many ms things happen late here. */
  readonly lateMs: number
  readonly throughputBytesPerS: number
  readonly totalBytes: number
  readonly remainingBytes: number
  readonly passes: number
  readonly parameters: Readonly<ParameterValues>
  /** What the advice may name. */
  readonly autoConverge: boolean
  readonly postcopy: boolean
}

/** Stopping the guest, its devices, and the destination's answer: ms beside the memory, and turns that are waited for. */
const SWITCHOVER: Readonly<Record<keyof Range, { ms: number; turns: number }>> = {
  p10: { ms: 5, turns: 0 },
  p50: { ms: 15, turns: 1 },
  p90: { ms: 45, turns: 3 },
}
/** A guest that goes on as it does, one that slows down, one that gets worse. */
const COURSES: Readonly<Record<keyof Range, Course>> = {
  p10: { bend: 0.2, writing: 0.8 },
  p50: {},
  p90: { bend: 1, writing: 1.3 },
}
/** Standard deviations from the middle to the tenth and the ninetieth of a hundred. */
const Z = { p10: -1.28, p50: 0, p90: 1.28 } as const

export function forecast(input: ForecastInput): MigrationForecast {
  const { facts } = input
  const known = {
    throughputBytesPerS: input.throughputBytesPerS,
    remainingBytes: input.remainingBytes,
    totalBytes: input.totalBytes,
    dirtyBytesPerS: facts ? facts.writes.pages(1000, 0.5) * PAGE_BYTES : 0,
    passes: input.passes,
  }
  if (!facts) {
    const sentence = 'it is too early to say how long this takes'
    return { ...known, remainingMs: undefined, downtimeMs: undefined, verdict: 'unknown', sentence, advice: [] }
  }
  const outcome = (which: keyof Range) =>
    simulate(facts, { ...COURSES[which], slowness: 1 + Z[which] * slack(input, facts) })
  const outcomes = { p10: outcome('p10'), p50: outcome('p50'), p90: outcome('p90') }
  const switchoverMs = (which: keyof Range) => SWITCHOVER[which].ms + SWITCHOVER[which].turns * input.lateMs
  const range = (value: (which: keyof Range) => number): Range => ({
    p10: value('p10'),
    p50: value('p50'),
    p90: value('p90'),
  })
  const remainingMs = range((which) => (outcomes[which]?.ms ?? Number.POSITIVE_INFINITY) + switchoverMs(which))
  const downtimeMs = range((which) => (outcomes[which]?.downtimeMs ?? Number.POSITIVE_INFINITY) + switchoverMs(which))
  const verdict = outcomes.p90 ? 'converges' : outcomes.p50 ? 'unsure' : 'diverges'
  const advice = verdict === 'converges' ? [] : adviceFor(input, facts)
  return {
    ...known,
    remainingMs,
    downtimeMs,
    verdict,
    sentence: sentenceOf(verdict, remainingMs, downtimeMs, facts, advice),
    advice,
  }
}

/** How far the mean of all windows to come may lie from the measured costs: what differs from window to window evens out. */
function slack({ spread }: ForecastInput, facts: ForecastFacts): number {
  const windows = (facts.unsent * facts.paced.normalMs) / 100
  return Math.min(0.6, 0.1 + spread / Math.sqrt(Math.max(1, Math.min(windows, 16))))
}

function sentenceOf(
  verdict: 'converges' | 'unsure' | 'diverges',
  remaining: Range,
  downtime: Range,
  facts: ForecastFacts,
  advice: readonly Advice[],
): string {
  const end =
    `ends in ${seconds(remaining.p50)} (${seconds(remaining.p10)} to ${seconds(remaining.p90)}) ` +
    `with ${milliseconds(downtime.p50)} of downtime (${milliseconds(downtime.p10)} to ${milliseconds(downtime.p90)})`
  if (verdict === 'converges') return end
  const passMs = facts.writes.pages(60_000, 0.5) * facts.paced.normalMs
  const numbers =
    `the guest writes to ${mebibytes(facts.writes.pages(1000, 0.5))} in a second, the channel takes ` +
    `${mebibytes(1000 / facts.paced.normalMs)}; a pass leaves about ${mebibytes(facts.writes.pages(passMs, 0.5))}, and ` +
    `${facts.downtimeLimitMs} ms of downtime are enough for ${mebibytes(facts.downtimeLimitMs * (facts.downtimePagesPerMs || 1 / facts.paced.normalMs))}`
  const ways = advice.map(({ text }) => text)
  const way = ways.length === 0 ? '' : `. Enough would be: ${ways.join(', or ')}`
  return verdict === 'diverges' ? `does not end: ${numbers}${way}` : `${end}, or not at all: ${numbers}${way}`
}

const mebibytes = (pages: number) => `${((pages * PAGE_BYTES) / 2 ** 20).toFixed(1)} MiB`
const seconds = (ms: number) => (ms === Number.POSITIVE_INFINITY ? 'never' : `${(ms / 1000).toFixed(1)} s`)
const milliseconds = (ms: number) => (ms === Number.POSITIVE_INFINITY ? 'no end' : `${Math.round(ms)} ms`)
