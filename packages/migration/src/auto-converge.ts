import { PAGE_BYTES } from '@ferryvm/core'
import type { ParameterValues } from './parameters.ts'

const PERIOD_MS = 1000
/** Periods in which the guest wrote too much before it is slowed down (further). */
const PATIENCE = 2

/**
 * Slows the guest down while it writes more than the channel takes. Spec: ram.md section 3, "Auto-converge".
 */
export class AutoConverge {
  readonly #parameters: Readonly<ParameterValues>
  readonly #throttle: (percent: number) => void
  /** 0: the guest runs at full speed. */
  percent = 0
  #began: number
  #bytes = 0
  #dirtied = 0
  #tooMuch = 0

  constructor(parameters: Readonly<ParameterValues>, throttle: (percent: number) => void, nowMs: number) {
    this.#parameters = parameters
    this.#throttle = throttle
    this.#began = nowMs
  }

  /**
   * The dirty log was synchronized.
   * @param dirtiedPages found by it
   * @param sentBytes of the whole migration so far
   */
  synced(dirtiedPages: number, sentBytes: number, nowMs: number): void {
    this.#dirtied += dirtiedPages * PAGE_BYTES
    if (nowMs - this.#began <= PERIOD_MS) return
    const dirty = this.#dirtied
    const limit = ((sentBytes - this.#bytes) * this.#parameters['throttle-trigger-threshold']) / 100
    this.#began = nowMs
    this.#bytes = sentBytes
    this.#dirtied = 0
    if (dirty <= limit || ++this.#tooMuch < PATIENCE) return
    this.#tooMuch = 0
    this.#slowDown(limit / dirty)
  }

  stop(): void {
    if (this.percent > 0) this.#throttle(0)
    this.percent = 0
  }

  #slowDown(share: number): void {
    const p = this.#parameters
    let next = p['cpu-throttle-initial']
    if (this.percent > 0) {
      const cpu = 100 - this.percent
      const step = p['cpu-throttle-increment']
      next = this.percent + (p['cpu-throttle-tailslow'] ? Math.min(cpu - cpu * share, step) : step)
    }
    this.percent = Math.min(Math.max(Math.floor(next), 1), p['max-cpu-throttle'])
    this.#throttle(this.percent)
  }
}
