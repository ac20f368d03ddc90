/**
 * Guest memory as it was at one moment, while the guest goes on writing it: a page's bytes are kept when somebody is about to
 * write it, and read in place otherwise. What a snapshot of a running guest saves. Spec: ram.md section 3.
 */
import { type GuestMemory, PAGE_BYTES, type PageGuard, type RamBlock } from '@ferryvm/core'
import type { IsZeroPage } from '../ram/zero-page.ts'

/** From so many kept bytes on a hart waits with its next first write to a page. */
const MAX_KEPT_BYTES = 64 * 2 ** 20
/** It goes on below this share of them. */
const ENOUGH_KEPT = 0.75

const ZERO = new Uint8Array(PAGE_BYTES)

/** What the encoders of a snapshot read instead of live memory. `offset`: bytes within the block, page aligned. */
export interface PageContents {
  /** Live memory, or what was kept of it: to be copied before the event loop turns. */
  bytes(block: RamBlock, offset: number): Uint8Array
  isZero(block: RamBlock, offset: number): boolean
  /** The page was copied, or needs no copy. */
  done(block: RamBlock, offset: number): void
}

export class MemoryMoment implements PageContents, Disposable {
  readonly #memory: GuestMemory
  readonly #isZero: IsZeroPage
  readonly #guard: PageGuard
  /** By page of guest memory. */
  readonly #kept = new Map<number, Uint8Array>()
  #keptBytes = 0
  #held = false

  readonly #maxKeptBytes: number

  /**
   * @param keeps a page was kept, which costs memory until it is {@link done}
   * @param maxKeptBytes from so many on a hart waits with its next first write to a page
   */
  constructor(
    memory: GuestMemory,
    isZero: IsZeroPage,
    keeps: (page: number) => void,
    maxKeptBytes: number = MAX_KEPT_BYTES,
  ) {
    this.#maxKeptBytes = maxKeptBytes
    this.#memory = memory
    this.#isZero = isZero
    this.#guard = memory.guards.create({
      beforeWrite: (page) => {
        this.#keep(page)
        keeps(page)
      },
      full: () => {
        this.#held ||= this.#keptBytes >= this.#maxKeptBytes
        return this.#held
      },
    })
  }

  /** The machine is stopped: this is the moment. Harts drop their write translations before they run again. */
  take(blocks: readonly RamBlock[]): void {
    for (const { offset, sizeBytes } of blocks) this.#guard.add(offset / PAGE_BYTES, sizeBytes / PAGE_BYTES)
  }

  get keptBytes(): number {
    return this.#keptBytes
  }

  /** Pages that are not {@link done}. */
  get remainingPages(): number {
    return this.#guard.count + this.#kept.size
  }

  /** False: it is {@link done}, and may be anything by now. */
  holds(block: RamBlock, offset: number): boolean {
    const page = pageOf(block, offset)
    return this.#guard.has(page) || this.#kept.has(page)
  }

  bytes(block: RamBlock, offset: number): Uint8Array {
    return this.#kept.get(pageOf(block, offset)) ?? block.bytes.subarray(offset, offset + PAGE_BYTES)
  }

  isZero(block: RamBlock, offset: number): boolean {
    const kept = this.#kept.get(pageOf(block, offset))
    return kept ? kept === ZERO : this.#isZero(block.offset + offset)
  }

  done(block: RamBlock, offset: number): void {
    const page = pageOf(block, offset)
    this.#guard.release(page)
    const kept = this.#kept.get(page)
    if (!kept) return
    this.#kept.delete(page)
    if (kept !== ZERO) this.#keptBytes -= PAGE_BYTES
    if (!this.#held || this.#keptBytes > this.#maxKeptBytes * ENOUGH_KEPT) return
    this.#held = false
    this.#guard.proceed()
  }

  /** The guest writes what it likes. */
  [Symbol.dispose](): void {
    this.#guard[Symbol.dispose]()
    this.#kept.clear()
    this.#keptBytes = 0
  }

  #keep(page: number): void {
    const at = page * PAGE_BYTES
    if (this.#isZero(at)) {
      this.#kept.set(page, ZERO)
      return
    }
    this.#kept.set(page, new Uint8Array(this.#memory.buffer, at, PAGE_BYTES).slice())
    this.#keptBytes += PAGE_BYTES
  }
}

const pageOf = (block: RamBlock, offset: number): number => (block.offset + offset) / PAGE_BYTES
