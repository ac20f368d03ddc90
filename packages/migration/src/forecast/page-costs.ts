import { RunningMean } from './running-mean.ts'

/** Of a ZERO record within a block. Spec: ram.md section 2. */
const ZERO_RECORD_BYTES = 9
/** What earlier windows count beside the newest one. */
const MEMORY = 0.8
/** Where windows cannot tell: what a zero page costs beside one with content, which has to be looked at as well. */
const ZERO_COST = 0.2
/** How much that counts, as part of what was seen. */
const PRIOR = 0.02

/**
 * ms that a page takes when nothing holds it back, one for pages with content and one for zero pages: least squares over windows of
 * 100 ms. A single rate would not do: a pass over a fresh guest's memory is mostly zero pages, the passes after it are not.
 */
export class PageCosts {
  #nn = 0
  #nz = 0
  #zz = 0
  #nt = 0
  #zt = 0
  #normalPages = 0
  #normalBytes = 0
  /** What windows took, against what their pages should have cost. */
  readonly #rates = new RunningMean()

  /** @param busyMs without the time in which a limit made it wait */
  window(normal: number, zero: number, bytes: number, busyMs: number): void {
    if (normal + zero === 0 || busyMs <= 0) return
    this.#nn = MEMORY * this.#nn + normal * normal
    this.#nz = MEMORY * this.#nz + normal * zero
    this.#zz = MEMORY * this.#zz + zero * zero
    this.#nt = MEMORY * this.#nt + normal * busyMs
    this.#zt = MEMORY * this.#zt + zero * busyMs
    this.#normalPages = MEMORY * this.#normalPages + normal
    this.#normalBytes = MEMORY * this.#normalBytes + Math.max(0, bytes - ZERO_RECORD_BYTES * zero)
    this.#rates.add(busyMs / (normal * this.normalMs + zero * this.zeroMs))
  }

  get known(): boolean {
    return this.#rates.mean !== undefined
  }

  /** On the wire, of a page with content; 0: none was sent yet. */
  get normalBytes(): number {
    return this.#normalPages > 0 ? this.#normalBytes / this.#normalPages : 0
  }

  get zeroBytes(): number {
    return ZERO_RECORD_BYTES
  }

  get normalMs(): number {
    return this.#solve().normal
  }

  get zeroMs(): number {
    return this.#solve().zero
  }

  /** By how much a window's time differs from what the costs say: a standard deviation, relative. */
  get spread(): number {
    return this.#rates.spread
  }

  #solve(): { normal: number; zero: number } {
    // One more equation says what windows of one mixture leave open: zero - ZERO_COST * normal = 0.
    const prior = PRIOR * (this.#nn + this.#zz)
    const nn = this.#nn + prior * ZERO_COST * ZERO_COST
    const nz = this.#nz - prior * ZERO_COST
    const zz = this.#zz + prior
    const determinant = nn * zz - nz * nz
    const normal = (this.#nt * zz - this.#zt * nz) / determinant
    const zero = (this.#zt * nn - this.#nt * nz) / determinant
    if (normal > 0 && zero > 0) return { normal, zero }
    const shared =
      (this.#nt + ZERO_COST * this.#zt) / (this.#nn + 2 * ZERO_COST * this.#nz + ZERO_COST * ZERO_COST * this.#zz)
    return { normal: shared, zero: ZERO_COST * shared }
  }
}
