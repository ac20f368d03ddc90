import type { Machine } from '@ferryvm/core'
import { type Place, Places } from './places.ts'
import { Timeline } from './timeline.ts'

export interface ProfilerOptions {
  readonly machine: Pick<Machine, 'cpu'>
  /** Default 1. */
  readonly intervalMs?: number
}

/** What a profiler saw. */
export interface Profile {
  readonly places: readonly Place[]
  /** One per hart: durations in milliseconds, places as indices into `places`. */
  readonly harts: readonly Timeline[]
}

export interface Profiler {
  /** So far; goes on growing until {@link stop}. */
  readonly profile: Profile
  stop(): Profile
}

/**
 * Asks every hart at regular times where it is. The guest runs on: a hart answers at its next branch, jump or page end, and
 * one that sleeps is not woken. An answer stands for the time since the one before.
 * @throws RangeError the machine's harts cannot be asked
 */
export function createProfiler({ machine, intervalMs = 1 }: ProfilerOptions): Profiler {
  const { harts, sampler } = machine.cpu
  if (!sampler) throw new RangeError('the harts of this machine cannot be asked where they are')
  const places = new Places()
  const began = performance.now()
  const lanes = harts.map(() => ({ timeline: new Timeline(), until: began }))
  const look = () => {
    const now = performance.now()
    for (const [hart, lane] of lanes.entries()) {
      const sample = sampler.take(hart)
      if (!sample) continue
      lane.timeline.add(places.number(sample), now - lane.until)
      lane.until = now
    }
    sampler.ask()
  }
  sampler.ask()
  const timer = setInterval(look, intervalMs)
  // A profiler does not keep a process alive.
  if (typeof timer === 'object') timer.unref()
  const profile: Profile = { places: places.list, harts: lanes.map((lane) => lane.timeline) }
  return {
    profile,
    stop() {
      clearInterval(timer)
      return profile
    },
  }
}
