import type { GuestViews } from '../hart/guest-views.ts'
import { type HartState, WORD } from '../hart/hart-state.ts'
import type { OtherHarts } from '../mmu/code-pages.ts'
import { Request, RunState } from './requests.ts'
import { markStale, request } from './stale-code.ts'

const URGENT_EVERY = 32

/**
 * The other harts, as one hart's thread deals with them when it decodes code or overwrites it. Each hart has decoded
 * pages of its own; codePages holds the union, `holders` counts.
 */
export class Neighbours implements OtherHarts {
  readonly #self: HartState
  readonly #others: readonly HartState[]
  readonly #views: GuestViews
  readonly #holders: Uint16Array<SharedArrayBuffer>
  /** Stores of this hart to pages that someone holds code of; wraps. */
  readonly #writes = new Uint8Array(2 ** 20)
  #serveFlush = (): void => {}

  constructor(self: HartState, all: readonly HartState[], views: GuestViews, holdersBase: number) {
    this.#self = self
    this.#others = all.filter((hart) => hart !== self)
    this.#views = views
    this.#holders = new Uint16Array(views.buffer, holdersBase, 2 ** 20)
  }

  /** @param serveFlush what this hart does when another one waits for its flush */
  attach(serveFlush: () => void): void {
    this.#serveFlush = serveFlush
  }

  hold(page: number, first: boolean): void {
    Atomics.add(this.#holders, page, 1)
    if (!first) return
    // The bit is set now; whoever had a write TLB entry from before has to give it up. Harts that sleep or are parked do
    // so before they run again.
    for (const hart of this.#others) {
      const wanted = (Atomics.add(hart.i32, WORD.flushWanted, 1) + 1) | 0
      request(hart, Request.flushWrite)
      while (
        Atomics.load(hart.i32, WORD.runState) === RunState.running &&
        ((Atomics.load(hart.i32, WORD.flushDone) - wanted) | 0) < 0
      ) {
        if (Atomics.load(this.#self.i32, WORD.request) & Request.flushWrite) this.#serveFlush()
        Atomics.wait(hart.i32, WORD.flushDone, (wanted - 1) | 0, 0.05)
      }
    }
  }

  release(page: number): boolean {
    if (Atomics.sub(this.#holders, page, 1) > 1) return true
    this.#views.clearCode(page)
    if (Atomics.load(this.#holders, page) === 0) return false
    // Someone took it up meanwhile.
    this.#views.setCode(page)
    return true
  }

  written(page: number): void {
    // Usually the others find out at their next fence.i. A page that is written a lot is data by now: ask for it.
    const urgent = (++this.#writes[page] & (URGENT_EVERY - 1)) === 0
    for (const hart of this.#others) markStale(this.#views.i32, hart, page, urgent)
  }
}
