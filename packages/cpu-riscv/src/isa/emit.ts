import type { AccessKind } from '../interpreter/contract.ts'
import type { FpuOpName } from '../softfloat/ops.ts'
import { i32 } from '../wasm/expr.ts'
import type { Expr, FunctionBody, I32, I64, ValueType } from '../wasm/function-body.ts'

export type AccessName = keyof typeof AccessKind
export type AccessBytes = 1 | 2 | 4 | 8

/**
 * What the semantics of an instruction are written against. The interpreter implements it over decoded slots, a compiler
 * over locals and constants; a row of the table does not know which.
 *
 * Methods that return nothing append code at once; methods that return an expression give something to be evaluated once,
 * later in the same instruction. An instruction that can trap evaluates everything that may trap before it writes `rd`.
 */
export interface Emit {
  /** The function that is being written, for control flow that only this instruction has. */
  readonly body: FunctionBody

  rs1(): I64
  rs2(): I64
  /** Low halves, for the `w` instructions. */
  rs1w(): I32
  rs2w(): I32
  imm(): I64
  imm32(): I32
  /** Writes the destination; nothing happens when it is x0. */
  rd(value: I64): void
  pc(): I64
  nextPc(): I64
  /** rs1 + imm: where a load or store goes. May be used several times. */
  address(): I64
  /** Evaluates now; the result can be used any number of times. */
  hold<T extends ValueType>(type: T, value: Expr<T>): Expr<T>

  load(kind: AccessName, address: I64): I64
  store(bytes: AccessBytes, address: I64, value: I64): void
  /** Where `address` lies in memory, checked for an atomic access of that size; `write: false` only for LR. */
  atomicAddress(bytes: 4 | 8, address: I64, write: boolean): I32
  /** cbo.*: `operation` is the instruction's imm12. */
  cacheBlock(operation: number, address: I64): void

  /** Goes to pc + imm if the condition holds. Ends the instruction. */
  branch(condition: I32): void
  /** Goes to pc + imm. Ends the instruction. */
  jump(): void
  /** Goes to an address of which bit 0 is ignored. Ends the instruction. */
  jumpRegister(target: I64): void
  /** Leaves it to TypeScript: Exit.system at this instruction. Ends the instruction. */
  system(): void
  /** The same, if the condition holds: an encoding that TypeScript does not know is illegal. */
  illegalIf(condition: I32): void

  /** Reads and writes a CSR; `immediate`: the source is the rs1 field itself. @returns the old value */
  csr(funct3: number, immediate: boolean): I64

  /** The reservation of LR. */
  reservation(): { address: I64; value: I64 }
  setReservation(address: I64, value?: I64): void

  /** Raw contents of an f register operand. */
  fs1(): I64
  fs2(): I64
  fs3(): I64
  /** Writes the destination, an f register, raw. */
  fd(value: I64): void
  /**
   * First statement of every FP instruction: illegal when mstatus.FS is off. `dirties`: it writes an f register or fflags,
   * so FS becomes Dirty.
   */
  fpEnabled(dirties: boolean): void
  /** The instruction's rm field with frm in place of 7 (dynamic); 5 and up is reserved. */
  roundingMode(): I32
  fflags(): I32
  /** Ors into fflags. */
  raise(flags: I32): void
  /** Does v128.relaxed_madd round once here? Otherwise fused operations need softfloat. */
  readonly fusesMultiplyAdd: boolean
  /** Softfloat; operands and result in the formats of softfloat/ops.ts. */
  fpu(op: FpuOpName, operands: readonly I64[], roundingMode: I32): I64

  /**
   * Two ways to do the same: `fast` may give up with `guard` as long as it has not changed anything, and then `slow` runs
   * (for the interpreter in a function of its own, for compiled code by leaving the block).
   */
  either(fast: () => void, slow: () => void): void
  /** Only in `fast`: goes on only if the condition holds. */
  guard(condition: I32): void
}

/** For {@link Emit.guard}: what has no fast way at all. By identity, so that a compiler does not even try. */
export const NEVER: I32 = i32.const(0)

export type Semantics = (e: Emit) => void
