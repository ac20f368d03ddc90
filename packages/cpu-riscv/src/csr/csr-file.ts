import { PRIV, WORD } from '../hart/hart-state.ts'
import { type Csr, type CsrContext, Effect } from './csr-row.ts'
import { CSRS } from './csr-table.ts'

const ALL = 0xffff_ffff_ffff_ffffn

/** Who is told that a write changed more than the register. */
export interface CsrEffects {
  translationChanged(): void
  tlbInvalid(): void
  timersChanged(): void
  /** Pending or enabled interrupts may have changed. */
  interruptsChanged(): void
}

/** Access to CSRs with the checks of the privileged ISA, "CSR Instructions". */
export class CsrFile {
  readonly #context: CsrContext
  readonly #effects: CsrEffects
  readonly #csrs: (Csr | undefined)[] = new Array(4096).fill(undefined)

  constructor(context: CsrContext, effects: CsrEffects) {
    this.#context = context
    this.#effects = effects
    for (const [number, csr] of CSRS) this.#csrs[number] = csr
  }

  /**
   * One CSR instruction.
   * @param funct3 1..3, 5..7 @param source rs1's value or the immediate @param sourceIndex rs1 or immediate field
   * @returns the old value, or undefined: illegal instruction
   */
  execute(funct3: number, number: number, source: bigint, sourceIndex: number): bigint | undefined {
    const operation = funct3 & 3
    const writes = operation === 1 || sourceIndex !== 0
    const csr = this.#csrs[number]
    const context = this.#context
    const needed = (number >> 8) & 3
    // Number 2 is the hypervisor's: S-mode, where V = 0, has them.
    if (
      csr === undefined ||
      context.hart.i32[WORD.priv] < (needed === 2 ? PRIV.S : needed) ||
      (writes && number >> 10 === 3) ||
      (csr.exists !== undefined && !csr.exists(context, writes))
    ) {
      return undefined
    }
    const old = csr.read(context)
    if (writes) {
      if (csr.modify) {
        const bits = BigInt.asUintN(64, source)
        csr.modify(context, operation === 3 ? 0n : bits, operation === 1 ? ALL : bits)
      } else if (csr.write) {
        const value = operation === 1 ? source : operation === 2 ? old | source : old & ~source
        csr.write(context, BigInt.asUintN(64, value))
      }
      const effect = csr.effect ?? Effect.none
      if (effect !== Effect.none) this.#apply(effect)
    }
    return old
  }

  /** Reads without checks, for monitors. */
  peek(number: number): bigint | undefined {
    return this.#csrs[number]?.read(this.#context)
  }

  #apply(effect: number): void {
    if (effect & Effect.timers) this.#effects.timersChanged()
    if (effect & Effect.tlb) this.#effects.tlbInvalid()
    if (effect & Effect.translation) this.#effects.translationChanged()
    if (effect & Effect.interrupts) this.#effects.interruptsChanged()
  }
}
