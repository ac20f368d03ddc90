import type { HartState } from './hart-state.ts'
import { INTERRUPT_FILE_WORDS, LAYOUT } from './layout.ts'

/** Interrupt identities, 0 (which is none) included. */
export const IDENTITIES = 256
const SET_WORDS = IDENTITIES / 32
/** Words of a file. */
const EIDELIVERY = 0
const EITHRESHOLD = 1
const EIP = 2
const EIE = EIP + SET_WORDS
/** Numbers by which software selects the registers of a file. Spec: RISC-V AIA, "Indirectly accessed interrupt-file registers". */
const SELECT = { eidelivery: 0x70, eithreshold: 0x72, eip: 0x80, eie: 0xc0, end: 0x100 } as const
/** eip and eie have 64 numbers each, of 32 bits, of which a 64-bit hart uses the even ones for both halves. */
const SET_NUMBERS = 64

/** Places of a hart's files in its memory: machine level, supervisor level, then the supervisors of its guests. */
export const FILE = { M: 0, S: 1 } as const

/**
 * An interrupt file of an IMSIC: interrupts that messages make pending, as the hart and the device that takes the messages
 * both see it. It lies in their shared memory; each side only sets and clears single bits of what the other one changes,
 * so that there is nothing to wait for. Spec: RISC-V AIA, chapter "Incoming MSI Controller".
 */
export class InterruptFileMemory {
  readonly #words: Int32Array<SharedArrayBuffer>
  /** What xtopei showed last: what a write to it claims. Known to the side that reads it only. */
  claimable = 0

  constructor(hart: HartState, index: number) {
    const at = (LAYOUT.interruptFiles >> 2) + index * INTERRUPT_FILE_WORDS
    this.#words = hart.i32.subarray(at, at + INTERRUPT_FILE_WORDS)
  }

  /** The identity that comes first of those pending and enabled, below the threshold if there is one; 0: none. */
  get top(): number {
    const words = this.#words
    for (let i = 0; i < SET_WORDS; i++) {
      const ready = Atomics.load(words, EIP + i) & Atomics.load(words, EIE + i)
      if (ready === 0) continue
      const identity = 32 * i + 31 - Math.clz32(ready & -ready)
      const threshold = Atomics.load(words, EITHRESHOLD)
      return threshold === 0 || identity < threshold ? identity : 0
    }
    return 0
  }

  /** Is the interrupt of the file's level pending? */
  get level(): boolean {
    return Atomics.load(this.#words, EIDELIVERY) !== 0 && this.top !== 0
  }

  setPending(identity: number): void {
    Atomics.or(this.#words, EIP + (identity >> 5), 1 << (identity & 31))
  }

  clearPending(identity: number): void {
    Atomics.and(this.#words, EIP + (identity >> 5), ~(1 << (identity & 31)))
  }

  /** @param select number of a register @returns undefined: there is none */
  read(select: number): bigint | undefined {
    const words = this.#words
    if (select === SELECT.eidelivery) return BigInt(Atomics.load(words, EIDELIVERY))
    if (select === SELECT.eithreshold) return BigInt(Atomics.load(words, EITHRESHOLD))
    const at = setWord(select)
    if (at === undefined) return undefined
    if (at < 0) return 0n
    return BigInt(Atomics.load(words, at) >>> 0) | (BigInt(Atomics.load(words, at + 1) >>> 0) << 32n)
  }

  /** Changes the bits of `mask`; nothing, where there is no register. */
  modify(select: number, value: bigint, mask: bigint): void {
    const at = setWord(select)
    if (select === SELECT.eidelivery) this.#modifyWord(EIDELIVERY, value, mask & 1n)
    else if (select === SELECT.eithreshold) this.#modifyWord(EITHRESHOLD, value, mask & BigInt(IDENTITIES - 1))
    else if (at !== undefined && at >= 0) {
      // Identity 0 is none.
      this.#modifyWord(at, value, at === EIP || at === EIE ? mask & ~1n : mask)
      this.#modifyWord(at + 1, value >> 32n, mask >> 32n)
    }
  }

  #modifyWord(at: number, value: bigint, mask: bigint): void {
    const clear = Number(BigInt.asIntN(32, mask & ~value))
    const set = Number(BigInt.asIntN(32, mask & value))
    if (clear !== 0) Atomics.and(this.#words, at, ~clear)
    if (set !== 0) Atomics.or(this.#words, at, set)
  }

  reset(): void {
    this.#words.fill(0)
  }

  get eidelivery(): number {
    return this.#words[EIDELIVERY]
  }

  get eithreshold(): number {
    return this.#words[EITHRESHOLD]
  }

  /** By identity: bit 0 pending, bit 1 enabled. @param into as many as there are identities */
  saveIdentities(into: Uint32Array): void {
    for (let i = 0; i < IDENTITIES; i++) {
      const bit = i & 31
      into[i] = ((this.#words[EIP + (i >> 5)] >>> bit) & 1) | (((this.#words[EIE + (i >> 5)] >>> bit) & 1) << 1)
    }
  }

  load(eidelivery: number, eithreshold: number, eistate: Uint32Array): void {
    this.reset()
    this.#words[EIDELIVERY] = eidelivery & 1
    this.#words[EITHRESHOLD] = eithreshold & (IDENTITIES - 1)
    for (let i = 1; i < IDENTITIES; i++) {
      if (eistate[i] & 1) this.#words[EIP + (i >> 5)] |= 1 << (i & 31)
      if (eistate[i] & 2) this.#words[EIE + (i >> 5)] |= 1 << (i & 31)
    }
  }
}

/** Word of a register of eip or eie; -1: one beyond the identities that there are; undefined: no such register. */
function setWord(select: number): number | undefined {
  if (select < SELECT.eip || select >= SELECT.end || select & 1) return undefined
  const number = (select - SELECT.eip) % SET_NUMBERS
  if (number >= SET_WORDS) return -1
  return (select < SELECT.eie ? EIP : EIE) + number
}
