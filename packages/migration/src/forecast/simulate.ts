import type { WriteCurve } from './write-curve.ts'

/** What is known of a running precopy migration. Times are ms, memory is in pages. */
export interface ForecastFacts {
  readonly unsent: number
  /** Of the unsent pages, how many hold nothing but zeroes; 0 to 1. */
  readonly zeroShare: number
  readonly total: number
  /** Nothing has been sent twice yet. */
  readonly firstPass: boolean
  readonly sinceSyncMs: number
  /** While the guest runs: with max-bandwidth. */
  readonly paced: PageTimes
  /** While it stands. */
  readonly full: PageTimes
  readonly writes: WriteCurve
  readonly downtimeLimitMs: number
  /** Pages per ms that are counted on in the downtime, where that is a setting; 0: what is measured. */
  readonly downtimePagesPerMs: number
  /** The part of its time, 0 to 1, in which the guest is made to stand. */
  readonly throttle: number
  /** With auto-converge. */
  readonly converge: { readonly initial: number; readonly increment: number; readonly max: number } | undefined
}

/** ms per page. */
export interface PageTimes {
  readonly normalMs: number
  readonly zeroMs: number
}

/** One way on which it may go on. */
export interface Course {
  /** Of the time that a page takes; 1: as measured. */
  readonly slowness?: number
  /** See `WriteCurve.pages`. */
  readonly bend?: number
  /** Of the pages that the guest writes; 1: as measured. */
  readonly writing?: number
}
export interface Outcome {
  /** Until everything is there. */
  readonly ms: number
  /** Of that, while the guest stands still. */
  readonly downtimeMs: number
}

/** A section of the stream holds what is sent in this time, and only between sections the rest is looked at. */
const SECTION_MS = 50
/** With max-bandwidth a window's share leaves at its beginning, and the next look is in the next window. */
const LIMITED_SECTION_MS = 100
/** Auto-converge acts after two periods of a second. */
const CONVERGE_MS = 2000
/** So many syncs without getting nearer: it stays so. */
const PATIENCE = 12
const LONGEST_MS = 24 * 3600 * 1000
/** What a guest writes to in the long run. */
const LONG_MS = 60_000

/**
 * Plays the engine's loop: send until the rest fits into the downtime, look at the dirty log, stop the guest if it still fits. Spec:
 * protocol.md section 5.
 * @returns undefined: it never ends
 */
export function simulate(
  facts: ForecastFacts,
  { slowness = 1, bend = 0.5, writing = 1 }: Course = {},
): Outcome | undefined {
  const normalMs = facts.paced.normalMs * slowness
  const zeroMs = facts.paced.zeroMs * slowness
  const fit = facts.downtimeLimitMs * (facts.downtimePagesPerMs || 1 / normalMs)
  const workingSet = Math.max(1, facts.writes.pages(LONG_MS, bend) * writing)
  const sectionMs = facts.paced.normalMs > 1.2 * facts.full.normalMs ? LIMITED_SECTION_MS : SECTION_MS
  let { throttle } = facts
  let zero = facts.unsent * facts.zeroShare
  let normal = facts.unsent - zero
  let since = facts.sinceSyncMs
  let { firstPass } = facts
  let ms = 0
  let least = Number.POSITIVE_INFINITY
  let patience = PATIENCE
  while (ms < LONGEST_MS) {
    if (normal + zero < fit) {
      const share = (1 - throttle) / (1 - facts.throttle)
      const written = facts.writes.pages(since * share, bend) * writing
      normal += written * (1 - Math.min(1, firstPass ? (normal + zero) / facts.total : normal / workingSet))
      firstPass = false
      since = 0
      if (normal + zero < fit) {
        const downtimeMs = (normal * facts.full.normalMs + zero * facts.full.zeroMs) * slowness
        return { ms: ms + downtimeMs, downtimeMs }
      }
      if (normal < least * 0.999) {
        least = normal
        patience = PATIENCE
      } else if (patience-- === 0 && !(facts.converge && throttle < facts.converge.max / 100)) return undefined
    }
    const all = normal * normalMs + zero * zeroMs
    const needed = all * (1 - (fit * 0.999) / (normal + zero))
    const passMs = Math.min(all, Math.ceil(needed / sectionMs) * sectionMs)
    normal *= 1 - passMs / all
    zero *= 1 - passMs / all
    if (facts.converge && Math.floor((ms + passMs) / CONVERGE_MS) > Math.floor(ms / CONVERGE_MS)) {
      const { initial, increment, max } = facts.converge
      throttle = Math.min(max, throttle === 0 ? initial : throttle * 100 + increment) / 100
    }
    ms += passMs
    since += passMs
  }
  return undefined
}
