import type { HartState } from '../hart/hart-state.ts'
import { COUNTER, WORD } from '../hart/hart-state.ts'
import {
  FETCH_BANK,
  FETCH_BANK_BYTES,
  FETCH_BANKS,
  FETCH_TLB_ENTRIES,
  HART_AREA,
  MMU_BANK,
  MMU_BANKS,
  TLB_BANK_BYTES,
  TLB_ENTRIES,
} from '../hart/layout.ts'

/**
 * Fills and empties the tables that the interpreter looks translations up in (hart/layout.ts). Only the hart's own
 * thread calls this, or the device thread while the hart is parked.
 */
export class Tlb {
  readonly #hart: HartState
  readonly #read: Int32Array
  readonly #write: Int32Array
  readonly #fetch: Int32Array
  /** Banks with an entry since they were last emptied. */
  #readUsed = 0
  #writeUsed = 0
  #fetchUsed = 0
  /** Generation in which a page of guest memory last got a write entry; see {@link mayWrite}. */
  readonly #writtenIn = new Uint32Array(2 ** 20)
  #generation = 1
  /** GiB of address space (hashed) where entries came from a superpage, whose other parts an sfence must drop too. */
  readonly #superpages = new Uint8Array(4096)
  #anySuperpage = false
  /** Banks that hold something of one address space only. */
  #nonGlobal = 0

  constructor(buffer: SharedArrayBuffer, hart: HartState) {
    this.#hart = hart
    const words = (at: number, bytes: number) => new Int32Array(buffer, hart.base + at, bytes / 4)
    this.#read = words(HART_AREA.readTlb, MMU_BANKS * TLB_BANK_BYTES)
    this.#write = words(HART_AREA.writeTlb, MMU_BANKS * TLB_BANK_BYTES)
    this.#fetch = words(HART_AREA.fetchTlb, FETCH_BANKS * FETCH_BANK_BYTES)
    this.#read.fill(-1)
    this.#write.fill(-1)
    this.#fetch.fill(-1)
  }

  /** Names the banks in force. @param data MMU_BANK @param fetch FETCH_BANK */
  select(data: number, fetch: number): void {
    const { i32, base } = this.#hart
    i32[WORD.readTlb] = base + HART_AREA.readTlb + data * TLB_BANK_BYTES
    i32[WORD.writeTlb] = base + HART_AREA.writeTlb + data * TLB_BANK_BYTES
    i32[WORD.fetchTlb] = base + HART_AREA.fetchTlb + fetch * FETCH_BANK_BYTES
  }

  /** The banks in force. Compiled code and the interpreter choose them too, see trap/trap-code.ts. */
  get dataBank(): number {
    const { i32, base } = this.#hart
    return ((i32[WORD.readTlb] - base - HART_AREA.readTlb) >>> 0) / TLB_BANK_BYTES
  }

  get fetchBank(): number {
    const { i32, base } = this.#hart
    return ((i32[WORD.fetchTlb] - base - HART_AREA.fetchTlb) >>> 0) / FETCH_BANK_BYTES
  }

  /** @param lo @param hi the virtual address @param mem byte offset of the page in guest memory */
  fillRead(bank: number, lo: number, hi: number, mem: number): void {
    const page = lo & ~0xfff
    const at = (bank * TLB_ENTRIES + ((lo >>> 12) & (TLB_ENTRIES - 1))) << 2
    const read = this.#read
    read[at] = page
    read[at + 1] = hi
    read[at + 2] = (mem - page) | 0
    this.#readUsed |= 1 << bank
  }

  fillWrite(bank: number, lo: number, hi: number, mem: number): void {
    const page = lo & ~0xfff
    const at = (bank * TLB_ENTRIES + ((lo >>> 12) & (TLB_ENTRIES - 1))) << 2
    const write = this.#write
    write[at] = page
    write[at + 1] = hi
    write[at + 2] = (mem - page) | 0
    this.#writeUsed |= 1 << bank
    this.#writtenIn[mem / 4096] = this.#generation
  }

  fillFetch(bank: number, lo: number, hi: number, slots: number, mem: number): void {
    const at = (bank * FETCH_TLB_ENTRIES + ((lo >>> 12) & (FETCH_TLB_ENTRIES - 1))) << 2
    const fetch = this.#fetch
    fetch[at] = lo & ~0xfff
    fetch[at + 1] = hi
    fetch[at + 2] = slots
    fetch[at + 3] = mem
    this.#fetchUsed |= 1 << bank
  }

  /** What the fetch TLB knows of an address. */
  findFetch(bank: number, lo: number, hi: number): { readonly slots: number; readonly mem: number } | undefined {
    const at = (bank * FETCH_TLB_ENTRIES + ((lo >>> 12) & (FETCH_TLB_ENTRIES - 1))) << 2
    const fetch = this.#fetch
    if (fetch[at] !== (lo & ~0xfff) || fetch[at + 1] !== hi) return undefined
    return { slots: fetch[at + 2] >>> 0, mem: fetch[at + 3] >>> 0 }
  }

  /** Could there be a write entry for that page of guest memory? */
  mayWrite(pageIndex: number): boolean {
    return this.#writtenIn[pageIndex] === this.#generation
  }

  /** The translation being filled in is part of a superpage. */
  noteSuperpage(lo: number, hi: number): void {
    this.#superpages[superpageHash(lo, hi)] = 1
    this.#anySuperpage = true
  }

  /** The translation being filled in belongs to one address space. @param bank MMU_BANK or, for fetches, FETCH_BANK */
  noteNonGlobal(bank: number): void {
    this.#nonGlobal |= 1 << bank
  }

  /**
   * After a change of the address space. What S-mode uses without SUM is mostly global, so that bank is spared when it
   * holds nothing else; the others are dropped.
   */
  flushNonGlobal(): void {
    const banks = (1 << MMU_BANK.U) | (1 << MMU_BANK.S_SUM) | (this.#nonGlobal & (1 << MMU_BANK.S))
    this.#flushRead(banks)
    this.#flushWrite(banks)
    this.#flushFetch(banks & ~(1 << FETCH_BANK.M))
    this.#nonGlobal = 0
  }

  /** After translations changed: all banks but M's, which does not translate. */
  flushTranslated(): void {
    this.#nonGlobal = 0
    if (this.#anySuperpage) {
      this.#superpages.fill(0)
      this.#anySuperpage = false
    }
    this.#flushRead(~(1 << MMU_BANK.M))
    this.#flushWrite(~(1 << MMU_BANK.M))
    this.#flushFetch(~(1 << FETCH_BANK.M))
    this.#count()
  }

  /** The translation of one virtual address, all banks but M's. */
  flushPage(lo: number, hi: number): void {
    if (this.#superpages[superpageHash(lo, hi)]) {
      this.flushTranslated()
      return
    }
    const index = (lo >>> 12) & (TLB_ENTRIES - 1)
    for (let bank = 0; bank < MMU_BANK.M; bank++) {
      const at = (bank * TLB_ENTRIES + index) << 2
      this.#read[at] = this.#read[at + 1] = -1
      this.#write[at] = this.#write[at + 1] = -1
    }
    for (let bank = 0; bank < FETCH_BANK.M; bank++) {
      const at = (bank * FETCH_TLB_ENTRIES + ((lo >>> 12) & (FETCH_TLB_ENTRIES - 1))) << 2
      this.#fetch[at] = this.#fetch[at + 1] = -1
    }
  }

  /** Loads only: what a change of MXR touches. */
  flushRead(): void {
    this.#flushRead(-1)
  }

  flushWrite(): void {
    this.#flushWrite(-1)
    this.#generation++
  }

  flushFetch(): void {
    this.#flushFetch(-1)
  }

  flushAll(): void {
    this.#flushRead(-1)
    this.flushWrite()
    this.#flushFetch(-1)
    this.#count()
  }

  /** Pages of guest memory that have a write entry now. */
  *writable(): Generator<number> {
    const write = this.#write
    for (let at = 0; at < write.length; at += 4) {
      if (write[at] !== -1 || write[at + 1] !== -1) yield ((write[at] + write[at + 2]) | 0) >>> 12
    }
  }

  #count(): void {
    this.#hart.count(COUNTER.flushes)
  }

  #flushRead(banks: number): void {
    const size = TLB_ENTRIES * 4
    for (let bank = 0, used = this.#readUsed & banks; bank < MMU_BANKS; bank++) {
      if (used & (1 << bank)) this.#read.fill(-1, bank * size, bank * size + size)
    }
    this.#readUsed &= ~banks
  }

  #flushWrite(banks: number): void {
    const size = TLB_ENTRIES * 4
    for (let bank = 0, used = this.#writeUsed & banks; bank < MMU_BANKS; bank++) {
      if (used & (1 << bank)) this.#write.fill(-1, bank * size, bank * size + size)
    }
    this.#writeUsed &= ~banks
  }

  #flushFetch(banks: number): void {
    const size = FETCH_TLB_ENTRIES * 4
    for (let bank = 0, used = this.#fetchUsed & banks; bank < FETCH_BANKS; bank++) {
      if (used & (1 << bank)) this.#fetch.fill(-1, bank * size, bank * size + size)
    }
    this.#fetchUsed &= ~banks
  }
}

/** Of an address's GiB. All bits take part: a kernel's linear map and user space often agree in the low ones. */
function superpageHash(lo: number, hi: number): number {
  const gib = (lo >>> 30) | (hi << 2)
  return (gib ^ (gib >>> 12) ^ (gib >>> 24)) & 4095
}
