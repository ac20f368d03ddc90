/** How many values count. */
const VALUES = 20

/** Of the last values, and how far they lie apart. */
export class RunningMean {
  readonly #values: number[] = []

  add(value: number): void {
    this.#values.push(value)
    if (this.#values.length > VALUES) this.#values.shift()
  }

  forget(): void {
    this.#values.length = 0
  }

  get mean(): number | undefined {
    const n = this.#values.length
    return n === 0 ? undefined : this.#values.reduce((sum, value) => sum + value, 0) / n
  }

  /** Standard deviation, relative to the mean; of fewer than three values a half. */
  get spread(): number {
    const { mean } = this
    const n = this.#values.length
    if (mean === undefined || n < 3) return 0.5
    return Math.sqrt(this.#values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1)) / mean
  }
}
