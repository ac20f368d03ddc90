import type { CompletionQueue, WorkCompletion } from '../verbs/verbs.ts'

interface Entry {
  readonly completion: WorkCompletion
  /** Gives the places in the work queue back. */
  polled(): void
}

export class SoftwareCompletionQueue implements CompletionQueue {
  readonly depth: number
  readonly #overrun: () => void
  readonly #entries: Entry[] = []
  #overran = false
  #destroyed = false
  readonly #waiting = new Set<() => void>()

  /** @param overrun called once, when an entry found no room */
  constructor(depth: number, overrun: () => void) {
    this.depth = depth
    this.#overrun = overrun
  }

  push(completion: WorkCompletion, polled: () => void): void {
    if (this.#overran || this.#destroyed) return
    if (this.#entries.length === this.depth) {
      this.#overran = true
      this.#wake()
      this.#overrun()
      return
    }
    this.#entries.push({ completion, polled })
    this.#wake()
  }

  poll(max = this.depth): WorkCompletion[] {
    return this.#entries.splice(0, max).map(({ completion, polled }) => {
      polled()
      return completion
    })
  }

  wait(): Promise<void> {
    if (this.#entries.length > 0 || this.#destroyed) return Promise.resolve()
    return new Promise((resolve) => this.#waiting.add(resolve))
  }

  destroy(): void {
    this.#destroyed = true
    this.#entries.length = 0
    this.#wake()
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}
