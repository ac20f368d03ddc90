/** Rounds in which a card says where it is now, after a migration. As stock does it by default. */
const ROUNDS = 5
const FIRST_MS = 50
const STEP_MS = 100

export class SelfAnnouncement {
  readonly #announce: () => void
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(announce: () => void) {
    this.#announce = announce
  }

  /** At once, and then four times with growing pauses: some network has not seen the first, or its switch was not ready. */
  start(round = 0): void {
    this.stop()
    this.#announce()
    if (round + 1 === ROUNDS) return
    this.#timer = setTimeout(() => this.start(round + 1), FIRST_MS + STEP_MS * round)
    ;(this.#timer as { unref?(): void }).unref?.()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }
}
