/** A throttled hart runs this long at a stretch, ms. Spec: ram.md section 3, "Auto-converge". */
const RUN_MS = 10

/** Lets harts run for a while and stand for a while, so that the guest writes memory more slowly. Timers of the device thread. */
export class Throttle {
  readonly #run: (on: boolean) => void
  #percent = 0
  #started = false
  #timer: ReturnType<typeof setTimeout> | undefined

  /** @param run lets the harts go on, or makes them park; called only between `start` and `stop` */
  constructor(run: (on: boolean) => void) {
    this.#run = run
  }

  /** Part of the time that harts stand, 0 to 99. */
  set percent(percent: number) {
    this.#percent = percent
    if (!this.#started || percent > 0 === (this.#timer !== undefined)) return
    if (percent > 0) this.#stand()
    else {
      this.#cancel()
      this.#run(true)
    }
  }

  /** The harts run from now on. */
  start(): void {
    if (this.#started) return
    this.#started = true
    if (this.#percent > 0) this.#stand()
  }

  /** The harts are to stand until the next `start`. */
  stop(): void {
    this.#started = false
    this.#cancel()
  }

  #cancel(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #stand(): void {
    this.#run(false)
    const ratio = this.#percent / 100
    this.#timer = setTimeout(
      () => {
        this.#run(true)
        this.#timer = setTimeout(() => this.#stand(), RUN_MS)
      },
      (ratio / (1 - ratio)) * RUN_MS,
    )
  }
}
