/** Length of a measuring and limiting window. Spec: protocol.md section 5. */
export const WINDOW_MS = 100

/** Limits what is sent per window and measures what the channel really takes. */
export class Bandwidth {
  /** Bytes per second; 0: no limit. Takes effect at once, in the current window. */
  limit = 0
  /** Bytes per ms of the last complete window; 0 before the first one. */
  perMs = 0
  #windowBegan = 0
  #windowBase = 0
  /** What earlier windows sent over their share: the channel takes batches, and a batch does not end where a share does. */
  #debt = 0
  #bytes: () => number

  /** @param bytes all bytes accepted so far */
  constructor(bytes: () => number) {
    this.#bytes = bytes
    this.restart()
  }

  restart(): void {
    this.#debt = 0
    this.#begin()
  }

  #begin(): void {
    this.#windowBegan = performance.now()
    this.#windowBase = this.#bytes()
  }

  /** True while the current window's share is used up. */
  get exceeded(): boolean {
    return this.limit > 0 && this.#bytes() - this.#windowBase + this.#debt >= this.#share
  }

  get #share(): number {
    return (this.limit * WINDOW_MS) / 1000
  }

  /** ms until the current window ends. */
  get windowLeftMs(): number {
    return this.#windowBegan + WINDOW_MS - performance.now()
  }

  /** Bytes per ms: the last window's, or that of a first one that is at least 10 ms old; 0: unknown yet. */
  get estimate(): number {
    if (this.perMs > 0) return this.perMs
    const ms = performance.now() - this.#windowBegan
    return ms < 10 ? 0 : (this.#bytes() - this.#windowBase) / ms
  }

  /** For so long nothing was to be sent, without a limit: the channel could have taken more. */
  waited(ms: number): void {
    this.#windowBegan += ms
  }

  /** Closes the window if its time is over. @returns its bytes and ms if so */
  tick(): { bytes: number; ms: number } | undefined {
    const ms = performance.now() - this.#windowBegan
    if (ms < WINDOW_MS) return undefined
    const bytes = this.#bytes() - this.#windowBase
    this.perMs = bytes / ms
    this.#debt = this.limit > 0 ? Math.max(0, this.#debt + bytes - (this.limit * ms) / 1000) : 0
    this.#begin()
    return { bytes, ms }
  }
}
