import type { HartState } from '../hart/hart-state.ts'
import { type CsrName, csrOffset } from '../hart/layout.ts'
import type { HartProfile } from '../hart/profile.ts'
import type { Pmp } from '../mmu/pmp.ts'
import type { Interrupts } from '../trap/interrupts.ts'

/** What CSR functions work on. */
export interface CsrContext {
  readonly hart: HartState
  readonly profile: HartProfile
  readonly interrupts: Interrupts
  readonly pmp: Pmp
}

/** What else a write changes. */
export const Effect = {
  none: 0,
  /** Which interrupt is pending or enabled. */
  interrupts: 1,
  /** Privilege-dependent translation state: banks, satp, FS. */
  translation: 2,
  /** Any cached translation, also of M-mode. */
  tlb: 4,
  /** Deadlines. */
  timers: 8,
} as const

/**
 * One control and status register. Spec: privileged ISA, "CSR Listing"; its privilege and whether it can be written follow
 * from the number. Without `write` a write is ignored (WARL).
 */
export interface Csr {
  readonly name: string
  read(c: CsrContext): bigint
  write?(c: CsrContext, value: bigint): void
  /** Instead of `write`, where reading back and writing is not the same: only bits of `mask` are to be changed. */
  modify?(c: CsrContext, value: bigint, mask: bigint): void
  /** Beyond the privilege in the number; false: illegal instruction. */
  exists?(c: CsrContext, write: boolean): boolean
  readonly effect?: number
  /** It is nothing but a word at this offset of the hart's state: compiled code reads and writes it there. */
  readonly word?: { readonly at: number; readonly mask: bigint }
}

export const ALL = 0xffff_ffff_ffff_ffffn

/** A word of storage; bits outside `mask` keep their value. */
export function stored(name: CsrName, mask = ALL, effect: number = Effect.none): Csr {
  const at = csrOffset(name) >> 3
  const keep = ~mask & ALL
  return {
    name,
    effect,
    read: (c) => c.hart.u64[at],
    write:
      mask === ALL
        ? (c, value) => {
            c.hart.u64[at] = value
          }
        : (c, value) => {
            c.hart.u64[at] = (c.hart.u64[at] & keep) | (value & mask)
          },
  }
}
