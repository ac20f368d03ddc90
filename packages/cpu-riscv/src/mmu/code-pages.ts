import type { GuestViews } from '../hart/guest-views.ts'
import type { HartState } from '../hart/hart-state.ts'
import { COUNTER, WORD } from '../hart/hart-state.ts'
import { HART_AREA, PAGE_SLOT_BYTES } from '../hart/layout.ts'
import type { DecodedCode } from '../interpreter/contract.ts'
import type { Tlb } from './tlb.ts'

/** Writes to a page since its code last had to be looked up, after which the page counts as data again. */
const FIRST_LIMIT = 16
const MAX_DOUBLINGS = 12
const PAGES = 2 ** 20

/** What the other harts of the machine have to do with a page of code. Absent when there is one hart. */
export interface OtherHarts {
  /** This hart now holds code of the page. Nobody else may keep a write TLB entry for it; returns when that is so. */
  hold(page: number, first: boolean): void
  /** This hart no longer does. @returns whether anyone else still does */
  release(page: number): boolean
  /** The page was written. */
  written(page: number): void
}

/** Compiled code, as far as it depends on pages of decoded slots. */
export interface CompiledPages {
  /** Bytes of the page are or will be written: nothing that was made from them may run any more. */
  written(slots: number, offset: number, bytes: number): void
  /** The slots are given up, and with them all that was made from their page. */
  dropped(slots: number): void
}

/**
 * Which pages of guest memory this hart holds decoded instructions of, and where. A fixed pool, recycled round robin.
 * A page with decoded code never has a write TLB entry, so every store to it comes to {@link written}.
 */
export class CodePages {
  readonly #hart: HartState
  readonly #views: GuestViews
  readonly #tlb: Tlb
  readonly #code: DecodedCode
  readonly #others: OtherHarts | undefined
  readonly #pool: number
  /** Page of guest memory -> place in the pool + 1. */
  readonly #places = new Uint16Array(PAGES)
  readonly #pages: Int32Array
  readonly #writes: Int32Array
  /** How often a page went back to being data: each time it takes twice the writes. */
  readonly #releases = new Uint8Array(PAGES)
  #next = 0
  #used = 0
  compiled: CompiledPages | undefined

  constructor(hart: HartState, views: GuestViews, tlb: Tlb, code: DecodedCode, poolPages: number, others?: OtherHarts) {
    this.#hart = hart
    this.#views = views
    this.#tlb = tlb
    this.#code = code
    this.#others = others
    this.#pool = hart.base + HART_AREA.pool
    this.#pages = new Int32Array(poolPages).fill(-1)
    this.#writes = new Int32Array(poolPages)
  }

  /** @param mem byte offset of the page in guest memory @returns memory offset of its slots */
  slots(mem: number): number {
    const page = mem / 4096
    const place = this.#places[page]
    if (place === 0) return this.#take(page)
    this.#writes[place - 1] = 0
    return this.#pool + (place - 1) * PAGE_SLOT_BYTES
  }

  /** @param mem byte offset of a page in guest memory @returns memory offset of its slots, or 0 */
  find(mem: number): number {
    const place = this.#places[mem / 4096]
    return place === 0 ? 0 : this.#pool + (place - 1) * PAGE_SLOT_BYTES
  }

  /**
   * Bytes [offset, offset + bytes) of a page that may hold code were or will be written by this hart.
   * @returns true when the page is free of code, so that it may have a write TLB entry
   */
  written(page: number, offset: number, bytes: number): boolean {
    this.#others?.written(page)
    const place = this.#places[page] - 1
    if (place < 0) return !this.#views.isCode(page)
    this.#hart.count(COUNTER.codeWrites)
    this.compiled?.written(this.#pool + place * PAGE_SLOT_BYTES, offset, bytes)
    this.#code.clearSlots(this.#pool + place * PAGE_SLOT_BYTES, offset, bytes)
    if (++this.#writes[place] < FIRST_LIMIT << Math.min(this.#releases[page], MAX_DOUBLINGS)) return false
    if (this.#hart.i32[WORD.pageMem] >>> 12 === page) return false
    if (this.#releases[page] < 255) this.#releases[page]++
    return this.#release(place)
  }

  /** Someone else wrote the page: drop what was decoded. Between two instructions only. */
  drop(page: number): void {
    const place = this.#places[page] - 1
    if (place >= 0) this.#release(place)
  }

  dropAll(): void {
    for (let place = 0; place < this.#pages.length; place++) {
      if (this.#pages[place] >= 0) this.#release(place)
    }
  }

  #take(page: number): number {
    let place = this.#used
    const fresh = place < this.#pages.length
    if (fresh) {
      this.#used++
    } else {
      place = this.#next
      this.#next = (this.#next + 1) % this.#pages.length
      if (this.#pages[place] >= 0) {
        this.#release(place)
        this.#hart.count(COUNTER.recycledPages)
      }
    }
    this.#hart.count(COUNTER.decodedPages)
    const slots = this.#pool + place * PAGE_SLOT_BYTES
    this.#code.initPage(slots, fresh)
    this.#pages[place] = page
    this.#places[page] = place + 1
    this.#writes[place] = 0
    const held = this.#views.setCode(page)
    if (this.#tlb.mayWrite(page)) this.#tlb.flushWrite()
    this.#others?.hold(page, !held)
    return slots
  }

  #release(place: number): boolean {
    const page = this.#pages[place]
    this.compiled?.dropped(this.#pool + place * PAGE_SLOT_BYTES)
    this.#pages[place] = -1
    this.#places[page] = 0
    this.#tlb.flushFetch()
    if (this.#others?.release(page)) return false
    this.#views.clearCode(page)
    return true
  }
}
