import { PAGE_BYTES } from '@ferryvm/core'
import { trace } from '../../migration-trace.ts'
import { instantiateKernels } from '../../wasm/assembler.ts'
import { XBZRLE_SLACK_BYTES, xbzrleEncode, xbzrleEncodeKernel } from './xbzrle-encode.ts'

const WASM_PAGE_BYTES = 65536
/** Two pages for the encoder, each with what it may touch behind it. */
const SLOT_BASE = 2 * (PAGE_BYTES + XBZRLE_SLACK_BYTES)
const OUT = PAGE_BYTES + XBZRLE_SLACK_BYTES
const EMPTY = -1

/**
 * What the peer has of the pages sent last: direct mapped, a power of two of slots. It lies in a memory of its own together
 * with the page being sent, so that one kernel sees both. Spec: ram.md section 4.
 */
export class PageCache {
  readonly slots: number
  readonly #pages: Int32Array
  readonly #ages: Uint32Array
  readonly #bytes: Uint8Array<ArrayBuffer>
  readonly #current: Uint8Array<ArrayBuffer>
  readonly #encode: (slot: number) => number

  /** @throws RangeError the host has no room for it */
  constructor(slots: number) {
    this.slots = slots
    trace.migration_pagecache_init({ max_num_items: slots })
    this.#pages = new Int32Array(slots).fill(EMPTY)
    this.#ages = new Uint32Array(slots)
    const maximumPages = Math.ceil((SLOT_BASE + slots * PAGE_BYTES + XBZRLE_SLACK_BYTES) / WASM_PAGE_BYTES)
    const memory = new WebAssembly.Memory({ initial: maximumPages, maximum: maximumPages })
    this.#bytes = new Uint8Array(memory.buffer as ArrayBuffer)
    this.#current = this.#bytes.subarray(0, PAGE_BYTES)
    this.#encode = encoder(memory, maximumPages, (slot) =>
      xbzrleEncode(this.contents(slot), this.#current, this.#bytes.subarray(OUT)),
    )
  }

  slotOf(page: number): number {
    return page & (this.slots - 1)
  }

  holds(slot: number, page: number): boolean {
    return this.#pages[slot] === page
  }

  /** The cached page, live. */
  contents(slot: number): Uint8Array<ArrayBuffer> {
    const at = SLOT_BASE + slot * PAGE_BYTES
    return this.#bytes.subarray(at, at + PAGE_BYTES)
  }

  /** A slot that another page used lately is not given away: two pages would throw each other out all the time. */
  refuses(slot: number, page: number, syncCount: number): boolean {
    const holder = this.#pages[slot]!
    return holder !== EMPTY && holder !== page && this.#ages[slot]! + 2 > syncCount
  }

  used(slot: number, syncCount: number): void {
    this.#ages[slot] = syncCount
  }

  /** Its contents are to be set next. */
  claim(slot: number, page: number, syncCount: number): Uint8Array<ArrayBuffer> {
    this.#pages[slot] = page
    this.#ages[slot] = syncCount
    return this.contents(slot)
  }

  /**
   * Takes a copy of `page`, which the guest may be writing to, and encodes its difference to the slot's.
   * @returns as `xbzrleEncode`; the bytes are in {@link encoded}
   */
  encode(slot: number, page: Uint8Array): number {
    this.#current.set(page)
    return this.#encode(slot)
  }

  encoded(length: number): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(OUT, OUT + length)
  }

  /** The slot becomes the page that was encoded last. */
  update(slot: number): void {
    this.#bytes.copyWithin(SLOT_BASE + slot * PAGE_BYTES, 0, PAGE_BYTES)
  }

  /** Copies what `from` holds; where two pages want one slot, the one used later stays. */
  adopt(from: PageCache): void {
    for (let slot = 0; slot < from.slots; slot++) {
      const page = from.#pages[slot]!
      if (page === EMPTY) continue
      const to = this.slotOf(page)
      const age = from.#ages[slot]!
      if (this.#pages[to] !== EMPTY && this.#ages[to]! >= age) continue
      this.claim(to, page, age).set(from.contents(slot))
    }
  }
}

function encoder(memory: WebAssembly.Memory, maximumPages: number, fallback: (slot: number) => number) {
  try {
    const kernels = { encode: xbzrleEncodeKernel() }
    const { encode } = instantiateKernels(memory, { shared: false, maximumPages }, kernels)
    return (slot: number) => encode(SLOT_BASE + slot * PAGE_BYTES, 0, OUT)
  } catch {
    return fallback
  }
}
