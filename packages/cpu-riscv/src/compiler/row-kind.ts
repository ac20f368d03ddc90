import { LOADS } from '../interpreter/memory-access.ts'
import { type AccessBytes, type AccessName, type Emit, NEVER } from '../isa/emit.ts'
import type { Instruction } from '../isa/row.ts'
import { i32, i64 } from '../wasm/expr.ts'
import { type Expr, FunctionBody, type I32, type I64, type ValueType } from '../wasm/function-body.ts'

/**
 * What an instruction does to the flow of a region: `plain` goes on to the next one; `step` is run by the interpreter and
 * usually goes on; `system` always leaves.
 */
export type RowKind = 'plain' | 'branch' | 'jump' | 'jumpRegister' | 'step' | 'system'

/** Finds out by asking the row itself: its semantics, written against an Emit that only listens. */
export const rowKind = (row: Instruction, fusesMultiplyAdd: boolean): RowKind => heard(row, fusesMultiplyAdd).kind

/** A load or store at rs1 + imm. */
export interface RowAccess {
  readonly bytes: AccessBytes
  readonly write: boolean
}

/** The memory access of a row, if it is a load or a store. */
export const rowAccess = (row: Instruction): RowAccess | undefined => heard(row, false).access

function heard(row: Instruction, fusesMultiplyAdd: boolean): Listener {
  const known = fusesMultiplyAdd ? fused : unfused
  let listener = known.get(row)
  if (!listener) {
    listener = new Listener(fusesMultiplyAdd)
    row.semantics(listener)
    known.set(row, listener)
  }
  return listener
}
const fused = new Map<Instruction, Listener>()
const unfused = new Map<Instruction, Listener>()

class Listener implements Emit {
  readonly body = new FunctionBody(0)
  readonly fusesMultiplyAdd: boolean
  kind: RowKind = 'plain'
  access: RowAccess | undefined

  constructor(fusesMultiplyAdd: boolean) {
    this.fusesMultiplyAdd = fusesMultiplyAdd
  }

  #wide = (): I64 => i64.const(0)
  #narrow = (): I32 => i32.const(0)
  rs1 = this.#wide
  rs2 = this.#wide
  rs1w = this.#narrow
  rs2w = this.#narrow
  imm = this.#wide
  imm32 = this.#narrow
  pc = this.#wide
  address = this.#wide
  nextPc = this.#wide
  fs1 = this.#wide
  fs2 = this.#wide
  fs3 = this.#wide
  fpu = this.#wide
  atomicAddress = this.#narrow
  roundingMode = this.#narrow
  fflags = this.#narrow
  reservation = (): { address: I64; value: I64 } => ({ address: i64.const(0), value: i64.const(0) })
  hold<T extends ValueType>(_: T, value: Expr<T>): Expr<T> {
    return value
  }
  rd(): void {}
  fd(): void {}
  load(kind: AccessName): I64 {
    this.access = { bytes: LOADS[kind].bytes, write: false }
    return i64.const(0)
  }
  store(bytes: AccessBytes): void {
    this.access = { bytes, write: true }
  }
  setReservation(): void {}
  fpEnabled(): void {}
  raise(): void {}
  illegalIf(): void {}

  cacheBlock(): void {
    this.kind = 'step'
  }
  csr(): I64 {
    this.kind = 'step'
    return i64.const(0)
  }
  branch(): void {
    this.kind = 'branch'
  }
  jump(): void {
    this.kind = 'jump'
  }
  jumpRegister(): void {
    this.kind = 'jumpRegister'
  }
  system(): void {
    this.kind = 'system'
  }
  either(fast: () => void): void {
    fast()
  }
  guard(condition: I32): void {
    if (condition === NEVER) this.kind = 'step'
  }
}
