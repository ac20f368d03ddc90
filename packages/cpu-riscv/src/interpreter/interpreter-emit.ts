import { csrOffset, LAYOUT, SLOT_BYTES, TLB_ENTRIES, TLB_ENTRY_BYTES } from '../hart/layout.ts'
import type { AccessBytes, AccessName, Emit } from '../isa/emit.ts'
import { type FpuOpName, fpuOpNumber } from '../softfloat/ops.ts'
import { supervisorReturn, userEcall } from '../trap/trap-code.ts'
import { callResult, i32, i64, select } from '../wasm/expr.ts'
import type { Expr, FunctionBody, I32, I64, Label, Local, ValueType } from '../wasm/function-body.ts'
import { AccessKind } from './contract.ts'
import { LOADS, PAGE_MASK, STORES } from './memory-access.ts'
import { type Handler, SLOT } from './slots.ts'
import { slotPc, state } from './state-code.ts'

/** Function indices that slow handlers call, and what is baked into all of them. */
export interface HandlerEnvironment {
  readonly hartBase: number
  readonly fusesMultiplyAdd: boolean
  readonly imports: {
    readonly load: number
    readonly store: number
    readonly amoAddress: number
    readonly cacheBlock: number
    readonly csr: number
    readonly fpu: number
  }
  /** (slot, budget) -> exit; pc becomes that of the slot. */
  readonly exitTrap: number
  readonly exitSystem: number
  /** (pc, budget) -> exit or GO_ON: asks whether to leave, then finds the slot to go on at. */
  readonly jumpTo: number
  /** The same, for what a trap or a return from one goes to: such places get hot, too. */
  readonly trapTo: number
  /** (budget): brings LAYOUT.instret up to the instruction before this one. */
  readonly syncInstret: number
  /** Globals that say where the loop goes on after a slow handler. */
  readonly nextSlot: number
  readonly nextBudget: number
}

/** What a slow handler returns when the loop is to go on; anything else is an Exit. */
export const GO_ON = -1

/** Places in the loop that fast handlers go to, and its variables. */
export interface InterpreterLoop {
  readonly slot: Local<'i32'>
  readonly budget: Local<'i32'>
  /** Where `jump` goes. */
  readonly target: Local<'i64'>
  /** The next instruction: `slot`. */
  readonly next: Label
  /** The slow function of the instruction at `slot`. */
  readonly slow: Label
  /** To `target`, wherever that is, after asking whether to leave. */
  readonly jump: Label
  /** Leaves at `slot`. */
  readonly poll: Label
  /** To `slot`, which lies further back in the page, after asking whether to leave. */
  readonly backward: Label
}

/**
 * Emits one handler. Fast ones are pieces of the interpreter's loop and make no calls, so that the loop can keep everything
 * in registers: what needs a call gives up to the handler's slow function, which has the same semantics and is reached
 * from outside of the loop.
 */
export class InterpreterEmit implements Emit {
  readonly body: FunctionBody
  readonly #env: HandlerEnvironment
  readonly #handler: Handler
  readonly #loop: InterpreterLoop | undefined
  readonly #slot: Local<'i32'>
  readonly #budget: Local<'i32'>
  readonly #state: ReturnType<typeof state>
  #ended = false
  #dirtiesFp = false

  /** @param loop undefined: the slow function, `(slot, budget) -> exit` */
  constructor(body: FunctionBody, env: HandlerEnvironment, handler: Handler, loop: InterpreterLoop | undefined) {
    this.body = body
    this.#env = env
    this.#handler = handler
    this.#loop = loop
    this.#slot = loop?.slot ?? body.parameter(0, 'i32')
    this.#budget = loop?.budget ?? body.parameter(1, 'i32')
    this.#state = state(env.hartBase)
  }

  get fusesMultiplyAdd(): boolean {
    return this.#env.fusesMultiplyAdd
  }

  /** After the semantics: goes on with the next instruction unless they went elsewhere. */
  finish(): void {
    if (this.#ended) return
    if (this.#dirtiesFp) this.#markFpDirty()
    this.#goOn(i32.const(this.#length))
  }

  get #length(): number {
    return this.#handler.bytes * (SLOT_BYTES / 2)
  }

  #here(): readonly Expr[] {
    return [this.#slot.get, this.#budget.get]
  }

  /** This instruction is done; the next one is `distance` further. */
  #goOn(distance: I32, backward = false): void {
    const { body } = this
    const loop = this.#loop
    const slot = i32.add(this.#slot.get, distance)
    const budget = i32.sub(this.#budget.get, i32.const(1))
    if (!loop) {
      body.setGlobal(this.#env.nextSlot, slot)
      body.setGlobal(this.#env.nextBudget, budget)
      body.return(i32.const(GO_ON))
      return
    }
    body.set(this.#slot, slot)
    body.set(this.#budget, budget)
    body.br(backward ? loop.backward : loop.next)
  }

  #giveUp(condition: I32): void {
    if (this.#loop) this.body.brIf(this.#loop.slow, condition)
  }

  /** True when `slot`'s import set trapPending32: leaves. */
  #leaveOnTrap(): void {
    const { body } = this
    body.if(this.#state.get32(LAYOUT.trapPending32), () => body.returnCall(this.#env.exitTrap, this.#here()))
  }

  #x(field: number): I64 {
    return i64.load(i32.load16_u(this.#slot.get, field), this.#env.hartBase)
  }
  #xw(field: number): I32 {
    return i32.load(i32.load16_u(this.#slot.get, field), this.#env.hartBase)
  }

  rs1(): I64 {
    return this.#x(SLOT.rs1At16)
  }
  rs2(): I64 {
    return this.#x(SLOT.rs2At16)
  }
  rs1w(): I32 {
    return this.#xw(SLOT.rs1At16)
  }
  rs2w(): I32 {
    return this.#xw(SLOT.rs2At16)
  }
  imm(): I64 {
    return i64.load32_s(this.#slot.get, SLOT.imm32)
  }
  imm32(): I32 {
    return i32.load(this.#slot.get, SLOT.imm32)
  }
  rd(value: I64): void {
    this.body.put(i64.store(i32.load16_u(this.#slot.get, SLOT.rd16), value, this.#env.hartBase))
  }
  pc(): I64 {
    return slotPc(this.#env.hartBase, this.#slot.get)
  }
  nextPc(): I64 {
    return slotPc(this.#env.hartBase, i32.add(this.#slot.get, i32.const(this.#length)))
  }
  address(): I64 {
    return this.hold('i64', i64.add(this.rs1(), this.imm()))
  }
  hold<T extends ValueType>(type: T, value: Expr<T>): Expr<T> {
    return this.body.hold(type, value)
  }

  /** Looks `address` up in a TLB; gives up if it is not there (or not aligned). @returns its place in memory */
  #probe(bank: number, address: I64, bytes: AccessBytes): I32 {
    const index = i32.and(i32.shr_u(i32.wrap(address), i32.const(8)), i32.const((TLB_ENTRIES - 1) * TLB_ENTRY_BYTES))
    const entry = this.hold('i32', i32.add(index, this.#state.get32(bank)))
    this.#giveUp(i64.ne(i64.and(address, i64.const(PAGE_MASK | (bytes - 1))), i64.load(entry)))
    return i32.add(i32.wrap(address), i32.load(entry, 8))
  }

  #sync(): void {
    this.body.call(this.#env.syncInstret, [this.#budget.get])
  }

  load(kind: AccessName, address: I64): I64 {
    const { bytes, load } = LOADS[kind]
    if (this.#loop) return load(this.#probe(LAYOUT.readTlb32, address, bytes))
    this.#sync()
    const call = callResult<'i64'>(this.#env.imports.load, [address, i32.const(AccessKind[kind]), this.#slot.get])
    const value = this.hold('i64', call)
    this.#leaveOnTrap()
    return value
  }

  store(bytes: AccessBytes, address: I64, value: I64): void {
    if (this.#loop) {
      this.body.put(STORES[bytes](this.#probe(LAYOUT.writeTlb32, address, bytes), value))
      return
    }
    this.#sync()
    this.body.call(this.#env.imports.store, [address, value, i32.const(bytes), this.#slot.get])
    this.#leaveOnTrap()
  }

  atomicAddress(bytes: 4 | 8, address: I64, write: boolean): I32 {
    const { body } = this
    if (this.#loop) {
      return this.hold('i32', this.#probe(write ? LAYOUT.writeTlb32 : LAYOUT.readTlb32, address, bytes))
    }
    this.#sync()
    const operands = [address, i32.const(bytes), i32.const(write ? 1 : 0), this.#slot.get]
    const at = this.hold('i32', callResult<'i32'>(this.#env.imports.amoAddress, operands))
    body.if(i32.eqz(at), () => body.returnCall(this.#env.exitTrap, this.#here()))
    return at
  }

  cacheBlock(operation: number, address: I64): void {
    if (this.#loop) {
      this.#toSlow()
      return
    }
    this.#sync()
    this.body.call(this.#env.imports.cacheBlock, [i32.const(operation), address, this.#slot.get])
    this.#leaveOnTrap()
  }

  #toSlow(): void {
    this.body.br(this.#loop!.slow)
  }

  branch(condition: I32): void {
    this.body.if(condition, () => this.jump())
    this.#ended = false
  }

  jump(): void {
    this.#ended = true
    const { flow } = this.#handler
    if (flow === 'far') this.#jumpTo(i64.add(this.pc(), this.imm()))
    else this.#goOn(this.imm32(), flow === 'backward')
  }

  jumpRegister(target: I64): void {
    this.#ended = true
    this.#jumpTo(i64.and(target, i64.const(-2)))
  }

  #jumpTo(target: I64): void {
    const { body } = this
    const loop = this.#loop
    const budget = i32.sub(this.#budget.get, i32.const(1))
    if (!loop) {
      body.returnCall(this.#env.jumpTo, [target, budget])
      return
    }
    body.set(loop.target, target)
    body.set(loop.budget, budget)
    body.br(loop.jump)
  }

  system(): void {
    const { body } = this
    const { hartBase, trapTo, exitSystem } = this.#env
    this.#ended = true
    if (this.#loop) {
      this.#toSlow()
      return
    }
    const budget = this.#budget.get
    const { name } = this.#handler.row
    if (name === 'ecall') {
      userEcall(body, hartBase, this.pc(), (target) => body.returnCall(trapTo, [target, budget]))
    } else if (name === 'sret') {
      supervisorReturn(body, hartBase, (target) => body.returnCall(trapTo, [target, i32.sub(budget, i32.const(1))]))
    }
    body.returnCall(exitSystem, this.#here())
  }

  illegalIf(condition: I32): void {
    const { body } = this
    if (this.#loop) this.#giveUp(condition)
    else body.if(condition, () => body.returnCall(this.#env.exitSystem, this.#here()))
  }

  csr(funct3: number, immediate: boolean): I64 {
    if (this.#loop) {
      this.#toSlow()
      return i64.const(0)
    }
    this.#sync()
    const index = i32.load16_u(this.#slot.get, SLOT.extra16)
    const source = immediate ? i64.extend_u(index) : this.rs1()
    const operands = [i32.const(funct3), this.imm32(), source, index, this.#slot.get]
    const old = this.hold('i64', callResult<'i64'>(this.#env.imports.csr, operands))
    this.#leaveOnTrap()
    return old
  }

  reservation(): { address: I64; value: I64 } {
    return { address: this.#state.get(LAYOUT.loadRes), value: this.#state.get(LAYOUT.loadVal) }
  }
  setReservation(address: I64, value?: I64): void {
    this.body.put(this.#state.set(LAYOUT.loadRes, address))
    if (value) this.body.put(this.#state.set(LAYOUT.loadVal, value))
  }

  fs1(): I64 {
    return this.#x(SLOT.rs1At16)
  }
  fs2(): I64 {
    return this.#x(SLOT.rs2At16)
  }
  fs3(): I64 {
    return this.#x(SLOT.extra16)
  }
  fd(value: I64): void {
    this.rd(value)
  }
  fpEnabled(dirties: boolean): void {
    const off = this.#state.get32(LAYOUT.fpOff32)
    if (this.#loop) {
      this.#giveUp(dirties ? off : i32.eq(off, i32.const(1)))
      return
    }
    this.illegalIf(i32.eq(off, i32.const(1)))
    if (dirties) this.#dirtiesFp = true
  }
  /** Last of all: an instruction that traps (a load, a reserved rounding mode) leaves mstatus.FS as it was. */
  #markFpDirty(): void {
    const { body } = this
    body.if(this.#state.get32(LAYOUT.fpOff32), () => {
      const mstatus = csrOffset('mstatus')
      body.put(this.#state.set32(mstatus, i32.or(this.#state.get32(mstatus), i32.const(0x6000))))
      body.put(this.#state.set32(LAYOUT.fpOff32, i32.const(0)))
    })
  }
  roundingMode(): I32 {
    const dynamic = i32.eq(this.imm32(), i32.const(7))
    return select(this.#state.get32(LAYOUT.frm32), this.imm32(), dynamic)
  }
  fflags(): I32 {
    return this.#state.get32(LAYOUT.fflags32)
  }
  raise(flags: I32): void {
    this.body.put(this.#state.set32(LAYOUT.fflags32, i32.or(this.fflags(), flags)))
  }
  fpu(op: FpuOpName, operands: readonly I64[], roundingMode: I32): I64 {
    const [a = i64.const(0), b = i64.const(0), c = i64.const(0)] = operands
    return callResult<'i64'>(this.#env.imports.fpu, [i32.const(fpuOpNumber(op)), a, b, c, roundingMode])
  }

  either(fast: () => void, slow: () => void): void {
    if (this.#loop) fast()
    else slow()
  }
  guard(condition: I32): void {
    this.#giveUp(i32.eqz(condition))
  }
}
