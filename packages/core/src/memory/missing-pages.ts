import { FerryError } from '../errors/ferry-error.ts'

const PAGE_SHIFT = 12

/**
 * A device's access met a page that has not arrived yet (postcopy). It was asked for; the access can be made again once
 * `arrived` resolves. Handlers of registers, timers of the machine's clock and section loads that let it pass are run again
 * by themselves; a device that accesses memory at other times catches it.
 */
export class PageMissingError extends FerryError {
  readonly code = 'FERRY_PAGE_MISSING'
  /** Index in the whole of guest memory. */
  readonly page: number
  /** Never rejects. */
  readonly arrived: Promise<void>
  constructor(page: number, arrived: Promise<void>) {
    super(`page ${page} of guest memory has not arrived yet`)
    this.page = page
    this.arrived = arrived
  }
}

/** The missing page that an error, or what caused it, is about. */
export function pageMissingIn(error: unknown): PageMissingError | undefined {
  for (let e = error; FerryError.isInstance(e); e = e.cause as FerryError) {
    if (e.code === 'FERRY_PAGE_MISSING') return e as unknown as PageMissingError
  }
  return undefined
}

/** What waiting for pages costs, of one postcopy. */
export interface PageWaitStats {
  /** Pages that somebody waited for. */
  waits: number
  /** ms from the first wish to the arrival, one entry per page, of the last {@link MAX_SAMPLES} pages. */
  readonly samplesMs: number[]
  /** ms that each hart stood and waited, by its index. */
  readonly hartMs: number[]
  /** ms in which no hart could go on. */
  allHartsMs: number
}
const MAX_SAMPLES = 65536

const noWaits = (harts: number): PageWaitStats => ({
  waits: 0,
  samplesMs: [],
  hartMs: Array<number>(harts).fill(0),
  allHartsMs: 0,
})

interface Wanted {
  readonly sinceMs: number
  readonly arrived: Promise<void>
  resolve(): void
}

/**
 * Pages of guest memory that are on their way while the guest runs already: the destination's side of postcopy. One bit per
 * page of the whole guest memory, which harts read before they load a page into a TLB; so what is here costs nothing.
 * Only the device thread changes it.
 */
export class MissingPages {
  readonly #active: Int32Array
  readonly #bitmap: Int32Array
  readonly #wanted = new Map<number, Wanted>()
  /** Harts that wait, and since when. */
  readonly #blocked = new Map<number, number>()
  #onWanted: (page: number) => void = () => {}
  #count = 0
  /** Of the last or current postcopy. */
  stats: PageWaitStats = noWaits(0)

  /** @param active one i32 in guest memory, 1 while pages are missing */
  constructor(active: Int32Array, bitmap: Int32Array) {
    this.#active = active
    this.#bitmap = bitmap
  }

  /** Pages that have yet to arrive. */
  get count(): number {
    return this.#count
  }

  /** @param onWanted is called once per page that somebody waits for */
  begin(onWanted: (page: number) => void, harts: number): void {
    this.#onWanted = onWanted
    this.stats = noWaits(harts)
  }

  /** No page of these has arrived. No hart may run that has translations of them. */
  add(firstPage: number, pages: number): void {
    const end = firstPage + pages
    for (let page = firstPage; page < end; page = (page | 31) + 1) {
      const shift = page & 31
      const run = Math.min(32 - shift, end - page)
      const mask = run === 32 ? -1 : ((1 << run) - 1) << shift
      let fresh = mask & ~Atomics.or(this.#bitmap, page >>> 5, mask)
      for (; fresh !== 0; fresh &= fresh - 1) this.#count++
    }
    if (this.#count > 0) Atomics.store(this.#active, 0, 1)
  }

  has(page: number): boolean {
    return this.#count > 0 && (Atomics.load(this.#bitmap, page >>> 5) & (1 << (page & 31))) !== 0
  }

  /** The page's bytes are in place. */
  arrived(page: number): void {
    const bit = 1 << (page & 31)
    if (!(Atomics.and(this.#bitmap, page >>> 5, ~bit) & bit)) return
    if (--this.#count === 0) Atomics.store(this.#active, 0, 0)
    const wanted = this.#wanted.get(page)
    if (!wanted) return
    this.#wanted.delete(page)
    const { samplesMs } = this.stats
    if (samplesMs.length === MAX_SAMPLES) samplesMs.shift()
    samplesMs.push(performance.now() - wanted.sinceMs)
    wanted.resolve()
  }

  /** Nobody brings them any more. Who waits for one goes on waiting. */
  giveUp(): void {
    this.#bitmap.fill(0)
    this.#count = 0
    this.#wanted.clear()
    this.#blocked.clear()
    Atomics.store(this.#active, 0, 0)
  }

  /** Asks for a page, if nobody did before. Resolves when it is there. */
  when(page: number): Promise<void> {
    if (!this.has(page)) return Promise.resolve()
    let wanted = this.#wanted.get(page)
    if (!wanted) {
      const { promise, resolve } = Promise.withResolvers<void>()
      wanted = { sinceMs: performance.now(), arrived: promise, resolve }
      this.#wanted.set(page, wanted)
      this.stats.waits++
      this.#onWanted(page)
    }
    return wanted.arrived
  }

  /** {@link when} for a hart that stands until then. */
  async hartWaits(hart: number, page: number): Promise<void> {
    const { stats } = this
    if (!this.#blocked.has(hart)) this.#blocked.set(hart, performance.now())
    await this.when(page)
    const since = this.#blocked.get(hart)
    if (since === undefined) return // it asked twice
    const now = performance.now()
    // Until now, from when the last of them had to stop.
    if (this.#blocked.size === stats.hartMs.length) stats.allHartsMs += now - Math.max(...this.#blocked.values())
    this.#blocked.delete(hart)
    stats.hartMs[hart]! += now - since
  }

  /** What is waited for, in the order in which it was asked for. */
  get wanted(): readonly number[] {
    return [...this.#wanted.keys()]
  }

  /** @throws PageMissingError a page of the range is missing; all of them are asked for */
  demand(offset: number, bytes: number): void {
    if (this.#count === 0 || bytes <= 0) return
    const last = (offset + bytes - 1) >>> PAGE_SHIFT
    let first: PageMissingError | undefined
    for (let page = offset >>> PAGE_SHIFT; page <= last; page++) {
      if (!this.has(page)) continue
      const arrived = this.when(page)
      first ??= new PageMissingError(page, arrived)
    }
    if (first) throw first
  }
}

/** Runs it now, and again when a page that was missing has arrived. For work that may be begun anew. */
export function nowOrWhenPagesArrive(work: () => void): void {
  try {
    work()
  } catch (error) {
    const missing = pageMissingIn(error)
    if (!missing) throw error
    void missing.arrived.then(() => nowOrWhenPagesArrive(work))
  }
}

/** {@link nowOrWhenPagesArrive} for who wants the result. */
export async function whenPagesArrive<T>(work: () => T | Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work()
    } catch (error) {
      const missing = pageMissingIn(error)
      if (!missing) throw error
      await missing.arrived
    }
  }
}
