import { MODE } from '../hart/control.ts'
import type { GuestViews } from '../hart/guest-views.ts'
import type { HartState } from '../hart/hart-state.ts'
import { MSTATUS, PRIV, WORD } from '../hart/hart-state.ts'
import { FETCH_BANK, MMU_BANK } from '../hart/layout.ts'
import type { HartProfile } from '../hart/profile.ts'
import type { MmioClient } from '../worker/mailbox.ts'
import type { Physical } from './physical.ts'
import { PMP, PMP_MIXED, type Pmp } from './pmp.ts'
import type { Tlb } from './tlb.ts'

/** What an access wants. The values are the R, W and X bits of a PMP entry. */
export const ACCESS = { read: PMP.R, write: PMP.W, fetch: PMP.X } as const

/** Outcome of {@link Translation.translate}. */
export const OK = 0
export const PAGE_FAULT = 1
export const ACCESS_FAULT = 2
/** A table of the walk has not arrived yet, or cannot be written just now: see `missingPage`. */
export const MISSING = 3

const PTE = { V: 1, R: 2, W: 4, X: 8, U: 16, G: 32, A: 64, D: 128 } as const
/** High word of a PTE: N, PBMT and the seven reserved bits above the PPN. */
const PTEH = { N: 1 << 31, PBMT: 3 << 29, RESERVED: 0x1fc00000 } as const
const MODE_LEVELS: Readonly<Record<number, number>> = { 0: 0, 8: 3, 9: 4, 10: 5 }
/** Pages per leaf of a level. */
const LEAF_PAGES = [1, 2 ** 9, 2 ** 18, 2 ** 27, 2 ** 36]

/** Before a write to that page of guest memory. @returns false: it has to wait */
export const mayWrite = (views: GuestViews, mmio: MmioClient, page: number): boolean =>
  !views.isGuarded(page) || mmio.claim(page)

/** satp.MODE values that the CPU implements. */
export const satpModeExists = (mode: number): boolean => mode in MODE_LEVELS

/**
 * Virtual to physical, for one hart. Spec: privileged ISA, "Supervisor: Virtual-Memory System" (Sv39, Sv48, Sv57, and
 * Svadu, Svnapot, Svpbmt where the profile has them). Numbers and 32-bit halves only: this runs on every TLB miss.
 */
export class Translation {
  readonly #hart: HartState
  readonly #profile: HartProfile
  readonly #views: GuestViews
  readonly #physical: Physical
  readonly #pmp: Pmp
  readonly #tlb: Tlb
  readonly #mmio: MmioClient
  /** High-word PTE bits that must be zero. */
  #reserved = 0
  #updateAD = true
  #levels = 0
  #root = 0
  #mxr = false
  #satpLo = 0
  #satpHi = 0

  /** Results of a successful {@link translate}: physical page, and what may be cached for the whole page. */
  ppn = 0
  readable = false
  writable = false
  /** PMP says different things about parts of the page: do not cache, ask per access. */
  mixed = false
  /** The leaf was larger than a page. */
  superpage = false
  /** Holds in all address spaces. */
  global = false
  /** After MISSING: page of guest memory. */
  missingPage = 0

  constructor(parts: {
    hart: HartState
    profile: HartProfile
    views: GuestViews
    physical: Physical
    pmp: Pmp
    tlb: Tlb
    mmio: MmioClient
  }) {
    this.#hart = parts.hart
    this.#profile = parts.profile
    this.#views = parts.views
    this.#physical = parts.physical
    this.#pmp = parts.pmp
    this.#tlb = parts.tlb
    this.#mmio = parts.mmio
  }

  /** MMU_BANK for loads and stores. */
  get dataBank(): number {
    return this.#tlb.dataBank
  }

  /** FETCH_BANK for fetches. */
  get fetchBank(): number {
    return this.#tlb.fetchBank
  }

  /**
   * After privilege, mstatus, satp or menvcfg changed: chooses banks, drops what no longer holds.
   * @returns whether fetches are translated differently now
   */
  update(): boolean {
    const i32 = this.#hart.i32
    const mstatus = i32[WORD.mstatus]
    const priv = i32[WORD.priv]
    const dataPriv = priv === PRIV.M && mstatus & MSTATUS.MPRV ? (mstatus >>> MSTATUS.MPP_SHIFT) & 3 : priv
    const dataBank =
      dataPriv === PRIV.M
        ? MMU_BANK.M
        : dataPriv === PRIV.U
          ? MMU_BANK.U
          : mstatus & MSTATUS.SUM
            ? MMU_BANK.S_SUM
            : MMU_BANK.S
    const fetchBank = priv === PRIV.M ? FETCH_BANK.M : priv === PRIV.U ? FETCH_BANK.U : FETCH_BANK.S
    this.#tlb.select(dataBank, fetchBank)

    const mxr = (mstatus & MSTATUS.MXR) !== 0
    if (mxr !== this.#mxr) {
      this.#mxr = mxr
      this.#tlb.flushRead()
    }
    i32[WORD.fpOff] = (mstatus & MSTATUS.FS) === 0 ? 1 : (mstatus & MSTATUS.FS) === MSTATUS.FS ? 0 : 2

    const changed = i32[WORD.satp] !== this.#satpLo || i32[WORD.satp + 1] !== this.#satpHi
    if (changed) {
      this.#satpLo = i32[WORD.satp]
      this.#satpHi = i32[WORD.satp + 1]
      const levels = MODE_LEVELS[this.#satpHi >>> 28] ?? 0
      // Another address space of the same kind: global translations stay true.
      if (levels !== 0 && levels === this.#levels) this.#tlb.flushNonGlobal()
      else this.#tlb.flushTranslated()
      this.#levels = levels
      this.#root = (this.#satpHi & 0xfff) * 2 ** 32 + (this.#satpLo >>> 0)
    }
    const { svadu, svnapot, svpbmt } = this.#profile
    const menvcfg = i32[WORD.menvcfg + 1]
    const pbmt = svpbmt && (menvcfg & (1 << 30)) !== 0
    this.#reserved = PTEH.RESERVED | (svnapot ? 0 : PTEH.N) | (pbmt ? 0 : PTEH.PBMT)
    this.#updateAD = !svadu || (menvcfg & (1 << 29)) !== 0
    return changed
  }

  /** Registers were changed from outside: nothing remembered holds. */
  reset(): void {
    this.#satpLo = this.#satpHi = 0
    this.#levels = 0
    this.#root = 0
    this.#mxr = false
    this.#pmp.update()
    this.#tlb.flushAll()
    this.update()
  }

  /**
   * @param lo @param hi the virtual address
   * @param access ACCESS
   * @param bank the MMU_BANK the access is checked as; for fetches U, S or M
   * @returns OK, PAGE_FAULT, ACCESS_FAULT or MISSING; after OK the result members are set
   */
  translate(lo: number, hi: number, access: number, bank: number): number {
    if (bank === MMU_BANK.M || this.#levels === 0) {
      this.ppn = (lo >>> 12) + (hi >>> 0) * 2 ** 20
      this.superpage = false
      this.global = false
      return this.#protect(lo, access, bank, PMP.R | PMP.W)
    }
    // The part of the address above the translated bits must be copies of its highest bit.
    const levels = this.#levels
    const above = hi >> (levels === 3 ? 6 : levels === 4 ? 15 : 24)
    if (above !== 0 && above !== -1) return PAGE_FAULT
    for (;;) {
      const outcome = this.#walk(lo, hi, access, bank, levels)
      if (outcome >= 0) return outcome
    }
  }

  /** @returns an outcome, or -1 when the PTE changed under our hands and the walk has to start again */
  #walk(lo: number, hi: number, access: number, bank: number, levels: number): number {
    const mem32 = this.#views.i32
    let table = this.#root
    let global = 0
    for (let level = levels - 1; level >= 0; level--) {
      const index =
        level === 0
          ? (lo >>> 12) & 511
          : level === 1
            ? (lo >>> 21) & 511
            : level === 2
              ? ((lo >>> 30) | (hi << 2)) & 511
              : level === 3
                ? (hi >>> 7) & 511
                : (hi >>> 16) & 511
      const place = this.#physical.find(table)
      if (place < 0 || !this.#tableAllows(table, index, PMP.R)) return ACCESS_FAULT
      if (this.#views.isMissing(place / 4096)) {
        this.missingPage = place / 4096
        return MISSING
      }
      const at = place / 4 + index * 2
      const pte = mem32[at]
      const pteHi = mem32[at + 1]
      if (!(pte & PTE.V) || (pte & (PTE.R | PTE.W)) === PTE.W || pteHi & this.#reserved) return PAGE_FAULT
      global |= pte & PTE.G
      let ppn = (pteHi & 0x3fffff) * 2 ** 22 + (pte >>> 10)
      if (!(pte & (PTE.R | PTE.W | PTE.X))) {
        if (pte & (PTE.U | PTE.A | PTE.D) || pteHi & (PTEH.N | PTEH.PBMT)) return PAGE_FAULT
        table = ppn
        continue
      }
      // A leaf.
      if (pte & PTE.U) {
        if (bank === MMU_BANK.S || (bank === MMU_BANK.S_SUM && access === ACCESS.fetch)) return PAGE_FAULT
      } else if (bank === MMU_BANK.U) return PAGE_FAULT
      const readable = pte & (this.#mxr ? PTE.R | PTE.X : PTE.R)
      if (access === ACCESS.read ? !readable : access === ACCESS.write ? !(pte & PTE.W) : !(pte & PTE.X)) {
        return PAGE_FAULT
      }
      const vpn = (lo >>> 12) + (hi >>> 0) * 2 ** 20
      if (level > 0) {
        const pages = LEAF_PAGES[level]
        if (ppn % pages !== 0 || pteHi & PTEH.N) return PAGE_FAULT
        ppn += vpn % pages
      } else if (pteHi & PTEH.N) {
        if ((pte >>> 10) % 16 !== 8) return PAGE_FAULT
        ppn += (vpn % 16) - 8
      }
      const wanted = access === ACCESS.write ? PTE.A | PTE.D : PTE.A
      let now = pte
      if ((pte & wanted) !== wanted) {
        if (!this.#updateAD) return PAGE_FAULT
        if (this.#physical.mode !== MODE.ram || !this.#tableAllows(table, index, PMP.W)) return ACCESS_FAULT
        if (!mayWrite(this.#views, this.#mmio, place / 4096)) {
          this.missingPage = place / 4096
          return MISSING
        }
        now = pte | wanted
        this.#views.markDirty(place / 4096)
        if (Atomics.compareExchange(mem32, at, pte, now) !== pte) return -1
      }
      this.ppn = ppn
      this.global = global !== 0
      this.superpage = level > 0 || (pteHi & PTEH.N) !== 0
      return this.#protect(lo, access, bank, (readable ? PMP.R : 0) | (now & PTE.W && now & PTE.D ? PMP.W : 0))
    }
    return PAGE_FAULT
  }

  /** PMP on the page that was found. @param may R and W as the page table allows them */
  #protect(lo: number, access: number, bank: number, may: number): number {
    const machine = bank === MMU_BANK.M
    const page = this.#pmp.page(this.ppn, machine)
    this.mixed = page === PMP_MIXED
    const allowed = this.mixed ? this.#pmp.access(this.ppn * 4096 + (lo & 0xfff), 1, machine) : page
    if (!(allowed & access)) return ACCESS_FAULT
    this.readable = (allowed & may & PMP.R) !== 0
    this.writable = (allowed & may & PMP.W) !== 0
    return OK
  }

  /** Page tables are read and written with S-mode's PMP permissions. */
  #tableAllows(table: number, index: number, access: number): boolean {
    const page = this.#pmp.page(table, false)
    return ((page === PMP_MIXED ? this.#pmp.access(table * 4096 + index * 8, 8, false) : page) & access) !== 0
  }
}
