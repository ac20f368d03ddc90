import { PAGE_BYTES } from '@ferryvm/core'
import type { ForecastInput } from './forecast.ts'
import { type ForecastFacts, type PageTimes, simulate } from './simulate.ts'

/** A setting that would make a migration end. */
export interface Advice {
  /** A parameter, or a capability. */
  readonly setting: 'downtime-limit' | 'max-bandwidth' | 'auto-converge' | 'postcopy-ram'
  /** Of a parameter; of a capability, true. Units are the parameter's. */
  readonly value: number | true
  readonly text: string
}

/** A little worse than what is likely, so that advice taken is advice that works. */
const COURSE = { bend: 0.75, writing: 1.1 } as const
/** The largest that the parameter can be. Spec: protocol.md section 3. */
const MAX_DOWNTIME_MS = 2_000_000
const MAX_SPEED_UP = 64

export function adviceFor(input: ForecastInput, facts: ForecastFacts): Advice[] {
  const advice: Advice[] = []
  const ends = (change: Partial<ForecastFacts>) => simulate({ ...facts, ...change }, COURSE) !== undefined
  const downtime = least(facts.downtimeLimitMs, MAX_DOWNTIME_MS, (downtimeLimitMs) => ends({ downtimeLimitMs }))
  if (downtime !== undefined) {
    const value = roundUp(downtime)
    advice.push({ setting: 'downtime-limit', value, text: `downtime-limit ${value} (ms)` })
  }
  const limit = input.parameters['max-bandwidth']
  const perS = (1000 * PAGE_BYTES) / facts.paced.normalMs
  // Where it is not the limit that slows it down, lifting it is no help.
  if (limit > 0 && perS > 0.8 * limit) {
    const times = least(1, MAX_SPEED_UP, (n) => ends({ paced: faster(facts, n) }))
    if (times !== undefined) {
      const value = roundUp(limit * times)
      advice.push({
        setting: 'max-bandwidth',
        value,
        text: `max-bandwidth ${value} (${Math.ceil(value / 2 ** 20)} MiB/s), if the link can`,
      })
    }
  }
  if (!input.autoConverge) {
    const {
      'cpu-throttle-initial': initial,
      'cpu-throttle-increment': increment,
      'max-cpu-throttle': max,
    } = input.parameters
    if (ends({ converge: { initial, increment, max } }))
      advice.push({ setting: 'auto-converge', value: true, text: 'auto-converge on, which slows the guest down' })
  }
  if (!input.postcopy)
    advice.push({
      setting: 'postcopy-ram',
      value: true,
      text: 'a new migration with postcopy-ram on, which always ends',
    })
  return advice
}

/** The limit so many times as high: never faster than without one. */
function faster({ paced, full }: ForecastFacts, times: number): PageTimes {
  return {
    normalMs: Math.max(full.normalMs, paced.normalMs / times),
    zeroMs: Math.max(full.zeroMs, paced.zeroMs / times),
  }
}

/** The least number, to a hundredth, that is enough; undefined: not even `most` is. */
function least(from: number, most: number, enough: (n: number) => boolean): number | undefined {
  if (!enough(most)) return undefined
  let low = from
  let high = most
  while (high > low * 1.01) {
    const middle = Math.sqrt(low * high)
    if (enough(middle)) high = middle
    else low = middle
  }
  return high
}

/** To two digits. */
function roundUp(n: number): number {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(n)) - 1)
  return Math.ceil(n / unit) * unit
}
