/** Of all runs together: 16 bytes each. */
const DEFAULT_CAPACITY = 1 << 16

/**
 * What was seen, and for how long, in order. Its memory is bounded: when it is full, it goes on with a grain twice as coarse,
 * for the past as well. Of two runs that become one, each is kept as often as it is long, so that sums stay right on average.
 */
export class Timeline {
  readonly #capacity: number
  readonly #places: Int32Array
  readonly #durations: Float64Array
  #length = 0
  #total = 0
  /** Runs shorter than this take in what follows them. */
  #grain = 0
  #seed = 1

  constructor(capacity = DEFAULT_CAPACITY) {
    this.#capacity = capacity
    this.#places = new Int32Array(capacity)
    this.#durations = new Float64Array(capacity)
  }

  get length(): number {
    return this.#length
  }

  /** All durations together. */
  get total(): number {
    return this.#total
  }

  add(place: number, duration: number): void {
    if (!(duration > 0)) return
    this.#total += duration
    this.#append(place, duration)
    if (this.#length < this.#capacity) return
    this.#grain = Math.max(2 * this.#grain, (2 * this.#total) / this.#capacity)
    const length = this.#length
    this.#length = 0
    for (let i = 0; i < length; i++) this.#append(this.#places[i], this.#durations[i])
  }

  *runs(): IterableIterator<{ readonly place: number; readonly duration: number }> {
    for (let i = 0; i < this.#length; i++) yield { place: this.#places[i], duration: this.#durations[i] }
  }

  #append(place: number, duration: number): void {
    const last = this.#length - 1
    if (last >= 0 && (this.#places[last] === place || this.#durations[last] < this.#grain)) {
      this.#durations[last] += duration
      if (this.#random() * this.#durations[last] < duration) this.#places[last] = place
      return
    }
    this.#places[this.#length] = place
    this.#durations[this.#length++] = duration
  }

  /** 0 to 1; the same in every run. */
  #random(): number {
    this.#seed = (Math.imul(this.#seed, 1664525) + 1013904223) >>> 0
    return this.#seed / 2 ** 32
  }
}
