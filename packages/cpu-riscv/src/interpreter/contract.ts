import type { HartProfile } from '../hart/profile.ts'

/**
 * The seam between the generated WebAssembly (interpreter now, compiled blocks later) and the TypeScript that knows about
 * privilege, translation and devices. The wasm never unwinds by exception: a slow path that traps sets
 * LAYOUT.trapPending32, trapCause, trapValue and returns; the handler then leaves the loop with Exit.trap and LAYOUT.pc
 * naming the instruction that trapped.
 */

/** Why `run` returned. LAYOUT.pc is exact in every case. */
export const Exit = {
  /** The budget is used up or LAYOUT.request32 is not zero. pc = next instruction. */
  poll: 0,
  /** trapPending32 is set. pc = the instruction that trapped. */
  trap: 1,
  /** An instruction for TypeScript: ecall, ebreak, mret, sret, wfi, wrs, fences, illegal. pc = that instruction; `exitInsn` = its bits. */
  system: 2,
  /** Jumps have come to pc so often that it is worth compiling. Nothing else happened. */
  hot: 3,
} as const

/** Sizes and signs of memory accesses. */
export const AccessKind = { i8: 0, u8: 1, i16: 2, u16: 3, i32: 4, u32: 5, i64: 6 } as const

/**
 * Values of LAYOUT.trapPending32, all of which make a handler leave with Exit.trap: 1 an exception (cause and value are
 * set), 2 an illegal instruction (the system side finds its bits from pc), 3 a CSR instruction that is done except for rd
 * and pc (the system side finishes it, because the next instruction may have to be fetched or interrupted anew).
 */

/** Imports of the generated module, namespace `hart`. All i64 are BigInt. They find the hart by closure. */
export interface HartImports {
  /** TLB miss, misaligned, page-crossing or MMIO load. `slot` names the instruction (its pc is pageVaddr + (slot - pageSlots) / 8). */
  load(address: bigint, kind: number, slot: number): bigint
  store(address: bigint, value: bigint, bytes: number, slot: number): void
  /**
   * Makes an AMO, LR or SC address writable memory: returns its offset in memory, or 0 after setting trapPending (a fault,
   * a misaligned address, or MMIO). `write` 0 only for LR.
   */
  amoAddress(address: bigint, bytes: number, write: number, slot: number): number
  /** cbo.zero / cbo.clean / cbo.flush / cbo.inval on the block that holds `address`. op = the instruction's imm12. */
  cacheBlock(op: number, address: bigint, slot: number): void
  /**
   * funct3 1..3 and 5..7 as encoded; `source` = rs1's value or the zero-extended uimm; `sourceIndex` = the rs1/uimm field
   * (0 suppresses the write of csrrs/csrrc). Returns the old value.
   */
  csr(funct3: number, number: number, source: bigint, sourceIndex: number, slot: number): bigint
  /**
   * Where does execution go on at `pc`? Returns the slot of that instruction after setting pageVaddr and pageSlots32 and
   * filling the fetch TLB; or 0 after setting trapPending (pc = LAYOUT.pc = the target).
   */
  fetch(pc: bigint): number
  /** Decodes the instruction at `slot` into it (handler 0 calls this). */
  decode(slot: number): void
  /**
   * Decodes the instruction at the last slot of a page, which has its second half in the next page. It happens anew each
   * time it runs. @returns the number of its handler, or -1 after setting trapPending
   */
  straddle(slot: number): number
  /** Floating point that the fast path gave up on. `op` and formats as in softfloat/ops.ts; rm already resolved from frm. Sets fflags. */
  fpu(op: number, a: bigint, b: bigint, c: bigint, rm: number): bigint
}

/**
 * What the interpreter offers to the code that owns pages of decoded slots (mmu/code-pages.ts), and what both agree on:
 * - A page of slots that `initPage` prepared has every slot undecoded and its page-end slots in place.
 * - `instret` is brought up to date (instructions before the current one) before the import `csr` is called
 *   and at every exit of `run`.
 * - The fetch TLB hit path in wasm sets pageVaddr, pageSlots32 and pageMem32 itself.
 */
export interface DecodedCode {
  /** Decodes the instruction at a slot of the page in force. */
  decode(slot: number): void
  /**
   * @param slots memory offset of PAGE_SLOT_BYTES
   * @param fresh they are zero, and stay untouched: the host gives memory only to what is decoded
   */
  initPage(slots: number, fresh: boolean): void
  /** Bytes [offset, offset + bytes) of the page were overwritten: forget every instruction that overlaps them. */
  clearSlots(slots: number, offset: number, bytes: number): void
  /** Guest memory is longer than before: instructions may lie in what is new. */
  memoryGrew(): void
}

/** Exports of the generated module. */
export interface InterpreterExports {
  /**
   * Runs from LAYOUT.pc until an Exit. `budget`, below 2^22, is looked at where request32 is: at backward branches, jumps and page ends,
   * so it may be exceeded by what lies between two of these.
   */
  run(budget: number): number
  /** The instruction that Exit.system is about: 32 bits, or 16 for a compressed one. */
  readonly exitInsn: WebAssembly.Global
  /** By handler number: `(slot, budget) -> exit`, what runs an instruction that the loop gave up on. */
  readonly table: WebAssembly.Table
  /**
   * `(pc, budget) -> (pc, budget)`, for compiled code: runs the instruction at pc as if nothing was compiled. Every register
   * is in memory before and after. An odd pc: something else has to be done first, leave for good.
   */
  readonly step: WebAssembly.ExportValue
}

/**
 * What the system side provides (worker/hart-core.ts): all imports but `decode`, `straddle` and `fpu`, which
 * belong to the interpreter, plus one for its decoder.
 */
export type SystemImports = Omit<HartImports, 'decode' | 'straddle' | 'fpu'> & {
  /**
   * The 16 bits at the start of the virtual page after pageVaddr, for an instruction that straddles; -1 after setting
   * trapPending32 (the trap's pc is the instruction's, its value the address of the second half).
   */
  straddledHalf(): number
}

/** `interpreter/interpreter.ts` exports `makeInterpreter`; the worker calls it once per hart. */
export interface InterpreterOptions {
  readonly memory: WebAssembly.Memory
  /** LAYOUT counts from here. */
  readonly hartBase: number
  /** Which optional extensions decode: zicbom, zicboz, zawrs, zfa, svinval. */
  readonly profile: HartProfile
  readonly imports: SystemImports
  /** Absent: everything is interpreted. */
  readonly compiled?: CompiledCode
}

/** What the interpreter needs to know of compiled code. */
export interface CompiledCode {
  /** Regions by number: functions `(pc, budget, depth) -> (pc, budget)`, see compiler/region-code.ts. */
  readonly table: WebAssembly.Table
  /** So many jumps to an instruction make {@link Exit}.hot; at most 32767. */
  readonly threshold: number
}
export interface Interpreter {
  readonly code: DecodedCode
  readonly exports: InterpreterExports
}
export type MakeInterpreter = (options: InterpreterOptions) => Interpreter
