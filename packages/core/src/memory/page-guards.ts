/**
 * "Before the first write to a page, tell me": what a snapshot of a running guest and a copy-on-write twin of it are built on.
 *
 * One bit per page of the whole guest memory, shared with the harts: a guarded page has no write entry in any TLB, so a
 * hart's first write to it takes its slow path, which asks the device thread (`claim`) and goes on when the page was released.
 * Whatever writes on the device thread calls `GuestMemory.willWrite` first. What is not guarded costs nothing.
 */

const PAGE_SHIFT = 12

export interface PageGuardOptions {
  /**
   * Runs on the device thread before the first write to a page of the guard; its bytes are still the old ones, and the page is
   * free afterwards. Must copy what it wants to keep, and must not throw.
   */
  beforeWrite(page: number): void
  /**
   * Too much has been kept already: harts that want to write a page of the guard wait until {@link PageGuard.proceed}. (They can
   * be stopped meanwhile, between two instructions.) Devices never wait. Default: never.
   */
  full?(): boolean
}

/**
 * Somebody's pages. Pages are indexes in the whole of guest memory, as in the dirty log.
 *
 * To guard the memory of one moment: stop the machine, {@link add}, `cpu.flushWriteTlb()`, start it again. While
 * harts run, a write may still slip through between `add` and the end of `flushWriteTlb`.
 */
export interface PageGuard extends Disposable {
  /** Pages that nobody has written and that were not released. */
  readonly count: number
  has(page: number): boolean
  add(firstPage: number, pages: number): void
  /** The page has been dealt with: who writes it is free to. */
  release(page: number): void
  /** Harts that found the guard full try again. */
  proceed(): void
  /** Releases all pages, without a word to `beforeWrite`. */
  [Symbol.dispose](): void
}

/** All guards of a guest memory; several may have the same page. */
export class PageGuards {
  readonly #active: Int32Array
  readonly #bitmap: Int32Array
  readonly #guards = new Set<Guard>()
  #proceeding: PromiseWithResolvers<void> | undefined

  /** @param active one i32 in guest memory, not 0 while a page may be guarded */
  constructor(active: Int32Array, bitmap: Int32Array) {
    this.#active = active
    this.#bitmap = bitmap
  }

  create(options: PageGuardOptions): PageGuard {
    const guard = new Guard(options, this.#bitmap.length, {
      added: (word, bits) => void Atomics.or(this.#bitmap, word, bits),
      released: (page) => this.#released(page),
      proceed: () => {
        this.#proceeding?.resolve()
        this.#proceeding = undefined
      },
      disposed: () => {
        this.#guards.delete(guard)
        Atomics.store(this.#active, 0, this.#guards.size)
      },
    })
    this.#guards.add(guard)
    Atomics.store(this.#active, 0, this.#guards.size)
    return guard
  }

  /** Does any guard have it? */
  has(page: number): boolean {
    return this.#guards.size > 0 && (Atomics.load(this.#bitmap, page >>> 5) & (1 << (page & 31))) !== 0
  }

  /** A hart wants to write the page. @returns false: not now; it may come again when {@link writable} resolves */
  claim(page: number): boolean {
    if (!this.has(page)) return true
    for (const guard of this.#guards) if (guard.has(page) && guard.full) return false
    this.#free(page)
    return true
  }

  /** Resolves when it is worth claiming a page again. */
  writable(page: number): Promise<void> {
    for (const guard of this.#guards) {
      if (guard.has(page) && guard.full) return (this.#proceeding ??= Promise.withResolvers()).promise
    }
    return Promise.resolve()
  }

  /** Somebody on the device thread is about to write. */
  willWrite(offset: number, bytes: number): void {
    if (this.#guards.size === 0 || bytes <= 0) return
    const last = (offset + bytes - 1) >>> PAGE_SHIFT
    for (let page = offset >>> PAGE_SHIFT; page <= last; page++) if (this.has(page)) this.#free(page)
  }

  #free(page: number): void {
    for (const guard of this.#guards) guard.written(page)
  }

  #released(page: number): void {
    for (const guard of this.#guards) if (guard.has(page)) return
    Atomics.and(this.#bitmap, page >>> 5, ~(1 << (page & 31)))
  }
}

/** What a guard tells those it belongs to. */
interface GuardListener {
  /** @param bits of that word of the bitmap */
  added(word: number, bits: number): void
  released(page: number): void
  proceed(): void
  disposed(): void
}

class Guard implements PageGuard {
  readonly #options: PageGuardOptions
  readonly #pages: Int32Array
  readonly #told: GuardListener
  count = 0

  constructor(options: PageGuardOptions, words: number, told: GuardListener) {
    this.#options = options
    this.#pages = new Int32Array(words)
    this.#told = told
  }

  get full(): boolean {
    return this.#options.full?.() ?? false
  }

  has(page: number): boolean {
    return (this.#pages[page >>> 5]! & (1 << (page & 31))) !== 0
  }

  add(firstPage: number, pages: number): void {
    const end = firstPage + pages
    for (let page = firstPage; page < end; ) {
      const word = page >>> 5
      const next = Math.min(end, (page | 31) + 1)
      const run = next - page
      const bits = (run === 32 ? -1 : ((1 << run) - 1) << (page & 31)) & ~this.#pages[word]!
      this.#pages[word]! |= bits
      for (let left = bits; left !== 0; left &= left - 1) this.count++
      this.#told.added(word, bits)
      page = next
    }
  }

  written(page: number): void {
    if (!this.has(page)) return
    this.#options.beforeWrite(page)
    this.release(page)
  }

  release(page: number): void {
    if (!this.has(page)) return
    this.#pages[page >>> 5]! &= ~(1 << (page & 31))
    this.count--
    this.#told.released(page)
  }

  proceed(): void {
    this.#told.proceed()
  }

  [Symbol.dispose](): void {
    for (let word = 0; word < this.#pages.length && this.count > 0; word++) {
      for (let bits = this.#pages[word]!; bits !== 0; bits &= bits - 1) {
        this.release(word * 32 + 31 - Math.clz32(bits & -bits))
      }
    }
    this.#told.disposed()
    this.#told.proceed()
  }
}
