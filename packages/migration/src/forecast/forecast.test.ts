import { describe, expect, it } from 'vitest'
import { PARAMETERS, type ParameterValues } from '../parameters.ts'
import { type ForecastInput, forecast } from './forecast.ts'
import { PageCosts } from './page-costs.ts'
import { type ForecastFacts, simulate } from './simulate.ts'
import { WriteCurve } from './write-curve.ts'

const PAGES_PER_MIB = 256

/** A guest that writes at a rate to memory of a size, watched for four seconds. */
function guest(mibPerS: number, setMib: number): WriteCurve {
  const curve = new WriteCurve()
  curve.restart(0)
  for (let ms = 25; ms <= 4000; ms += 25) curve.look(ms, Math.min(setMib, (mibPerS * ms) / 1000) * PAGES_PER_MIB)
  return curve
}

function facts(writes: WriteCurve, channelMibPerS: number, change: Partial<ForecastFacts> = {}): ForecastFacts {
  const times = { normalMs: 1000 / (channelMibPerS * PAGES_PER_MIB), zeroMs: 0 }
  return {
    unsent: 128 * PAGES_PER_MIB,
    zeroShare: 0,
    total: 128 * PAGES_PER_MIB,
    firstPass: true,
    sinceSyncMs: 0,
    paced: times,
    full: times,
    writes,
    downtimeLimitMs: 300,
    downtimePagesPerMs: 0,
    throttle: 0,
    converge: undefined,
    ...change,
  }
}

function input(known: ForecastFacts | undefined, changes: Partial<ParameterValues> = {}): ForecastInput {
  const defaults = Object.entries(PARAMETERS).map(([name, { default: value }]) => [name, value])
  return {
    facts: known,
    spread: 0.05,
    lateMs: 0,
    throughputBytesPerS: 1e8,
    totalBytes: 2 ** 27,
    remainingBytes: 2 ** 27,
    passes: 1,
    parameters: { ...Object.fromEntries(defaults), ...changes },
    autoConverge: false,
    postcopy: false,
  }
}

describe('the curve of writes', () => {
  it('gives back what was seen, between the looks too', () => {
    const curve = guest(100, 32)
    expect(curve.pages(100, 0)).toBeCloseTo(10 * PAGES_PER_MIB, 0)
    expect(curve.pages(150, 0)).toBeCloseTo(15 * PAGES_PER_MIB, 0)
    expect(curve.pages(3000, 0)).toBeCloseTo(32 * PAGES_PER_MIB, 0)
  })

  it('goes on straight beyond that, as far as it is told to', () => {
    const curve = guest(8, 1000)
    expect(curve.pages(10_000, 1)).toBeCloseTo(80 * PAGES_PER_MIB, 0)
    expect(curve.pages(10_000, 0)).toBeCloseTo(32 * PAGES_PER_MIB, 0)
  })

  it('follows a guest that changes, newer looks counting more', () => {
    const curve = guest(100, 32)
    for (const began of [10_000, 20_000, 30_000, 40_000]) {
      curve.restart(began)
      curve.look(began + 1000, 4 * PAGES_PER_MIB)
    }
    expect(curve.pages(100, 0)).toBeLessThan(1.5 * PAGES_PER_MIB)
  })

  it('knows nothing before the first look', () => {
    expect(new WriteCurve().known).toBe(false)
  })
})

describe('the costs of pages', () => {
  it('are told apart by windows of different mixtures', () => {
    const costs = new PageCosts()
    for (const [normal, zero] of [
      [400, 100],
      [100, 4000],
      [300, 900],
      [10, 6000],
    ] as const)
      costs.window(normal, zero, normal * 4104 + zero * 9, normal * 0.2 + zero * 0.01)
    expect(costs.normalMs).toBeCloseTo(0.2, 1)
    expect(costs.zeroMs).toBeGreaterThan(0.008)
    expect(costs.zeroMs).toBeLessThan(0.015)
    expect(costs.normalBytes).toBeCloseTo(4104)
    expect(costs.spread).toBeLessThan(0.1)
  })

  it('are never less than nothing, whatever one mixture alone says', () => {
    const costs = new PageCosts()
    costs.window(1000, 1000, 1000 * 4113, 50)
    costs.window(1001, 999, 1000 * 4113, 90)
    costs.window(0, 0, 0, 10)
    expect(costs.normalMs).toBeGreaterThan(0)
    expect(costs.zeroMs).toBeGreaterThan(0)
    expect(1000 * (costs.normalMs + costs.zeroMs)).toBeLessThan(100)
  })
})

describe('the forecast', () => {
  it('is too early without a window', () => {
    expect(forecast(input(undefined))).toMatchObject({ verdict: 'unknown', remainingMs: undefined, advice: [] })
  })

  it('of a guest that sleeps is the time that its memory takes', () => {
    const { remainingMs, verdict } = forecast(input(facts(guest(0, 1), 64)))
    expect(verdict).toBe('converges')
    expect(remainingMs!.p50).toBeGreaterThan(2000)
    expect(remainingMs!.p50).toBeLessThan(2100)
    expect(remainingMs!.p10).toBeLessThan(remainingMs!.p50)
    expect(remainingMs!.p90).toBeGreaterThan(remainingMs!.p50)
  })

  it('counts zero pages for what they cost', () => {
    expect(simulate(facts(guest(0, 1), 64, { zeroShare: 0.75 }))!.ms).toBeCloseTo(500, -2)
  })

  it('adds the passes that a writing guest needs', () => {
    const quiet = simulate(facts(guest(0, 1), 64))!
    const busy = simulate(facts(guest(32, 1000), 64))!
    expect(busy.ms).toBeGreaterThan(1.5 * quiet.ms)
    expect(busy.downtimeMs).toBeLessThanOrEqual(300)
  })

  it('sees that a guest writes to few pages only, however fast', () => {
    expect(forecast(input(facts(guest(1000, 8), 64)))).toMatchObject({ verdict: 'converges' })
  })

  it('takes the downtime without the limit that holds while the guest runs', () => {
    const full = { normalMs: 0.001, zeroMs: 0 }
    expect(simulate(facts(guest(0, 1), 64, { full }))!.downtimeMs).toBeLessThan(50)
  })

  it('says why a guest never gets there, and advice that is taken works', () => {
    const full = { normalMs: 0.0001, zeroMs: 0 }
    const known = facts(guest(200, 96), 50, { full })
    const { verdict, sentence, advice, remainingMs } = forecast(input(known, { 'max-bandwidth': 50 * 2 ** 20 }))
    expect(verdict).toBe('diverges')
    expect(remainingMs!.p50).toBe(Number.POSITIVE_INFINITY)
    expect(sentence).toMatch(
      /^does not end: the guest writes to 96\.0 MiB in a second, the channel takes 50\.0 MiB; .* 300 ms .* 15\.0 MiB/,
    )
    for (const { text } of advice) expect(sentence).toContain(text)
    const value = (setting: string) => advice.find((a) => a.setting === setting)!.value as number
    const downtimeLimitMs = value('downtime-limit')
    expect(simulate({ ...known, downtimeLimitMs })).toBeDefined()
    expect(simulate({ ...known, downtimeLimitMs: downtimeLimitMs / 1.5 })).toBeUndefined()
    const limited = (bytesPerS: number) =>
      simulate({ ...known, paced: { normalMs: (1000 * 2 ** 20) / (bytesPerS * PAGES_PER_MIB), zeroMs: 0 } })
    expect(limited(value('max-bandwidth'))).toBeDefined()
    expect(limited(value('max-bandwidth') / 1.5)).toBeUndefined()
  })

  it('does not advise a wider limit where the link is what is slow', () => {
    const { advice } = forecast(input(facts(guest(200, 96), 50), { 'max-bandwidth': 2 ** 30 }))
    expect(advice.map((a) => a.setting)).toEqual(['downtime-limit', 'auto-converge', 'postcopy-ram'])
  })

  it('counts on auto-converge where it is on', () => {
    const converge = { initial: 20, increment: 10, max: 99 }
    const ended = simulate(facts(guest(80, 1000), 64, { converge }))!
    expect(ended.ms).toBeGreaterThan(2000)
    expect(simulate(facts(guest(80, 1000), 64))).toBeUndefined()
  })
})
