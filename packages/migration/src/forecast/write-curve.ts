/** ms after a sync at which the curve has a point. */
const KNOTS_MS = [25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 102_400] as const
/** How much a new look at one point counts beside all earlier ones. */
const WEIGHT = 0.5

/**
 * How many distinct pages the guest writes within a time: what a migration has to send again after a pass that took that long. A
 * guest that writes to few pages over and over has a curve that soon gets flat, and moves; one that does not, may never.
 * Built from looks at the dirty log between two syncs.
 */
export class WriteCurve {
  readonly #points: (number | undefined)[] = new Array(KNOTS_MS.length).fill(undefined)
  #began = 0
  #last = { ms: 0, pages: 0 }

  /** The dirty log is empty now. */
  restart(nowMs: number): void {
    this.#began = nowMs
    this.#last = { ms: 0, pages: 0 }
  }

  /** @param pages written since {@link restart} */
  look(nowMs: number, pages: number): void {
    const last = this.#last
    const ms = nowMs - this.#began
    if (ms <= last.ms) return
    for (let i = 0; i < KNOTS_MS.length; i++) {
      const at = KNOTS_MS[i]!
      if (at <= last.ms) continue
      if (at > ms) break
      const seen = last.pages + ((pages - last.pages) * (at - last.ms)) / (ms - last.ms)
      const known = this.#points[i]
      this.#points[i] = known === undefined ? seen : known + WEIGHT * (seen - known)
    }
    this.#last = { ms, pages }
  }

  /** False: the guest has not been watched for long enough to say anything. */
  get known(): boolean {
    return this.#points[0] !== undefined
  }

  /**
   * Pages written within `ms`. Beyond what was seen the curve goes on straight, bent by `bend`.
   * @param bend 1: a guest that goes on to new pages as before; 0: one that has shown all pages that it writes to
   */
  pages(ms: number, bend: number): number {
    let before = { ms: 0, pages: 0 }
    let slope = 0
    for (const point of this.#curve()) {
      slope = (point.pages - before.pages) / (point.ms - before.ms)
      if (ms <= point.ms) return before.pages + slope * (ms - before.ms)
      before = point
    }
    return before.pages + bend * Math.max(0, slope) * (ms - before.ms)
  }

  /** In order of time; never falling, as every point has a past of its own. */
  *#curve(): Iterable<{ ms: number; pages: number }> {
    let most = 0
    for (const [i, known] of this.#points.entries()) {
      if (known === undefined) continue
      most = Math.max(most, known)
      yield { ms: KNOTS_MS[i]!, pages: most }
    }
    const { ms, pages } = this.#last
    if (ms > (KNOTS_MS.findLast((_, i) => this.#points[i] !== undefined) ?? 0))
      yield { ms, pages: Math.max(most, pages) }
  }
}
