import { pageMissingIn } from '../memory/missing-pages.ts'

/**
 * Nanoseconds of host time since `baseMs`, the same in every thread of the process.
 * A double: exact to below a microsecond for years.
 * @param baseMs `performance.timeOrigin` of the thread that created the clock
 */
export const hostNs = (baseMs: number): number => (performance.timeOrigin - baseMs + performance.now()) * 1e6

/** Words of the shared page, Float64: what worker threads need to compute the same time. */
const OFFSET = 0
const FROZEN = 1
const RUNNING = 2
/** An integer among them: the latest time that any thread has read since the clock was started. */
const LATEST = 3
/**
 * A browser rounds the clock of each thread by itself, to 5 us at best. What one hart or device has seen of the time, the next one
 * must not see go back.
 */
const ROUNDED = 'crossOriginIsolated' in globalThis

export interface Timer {
  /** Virtual ns, or -1n when idle. */
  expireNs: bigint
}

/** Time as the guest sees it: ns that pass only while the machine runs. Starts stopped at 0. */
export class VirtualClock {
  readonly baseMs: number
  /** Hand this and `baseMs` to a worker and use {@link readVirtualNs}. */
  readonly shared: Float64Array<SharedArrayBuffer>
  readonly #timers = new Map<Timer, () => void>()
  #timeout: ReturnType<typeof setTimeout> | undefined

  constructor() {
    this.baseMs = performance.timeOrigin
    this.shared = new Float64Array(new SharedArrayBuffer(32))
  }

  get running(): boolean {
    return this.shared[RUNNING] !== 0
  }

  get ns(): bigint {
    return BigInt(Math.floor(this.nsNumber))
  }

  get nsNumber(): number {
    return readVirtualNs(this.shared, this.baseMs)
  }

  start(): void {
    if (this.running) return
    this.shared[OFFSET] = this.shared[FROZEN]! - hostNs(this.baseMs)
    new BigInt64Array(this.shared.buffer)[LATEST] = BigInt(Math.floor(this.shared[FROZEN]!))
    this.shared[RUNNING] = 1
    this.#schedule()
  }

  stop(): void {
    if (!this.running) return
    this.shared[FROZEN] = Math.floor(this.nsNumber)
    this.shared[RUNNING] = 0
    clearTimeout(this.#timeout)
  }

  /** After a load: continue from the sender's time. The clock must be stopped. */
  set(ns: bigint): void {
    if (this.running) throw new Error('the virtual clock is set while it stands')
    this.shared[FROZEN] = Number(ns)
  }

  /**
   * Calls back once the clock reaches `timer.expireNs`; call again after changing it, also when a load did.
   * Late by up to a millisecond or two; never early. An idle timer (-1n) is disarmed.
   */
  at(timer: Timer, callback: () => void): void {
    if (timer.expireNs < 0n) this.#timers.delete(timer)
    else this.#timers.set(timer, callback)
    this.#schedule()
  }

  #schedule(): void {
    clearTimeout(this.#timeout)
    if (!this.running || this.#timers.size === 0) return
    let next: bigint | undefined
    for (const { expireNs } of this.#timers.keys()) if (next === undefined || expireNs < next) next = expireNs
    const delayMs = Number(next! - this.ns) / 1e6
    this.#timeout = setTimeout(() => this.#fire(), Math.min(Math.max(delayMs, 0), 2 ** 31 - 1))
  }

  #fire(): void {
    const now = this.ns
    try {
      for (const [timer, callback] of [...this.#timers]) {
        // An earlier callback may have disarmed it.
        if (!this.#timers.has(timer)) continue
        if (timer.expireNs < 0n) this.#timers.delete(timer)
        else if (timer.expireNs <= now) {
          this.#timers.delete(timer)
          timer.expireNs = -1n
          this.#run(timer, callback)
        }
      }
    } finally {
      this.#schedule()
    }
  }

  /** What stumbled over a page that has not arrived is called again when it has. */
  #run(timer: Timer, callback: () => void): void {
    try {
      callback()
    } catch (error) {
      const missing = pageMissingIn(error)
      if (!missing) throw error
      void missing.arrived.then(() => {
        if (timer.expireNs >= 0n) return
        timer.expireNs = this.ns
        this.at(timer, callback)
      })
    }
  }
}

/** Virtual ns in any thread. @param shared {@link VirtualClock.shared} */
export const readVirtualNs = (shared: Float64Array<SharedArrayBuffer>, baseMs: number): number =>
  virtualNsReader(shared, baseMs)()

/**
 * {@link readVirtualNs} for a thread that asks often.
 * @param rounded whether clocks of other threads may be a little ahead of this one's
 */
export function virtualNsReader(
  shared: Float64Array<SharedArrayBuffer>,
  baseMs: number,
  rounded = ROUNDED,
): () => number {
  const shiftMs = performance.timeOrigin - baseMs
  const now = () => shared[OFFSET]! + (shiftMs + performance.now()) * 1e6
  if (!rounded) return () => (shared[RUNNING] === 0 ? shared[FROZEN]! : now())
  const words = new BigInt64Array(shared.buffer)
  return () => (shared[RUNNING] === 0 ? shared[FROZEN]! : notBefore(words, now()))
}

function notBefore(words: BigInt64Array<SharedArrayBuffer>, ns: number): number {
  const now = BigInt(Math.floor(ns))
  for (let latest = Atomics.load(words, LATEST); now > latest; ) {
    const before = Atomics.compareExchange(words, LATEST, latest, now)
    if (before === latest) return Number(now)
    latest = before
  }
  return Number(Atomics.load(words, LATEST))
}
