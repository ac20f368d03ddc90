/** Many at a time, or one alone; in the order in which they came. */
export class SharedLock {
  readonly #waiting: { readonly alone: boolean; readonly go: () => void }[] = []
  #inside = 0
  #alone = false

  /** Runs together with others of this kind. */
  shared<T>(run: () => Promise<T>): Promise<T> {
    return this.#run(false, run)
  }

  /** Runs when nothing else does. */
  exclusive<T>(run: () => Promise<T>): Promise<T> {
    return this.#run(true, run)
  }

  async #run<T>(alone: boolean, run: () => Promise<T>): Promise<T> {
    if (this.#waiting.length > 0 || this.#alone || (alone && this.#inside > 0)) {
      await new Promise<void>((go) => this.#waiting.push({ alone, go }))
    } else this.#enter(alone)
    try {
      return await run()
    } finally {
      this.#inside--
      if (alone) this.#alone = false
      this.#admit()
    }
  }

  #enter(alone: boolean): void {
    this.#inside++
    this.#alone = alone
  }

  #admit(): void {
    for (;;) {
      const next = this.#waiting[0]
      if (!next || this.#alone || (next.alone && this.#inside > 0)) return
      this.#waiting.shift()
      this.#enter(next.alone)
      next.go()
    }
  }
}
