import { MODE } from '../hart/control.ts'
import type { GuestViews } from '../hart/guest-views.ts'
import type { HartState } from '../hart/hart-state.ts'
import { COUNTER, PRIV, WORD } from '../hart/hart-state.ts'
import { FETCH_BANK, MMU_BANK, SLOT_BYTES } from '../hart/layout.ts'
import type { HartProfile } from '../hart/profile.ts'
import { CAUSE, Pending } from '../trap/causes.ts'
import type { MmioClient } from '../worker/mailbox.ts'
import type { CodePages } from './code-pages.ts'
import type { GuardedPage } from './guarded-page.ts'
import type { Physical } from './physical.ts'
import type { Pmp } from './pmp.ts'
import type { Tlb } from './tlb.ts'
import { ACCESS, MISSING, mayWrite, OK, PAGE_FAULT, type Translation } from './translation.ts'

const CACHE_BLOCK_BYTES = 64
/** imm12 of the Zicbom and Zicboz instructions. */
const CBO_INVAL = 0
const CBO_ZERO = 4
/** menvcfg and senvcfg: CBIE 5:4, CBCFE 6, CBZE 7. */
const CBIE = 3 << 4
const CBCFE = 1 << 6
const CBZE = 1 << 7

/**
 * The slow paths of memory access: what the interpreter calls when its TLB lookup fails. Each either completes the access
 * or sets trapPending32 and returns anything.
 */
export class MemoryPort {
  readonly #hart: HartState
  readonly #profile: HartProfile
  readonly #views: GuestViews
  readonly #physical: Physical
  readonly #pmp: Pmp
  readonly #tlb: Tlb
  readonly #translation: Translation
  readonly #codePages: CodePages
  readonly #guarded: GuardedPage
  readonly #mmio: MmioClient
  readonly #afterMmio: () => void
  /** To take a BigInt apart without allocating. */
  readonly #big = new BigInt64Array(2)
  readonly #half = new Int32Array(this.#big.buffer)
  readonly #bytes = new Uint8Array(this.#big.buffer)
  readonly #wide = new DataView(this.#big.buffer)
  /** Where the last {@link #locate} ended: byte in guest memory, or -1 for MMIO; physical address; MODE of its page. */
  #mem = -1
  #physicalAddress = 0
  #mode = 0
  /** After Pending.missing: the page of guest memory that is waited for. */
  missingPage = 0

  constructor(parts: {
    hart: HartState
    profile: HartProfile
    views: GuestViews
    physical: Physical
    pmp: Pmp
    tlb: Tlb
    translation: Translation
    codePages: CodePages
    guarded: GuardedPage
    mmio: MmioClient
    /** A device has run: it may have changed what memory looks like. */
    afterMmio: () => void
  }) {
    this.#hart = parts.hart
    this.#profile = parts.profile
    this.#views = parts.views
    this.#physical = parts.physical
    this.#pmp = parts.pmp
    this.#tlb = parts.tlb
    this.#translation = parts.translation
    this.#codePages = parts.codePages
    this.#guarded = parts.guarded
    this.#mmio = parts.mmio
    this.#afterMmio = parts.afterMmio
  }

  /** See HartImports.load. */
  load(address: bigint, kind: number): bigint {
    this.#hart.count(COUNTER.loads)
    this.#big[0] = address
    const lo = this.#half[0]
    const hi = this.#half[1]
    const bytes = 1 << (kind >> 1)
    if (lo & (bytes - 1)) return this.#loadMisaligned(address, lo, hi, bytes, kind)
    if (!this.#locate(lo, hi, ACCESS.read, bytes)) return 0n
    const mem = this.#mem
    if (mem < 0) {
      if (!this.#mmio.read(this.#physicalAddress, bytes)) return this.#mmioFailed(CAUSE.loadAccess, lo, hi)
      this.#afterMmio()
      return extend(this.#mmio.value, kind)
    }
    const views = this.#views
    switch (kind) {
      case 0:
        return BigInt(views.i8[mem])
      case 1:
        return BigInt(views.u8[mem])
      case 2:
        return BigInt(views.i16[mem / 2])
      case 3:
        return BigInt(views.u16[mem / 2])
      case 4:
        return BigInt(views.i32[mem / 4])
      case 5:
        return BigInt(views.u32[mem / 4])
      default:
        return views.i64[mem / 8]
    }
  }

  /** See HartImports.store. */
  store(address: bigint, value: bigint, bytes: number): void {
    this.#hart.count(COUNTER.stores)
    this.#big[0] = address
    const lo = this.#half[0]
    const hi = this.#half[1]
    if (lo & (bytes - 1)) {
      this.#storeMisaligned(address, lo, hi, value, bytes)
      return
    }
    if (!this.#locate(lo, hi, ACCESS.write, bytes)) return
    const mem = this.#mem
    if (mem < 0 || this.#mode === MODE.romd) {
      if (!this.#mmio.write(this.#physicalAddress, bytes, BigInt.asUintN(bytes * 8, value))) {
        this.#mmioFailed(CAUSE.storeAccess, lo, hi)
      }
      this.#afterMmio()
      return
    }
    if (this.#mode === MODE.rom) return
    this.#admitWrite(lo, hi, mem, bytes)
    this.#big[0] = value
    const views = this.#views
    if (bytes === 8) views.i64[mem / 8] = this.#big[0]
    else if (bytes === 4) views.i32[mem / 4] = this.#half[0]
    else if (bytes === 2) views.i16[mem / 2] = this.#half[0]
    else views.i8[mem] = this.#half[0]
  }

  /** See HartImports.amoAddress. */
  amoAddress(address: bigint, bytes: number, write: number): number {
    this.#hart.count(COUNTER.amos)
    this.#big[0] = address
    const lo = this.#half[0]
    const hi = this.#half[1]
    if (lo & (bytes - 1)) {
      this.#fault(write ? CAUSE.storeMisaligned : CAUSE.loadMisaligned, lo, hi)
      return 0
    }
    if (!this.#locate(lo, hi, write ? ACCESS.write : ACCESS.read, bytes)) return 0
    if (this.#mem < 0 || (write && this.#mode !== MODE.ram)) {
      this.#fault(write ? CAUSE.storeAccess : CAUSE.loadAccess, lo, hi)
      return 0
    }
    if (write) this.#admitWrite(lo, hi, this.#mem, bytes)
    return this.#mem
  }

  /** See HartImports.cacheBlock. Spec: CMO extensions, "Cache-Block Management Instructions". */
  cacheBlock(op: number, address: bigint): void {
    this.#big[0] = address
    const lo = this.#half[0] & -CACHE_BLOCK_BYTES
    const hi = this.#half[1]
    // A fault names the block, as stock QEMU has it; the specification would allow any address in it.
    if (!this.#cacheBlockEnabled(op)) {
      this.#hart.i32[WORD.trapPending] = Pending.illegal
      return
    }
    if (op === CBO_ZERO) {
      if (!this.#locate(lo, hi, ACCESS.write, CACHE_BLOCK_BYTES)) return
      if (this.#mem < 0 || this.#mode !== MODE.ram) {
        this.#fault(CAUSE.storeAccess, lo, hi)
        return
      }
      this.#admitWrite(lo, hi, this.#mem, CACHE_BLOCK_BYTES)
      this.#views.u8.fill(0, this.#mem, this.#mem + CACHE_BLOCK_BYTES)
      return
    }
    // No cache to manage; but the block must be accessible, and what is not is reported like a store.
    if (!this.#mayRead(lo, hi, CACHE_BLOCK_BYTES)) this.#locate(lo, hi, ACCESS.write, CACHE_BLOCK_BYTES)
  }

  /** See HartImports.fetch. */
  fetch(pc: bigint): number {
    this.#hart.count(COUNTER.fetches)
    this.#big[0] = pc
    const lo = this.#half[0]
    const hi = this.#half[1]
    const mem = this.#fetchPage(lo, hi, lo, hi)
    if (mem < 0) return 0
    const { mixed } = this.#translation
    if (mixed && !this.#secondHalfAllowed(lo, hi, mem)) return 0
    const slots = mixed ? this.#guarded.slots : this.#codePages.slots(mem)
    const { i32 } = this.#hart
    i32[WORD.pageVaddr] = lo & ~0xfff
    i32[WORD.pageVaddr + 1] = hi
    i32[WORD.pageSlots] = slots
    i32[WORD.pageMem] = mem
    if (mixed) return this.#guarded.expose(lo & 0xffe)
    this.#fillFetch(lo, hi, slots, mem)
    return slots + ((lo & 0xffe) >> 1) * SLOT_BYTES
  }

  /** PMP for the last 16 bits of an instruction of 32 in a page that it allows in part. @returns false after setting trapPending32 */
  #secondHalfAllowed(lo: number, hi: number, mem: number): boolean {
    const offset = lo & 0xffe
    if ((this.#views.u16[(mem + offset) / 2] & 3) !== 3 || offset === 0xffe) return true
    const { ppn, fetchBank } = this.#translation
    if (this.#pmp.access(ppn * 4096 + offset + 2, 2, fetchBank === FETCH_BANK.M) & ACCESS.fetch) return true
    this.#fault(CAUSE.fetchAccess, lo + 2, hi)
    return false
  }

  /** The decoded page at an address, if the fetch TLB has it. Changes nothing. */
  knownCode(lo: number, hi: number): { readonly slots: number; readonly mem: number } | undefined {
    return this.#tlb.findFetch(this.#translation.fetchBank, lo, hi)
  }

  /** Is the page at an address the one with these slots? If so the fetch TLB knows it afterwards. Traps nothing. */
  confirmCode(address: bigint, slots: number): boolean {
    this.#big[0] = address
    const lo = this.#half[0]
    const hi = this.#half[1]
    const translation = this.#translation
    const bank = [MMU_BANK.U, MMU_BANK.S, MMU_BANK.M][translation.fetchBank]
    if (translation.translate(lo, hi, ACCESS.fetch, bank) !== OK || translation.mixed) return false
    const mem = this.#physical.find(translation.ppn)
    if (mem < 0 || this.#codePages.find(mem) !== slots) return false
    this.#fillFetch(lo, hi, slots, mem)
    return true
  }

  #fillFetch(lo: number, hi: number, slots: number, mem: number): void {
    const translation = this.#translation
    if (translation.superpage) this.#tlb.noteSuperpage(lo, hi)
    if (!translation.global) this.#tlb.noteNonGlobal(translation.fetchBank)
    this.#tlb.fillFetch(translation.fetchBank, lo, hi, slots, mem)
  }

  /**
   * The 16 bits at the start of the page after the current one: the second half of an instruction that straddles. The
   * trap, if there is one, belongs to the address of that half.
   * @returns -1 after setting trapPending32
   */
  straddledHalf(): number {
    const { i32 } = this.#hart
    const lo = (i32[WORD.pageVaddr] + 4096) | 0
    const hi = lo === 0 ? (i32[WORD.pageVaddr + 1] + 1) | 0 : i32[WORD.pageVaddr + 1]
    const mem = this.#fetchPage(lo, hi, lo, hi)
    return mem < 0 ? -1 : this.#views.u16[mem / 2]
  }

  /** The 32 bits at a pc of the current page, for the system side. @returns undefined: no longer fetchable */
  instructionAt(pc: bigint): number | undefined {
    this.#big[0] = pc
    const lo = this.#half[0]
    const first = this.#fetchPage(lo, this.#half[1], lo, this.#half[1])
    if (first < 0) return undefined
    const at = first + (lo & 0xffe)
    const low = this.#views.u16[at / 2]
    if ((low & 3) !== 3) return low
    if ((lo & 0xffe) !== 0xffe) return (low | (this.#views.u16[at / 2 + 1] << 16)) >>> 0
    this.#big[0] = pc + 2n
    const second = this.#fetchPage(this.#half[0], this.#half[1], lo, this.#half[1])
    return second < 0 ? undefined : (low | (this.#views.u16[second / 2] << 16)) >>> 0
  }

  /** @returns byte offset of the page in guest memory, or -1 after setting trapPending32 with tval = `at` */
  #fetchPage(lo: number, hi: number, atLo: number, atHi: number): number {
    const translation = this.#translation
    const bank = [MMU_BANK.U, MMU_BANK.S, MMU_BANK.M][translation.fetchBank]
    const outcome = translation.translate(lo, hi, ACCESS.fetch, bank)
    if (outcome !== OK) {
      if (outcome === MISSING) this.#missing(translation.missingPage)
      else this.#fault(outcome === PAGE_FAULT ? CAUSE.fetchPage : CAUSE.fetchAccess, atLo, atHi)
      return -1
    }
    const mem = this.#physical.find(translation.ppn)
    if (mem < 0) this.#fault(CAUSE.fetchAccess, atLo, atHi)
    else if (this.#views.isMissing(mem / 4096)) {
      this.#missing(mem / 4096)
      return -1
    }
    return mem
  }

  /** All of an aligned range. Traps nothing. */
  #mayRead(lo: number, hi: number, bytes: number): boolean {
    if (this.#try(lo, hi, ACCESS.read) !== OK) return false
    const { mixed, ppn, dataBank } = this.#translation
    if (!mixed) return true
    return (this.#pmp.access(ppn * 4096 + (lo & 0xfff), bytes, dataBank === MMU_BANK.M) & ACCESS.read) !== 0
  }

  #try(lo: number, hi: number, access: number): number {
    return this.#translation.translate(lo, hi, access, this.#translation.dataBank)
  }

  /**
   * Translates for one access that does not cross a page, and fills the TLBs where that is allowed.
   * @returns false after setting trapPending32
   */
  #locate(lo: number, hi: number, access: number, bytes: number, faultLo = lo): boolean {
    const translation = this.#translation
    const bank = translation.dataBank
    const outcome = translation.translate(lo, hi, access, bank)
    if (outcome === MISSING) return this.#missing(translation.missingPage)
    if (outcome !== OK) {
      const cause =
        access === ACCESS.read
          ? outcome === PAGE_FAULT
            ? CAUSE.loadPage
            : CAUSE.loadAccess
          : outcome === PAGE_FAULT
            ? CAUSE.storePage
            : CAUSE.storeAccess
      this.#fault(cause, faultLo, hi)
      return false
    }
    this.#physicalAddress = translation.ppn * 4096 + (lo & 0xfff)
    if (translation.mixed && !(this.#pmp.access(this.#physicalAddress, bytes, bank === MMU_BANK.M) & access)) {
      this.#fault(access === ACCESS.read ? CAUSE.loadAccess : CAUSE.storeAccess, faultLo, hi)
      return false
    }
    const page = this.#physical.find(translation.ppn)
    if (page < 0) {
      this.#mem = -1
      return true
    }
    if (this.#views.isMissing(page / 4096)) return this.#missing(page / 4096)
    if (access === ACCESS.write && !mayWrite(this.#views, this.#mmio, page / 4096)) return this.#missing(page / 4096)
    this.#mem = page + (lo & 0xfff)
    this.#mode = this.#physical.mode
    if (translation.mixed) return true
    if (translation.superpage) this.#tlb.noteSuperpage(lo, hi)
    if (!translation.global) this.#tlb.noteNonGlobal(bank)
    if (translation.readable) this.#tlb.fillRead(bank, lo, hi, page)
    // A load of a page that will be written too: save the store its miss, unless that would log or hide something.
    if (access === ACCESS.read && translation.writable && this.#mode === MODE.ram) {
      const index = page / 4096
      if (!this.#views.isCode(index) && this.#views.isDirty(index) && !this.#views.isGuarded(index))
        this.#tlb.fillWrite(bank, lo, hi, page)
    }
    return true
  }

  /** Before a write to RAM at `mem`: dirty log, decoded code, write TLB. */
  #admitWrite(lo: number, hi: number, mem: number, bytes: number): void {
    const index = Math.floor(mem / 4096)
    this.#views.markDirty(index)
    if (this.#views.isCode(index) && !this.#codePages.written(index, mem & 0xfff, bytes)) return
    if (!this.#translation.mixed) this.#tlb.fillWrite(this.#translation.dataBank, lo, hi, index * 4096)
  }

  #loadMisaligned(address: bigint, lo: number, hi: number, bytes: number, kind: number): bigint {
    const inFirst = Math.min(bytes, 4096 - (lo & 0xfff))
    if (!this.#locate(lo, hi, ACCESS.read, inFirst)) return 0n
    if (this.#mem < 0) return this.#fault(CAUSE.loadAccess, lo, hi)
    const first = this.#mem
    let second = first + inFirst
    if (inFirst < bytes) {
      this.#big[0] = address + BigInt(inFirst)
      const nextLo = this.#half[0]
      const nextHi = this.#half[1]
      if (!this.#locate(nextLo, nextHi, ACCESS.read, bytes - inFirst)) return 0n
      if (this.#mem < 0) return this.#fault(CAUSE.loadAccess, nextLo, nextHi)
      second = this.#mem
    }
    this.#big[0] = 0n
    for (let i = 0; i < bytes; i++) {
      this.#bytes[i] = this.#views.u8[i < inFirst ? first + i : second + i - inFirst]
    }
    return extend(this.#wide.getBigUint64(0, true), kind)
  }

  #storeMisaligned(address: bigint, lo: number, hi: number, value: bigint, bytes: number): void {
    const inFirst = Math.min(bytes, 4096 - (lo & 0xfff))
    if (!this.#locate(lo, hi, ACCESS.write, inFirst)) return
    if (this.#mem < 0 || this.#mode === MODE.romd) {
      this.#fault(CAUSE.storeAccess, lo, hi)
      return
    }
    const first = this.#mem
    const firstMode = this.#mode
    let second = first + inFirst
    let secondMode = firstMode
    // Both parts must be writable before either is written.
    if (inFirst < bytes) {
      this.#big[0] = address + BigInt(inFirst)
      const nextLo = this.#half[0]
      const nextHi = this.#half[1]
      if (!this.#locate(nextLo, nextHi, ACCESS.write, bytes - inFirst)) return
      if (this.#mem < 0 || this.#mode === MODE.romd) {
        this.#fault(CAUSE.storeAccess, nextLo, nextHi)
        return
      }
      second = this.#mem
      secondMode = this.#mode
      if (secondMode === MODE.ram) this.#admitWrite(nextLo, nextHi, second, bytes - inFirst)
      // The TLB entry of the first part belongs to another translation than the last one made.
      if (firstMode === MODE.ram && this.#try(lo, hi, ACCESS.write) === OK) this.#admitWrite(lo, hi, first, inFirst)
    } else if (firstMode === MODE.ram) this.#admitWrite(lo, hi, first, bytes)
    this.#wide.setBigInt64(0, BigInt.asIntN(64, value), true)
    for (let i = 0; i < bytes; i++) {
      if (i < inFirst ? firstMode === MODE.ram : secondMode === MODE.ram) {
        this.#views.u8[i < inFirst ? first + i : second + i - inFirst] = this.#bytes[i]
      }
    }
  }

  #cacheBlockEnabled(op: number): boolean {
    const { zicbom, zicboz } = this.#profile
    if (op === CBO_ZERO ? !zicboz : !zicbom) return false
    const mask = op === CBO_ZERO ? CBZE : op === CBO_INVAL ? CBIE : CBCFE
    const priv = this.#hart.priv
    if (priv !== PRIV.M && !(Number(this.#hart.csr('menvcfg') & 0xffn) & mask)) return false
    return priv !== PRIV.U || (Number(this.#hart.csr('senvcfg') & 0xffn) & mask) !== 0
  }

  /** Nothing answers there, or what answers needs a page that has not arrived. */
  #mmioFailed(cause: number, lo: number, hi: number): bigint {
    if (this.#mmio.missingPage < 0) return this.#fault(cause, lo, hi)
    this.#missing(this.#mmio.missingPage)
    return 0n
  }

  /** Sets trapPending32: the instruction runs again once that page is there. */
  #missing(page: number): false {
    this.missingPage = page
    this.#hart.i32[WORD.trapPending] = Pending.missing
    return false
  }

  /** Sets trapPending32. */
  #fault(cause: number, lo: number, hi: number): bigint {
    const { i32 } = this.#hart
    i32[WORD.trapPending] = Pending.exception
    i32[WORD.trapCause] = cause
    i32[WORD.trapCause + 1] = 0
    i32[WORD.trapValue] = lo
    i32[WORD.trapValue + 1] = hi
    return 0n
  }
}

/** @param value zero-extended @param kind AccessKind */
function extend(value: bigint, kind: number): bigint {
  const bits = 8 << (kind >> 1)
  return kind & 1 ? BigInt.asUintN(bits, value) : BigInt.asIntN(bits, value)
}
