import type { HartState } from '../hart/hart-state.ts'
import { MSTATUS, PRIV, WORD } from '../hart/hart-state.ts'
import type { HartProfile } from '../hart/profile.ts'
import type { Tlb } from '../mmu/tlb.ts'
import { CAUSE } from './causes.ts'
import { dropReservation, mret, sret } from './trap.ts'

/** What the loop does after an instruction that leaves the interpreter. */
export const After = {
  /** It is done; pc names the next one. */
  next: 0,
  /** An xRET is done: privilege and mstatus may have changed. */
  returned: 4,
  /** Exception `cause` with xtval = `value`; pc still names the instruction. */
  trap: 1,
  /** Done, and the hart sleeps until an interrupt is pending. */
  wait: 2,
  /** It enters a mode that does not exist here. */
  fatal: 3,
} as const

const ECALL = 0x73
const EBREAK = 0x100073
const C_EBREAK = 0x9002
const SRET = 0x10200073
const MRET = 0x30200073
const WFI = 0x10500073
const WRS_NTO = 0x00d00073
const WRS_STO = 0x01d00073
const FENCE_I = 0x100f
/** funct7 of instructions with rd = 0, funct3 = 0 in SYSTEM. */
const SFENCE_VMA = 0x09
const SINVAL_VMA = 0x0b
const SFENCE_INVAL = 0x0c
const HFENCE_VVMA = 0x11
const HINVAL_VVMA = 0x13
const HFENCE_GVMA = 0x31
const HINVAL_GVMA = 0x33

/**
 * Instructions of the privileged architecture. Everything the interpreter does not know ends here too and is illegal.
 * Spec: privileged ISA, "SYSTEM instruction formats"; Zawrs; Svinval.
 */
export class SystemInstructions {
  readonly #hart: HartState
  readonly #profile: HartProfile
  readonly #tlb: Tlb
  readonly #fenceI: () => void
  cause = 0
  valueLo = 0
  valueHi = 0

  constructor(hart: HartState, profile: HartProfile, tlb: Tlb, fenceI: () => void) {
    this.#hart = hart
    this.#profile = profile
    this.#tlb = tlb
    this.#fenceI = fenceI
  }

  /** @param insn its bits, a compressed one in the low half @returns one of {@link After} */
  execute(insn: number): number {
    const hart = this.#hart
    const { i32 } = hart
    const priv = i32[WORD.priv]
    const mstatus = i32[WORD.mstatus]
    switch (insn) {
      case ECALL:
        return this.#trap(priv === PRIV.M ? CAUSE.ecallM : priv === PRIV.S ? CAUSE.ecallS : CAUSE.ecallU, 0)
      case EBREAK:
      case C_EBREAK:
        this.#trap(CAUSE.breakpoint, 0)
        if (this.#profile.breakpointAddress) {
          this.valueLo = i32[WORD.pc]
          this.valueHi = i32[WORD.pc + 1]
        }
        return After.trap
      case MRET:
        if (priv !== PRIV.M) return this.#illegal(insn)
        return this.#returned(mret(hart))
      case SRET:
        if (priv === PRIV.U || (priv === PRIV.S && mstatus & MSTATUS.TSR)) return this.#illegal(insn)
        return this.#returned(sret(hart))
      case WFI:
        if (priv === PRIV.U || (priv === PRIV.S && mstatus & MSTATUS.TW)) return this.#illegal(insn)
        hart.retire(4)
        return After.wait
      case WRS_NTO:
      case WRS_STO:
        if (!this.#profile.zawrs) return this.#illegal(insn)
        if (insn === WRS_NTO && priv !== PRIV.M && mstatus & MSTATUS.TW) return this.#illegal(insn)
        dropReservation(hart)
        hart.retire(4)
        return After.next
      case FENCE_I:
        this.#fenceI()
        hart.retire(4)
        return After.next
    }
    if ((insn & 0x707f) === 0x73 && (insn & 0xf80) === 0) return this.#fence(insn, priv, mstatus)
    if ((insn & 0x707f) === FENCE_I) {
      this.#fenceI()
      hart.retire(4)
      return After.next
    }
    return this.#illegal(insn)
  }

  #fence(insn: number, priv: number, mstatus: number): number {
    const funct7 = insn >>> 25
    const rs1 = (insn >>> 15) & 31
    const rs2 = (insn >>> 20) & 31
    const inval = funct7 === SINVAL_VMA || funct7 === HINVAL_VVMA || funct7 === HINVAL_GVMA || funct7 === SFENCE_INVAL
    if (inval && !this.#profile.svinval) return this.#illegal(insn)
    switch (funct7) {
      case SFENCE_VMA:
      case SINVAL_VMA:
        if (priv === PRIV.U || (priv === PRIV.S && mstatus & MSTATUS.TVM)) return this.#illegal(insn)
        // With an ASID in rs2 global translations are not meant.
        if (rs1 === 0 && rs2 === 0) this.#tlb.flushTranslated()
        else if (rs1 === 0) this.#tlb.flushNonGlobal()
        else this.#tlb.flushPage(this.#hart.i32[WORD.x + 2 * rs1], this.#hart.i32[WORD.x + 2 * rs1 + 1])
        break
      case SFENCE_INVAL:
        if (priv === PRIV.U || rs1 !== 0 || rs2 > 1) return this.#illegal(insn)
        break
      case HFENCE_VVMA:
      case HINVAL_VVMA:
      case HFENCE_GVMA:
      case HINVAL_GVMA:
        // Translations of virtualized modes: there are none.
        if (priv === PRIV.U || (priv === PRIV.S && funct7 >= HFENCE_GVMA && mstatus & MSTATUS.TVM)) {
          return this.#illegal(insn)
        }
        break
      default:
        return this.#illegal(insn)
    }
    this.#hart.retire(4)
    return After.next
  }

  #illegal(insn: number): number {
    return this.#trap(CAUSE.illegal, (insn & 3) === 3 ? insn : insn & 0xffff)
  }

  #trap(cause: number, value: number): number {
    this.cause = cause
    this.valueLo = value | 0
    this.valueHi = 0
    return After.trap
  }

  #returned(allowed: boolean): number {
    if (!allowed) return After.fatal
    this.#hart.retire(0)
    return After.returned
  }
}
