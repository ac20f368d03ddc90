import { csrCode, SSTATUS } from '../csr/csr-code.ts'
import { HART_AREA, LAYOUT, TLB_BANK_BYTES, TLB_ENTRIES, TLB_ENTRY_BYTES } from '../hart/layout.ts'
import { LOADS, PAGE_MASK, STORES } from '../interpreter/memory-access.ts'
import { state } from '../interpreter/state-code.ts'
import type { AccessBytes, AccessName, Emit } from '../isa/emit.ts'
import { f64, i32, i64 } from '../wasm/expr.ts'
import type { Expr, F64, FunctionBody, I32, I64, Local, ValueType } from '../wasm/function-body.ts'
import { type AccessGroup, checkedAt } from './access-groups.ts'
import { LEAVE } from './leave.ts'
import type { Step } from './region.ts'
import { F } from './registers.ts'

const DYNAMIC = 7
/** funct3 of csrrw. */
const WRITE = 1
const FP_OFF = 1

/** What a region's code offers to the instructions in it. */
export interface RegionContext {
  readonly body: FunctionBody
  readonly hartBase: number
  readonly fusesMultiplyAdd: boolean
  /** The MMU_BANK of loads and stores, where it is known. */
  readonly dataBank: number | undefined
  x(register: number): Local<'i64'>
  f(register: number): Local<'f64'>
  /** A register was written: its local holds the value. */
  wrote(register: number): void
  /** The address `at` as the guest sees it now. */
  address(at: number): I64
  /**
   * Leaves if the condition holds; the interpreter runs this instruction.
   * @param why one of LEAVE @param tag the TLB's word that the condition depends on
   */
  giveUp(condition: I32, why: number, tag?: I64): void
}

/**
 * One instruction of a region: registers are locals, operands and addresses constants, and what the fast way does not
 * cover leaves the region before the instruction has done anything.
 */
export class RegionEmit implements Emit {
  readonly body: FunctionBody
  readonly fusesMultiplyAdd: boolean
  readonly #context: RegionContext
  readonly #state: ReturnType<typeof state>
  #step!: Step
  /** What the block knows of mstatus.FS: not off; dirty. */
  #fpOn = false
  #fpDirty = false
  #groups: ReadonlyMap<Step, AccessGroup> = new Map()
  #addends: ReadonlyMap<Step, Local<'i32'>> = new Map()
  /** Of each group: where its lowest access lies in memory. */
  readonly #places = new Map<AccessGroup, Local<'i32'>>()
  /** After {@link run}: the condition of a branch, the target of a jump through a register. */
  condition: I32 | undefined
  target: I64 | undefined

  constructor(context: RegionContext) {
    this.#context = context
    this.body = context.body
    this.fusesMultiplyAdd = context.fusesMultiplyAdd
    this.#state = state(context.hartBase)
  }

  /**
   * Something else ran in between.
   * @param groups of the block's accesses
   * @param addends of accesses that need no look into the TLB: what makes their address a place in memory
   */
  beginBlock(groups: ReadonlyMap<Step, AccessGroup>, addends: ReadonlyMap<Step, Local<'i32'>>): void {
    this.#fpOn = this.#fpDirty = false
    const needed = [...groups].filter(([, { members }]) => !members.some((step) => addends.has(step)))
    this.#groups = addends.size > 0 ? new Map(needed) : groups
    this.#addends = addends
    this.#places.clear()
    for (const group of new Set(this.#groups.values())) this.#places.set(group, this.body.local('i32'))
  }

  run(step: Step): void {
    this.#step = step
    step.decoded.row.semantics(this)
  }

  get #operands() {
    return this.#step.decoded.operands
  }

  /** A register's value. */
  readonly x = (register: number): I64 => {
    return register === 0 ? i64.const(0) : this.#context.x(register).get
  }
  #f(register: number): I64 {
    return i64.reinterpret(this.#context.f(register).get)
  }

  rs1(): I64 {
    return this.x(this.#operands.rs1)
  }
  rs2(): I64 {
    return this.x(this.#operands.rs2)
  }
  rs1w(): I32 {
    return i32.wrap(this.rs1())
  }
  rs2w(): I32 {
    return i32.wrap(this.rs2())
  }
  imm(): I64 {
    return i64.const(this.#operands.imm)
  }
  imm32(): I32 {
    return i32.const(this.#operands.imm)
  }
  rd(value: I64): void {
    const { rd } = this.#operands
    if (rd === 0) {
      this.body.drop(value)
      return
    }
    this.body.set(this.#context.x(rd), value)
    this.#context.wrote(rd)
  }
  pc(): I64 {
    return this.#context.address(this.#step.at)
  }
  nextPc(): I64 {
    return this.#context.address(this.#step.at + this.#step.bytes)
  }
  address(): I64 {
    // These go by a place in memory.
    if (this.#groups.has(this.#step) || this.#addends.has(this.#step)) return i64.const(0)
    return this.hold('i64', i64.add(this.rs1(), this.imm()))
  }
  hold<T extends ValueType>(type: T, value: Expr<T>): Expr<T> {
    return this.body.hold(type, value)
  }

  /** Where a member of a group lies, as a place in memory and a distance from there; the first one looks the group up. */
  #member(group: AccessGroup): { readonly place: I32; readonly offset: number } {
    const place = this.#places.get(group)!
    if (this.#step === group.members[0]) {
      const base = this.x(group.base)
      const low = group.low === 0 ? base : this.hold('i64', i64.add(base, i64.const(group.low)))
      const tested = i64.add(base, i64.const(checkedAt(group)))
      this.body.set(place, this.#probe(group.write, low, group.bytes, LEAVE.group, tested))
    }
    return { place: place.get, offset: this.#operands.imm - group.low }
  }

  /** The entry that `address` has to be in, if a TLB knows it: a place in memory, and a distance from there. */
  readonly tlbEntry = (write: boolean, address: I64): { readonly entry: I32; readonly offset: number } => {
    const { dataBank, hartBase } = this.#context
    const index = i32.and(i32.shr_u(i32.wrap(address), i32.const(8)), i32.const((TLB_ENTRIES - 1) * TLB_ENTRY_BYTES))
    if (dataBank === undefined) {
      const inForce = this.#state.get32(write ? LAYOUT.writeTlb32 : LAYOUT.readTlb32)
      return { entry: this.hold('i32', i32.add(index, inForce)), offset: 0 }
    }
    const bank = write ? HART_AREA.writeTlb : HART_AREA.readTlb
    return { entry: this.hold('i32', index), offset: hartBase + bank + dataBank * TLB_BANK_BYTES }
  }

  /** The place in memory of an access that needs no look into the TLB. */
  #known(): I32 | undefined {
    const addend = this.#addends.get(this.#step)
    const { rs1, imm } = this.#operands
    // Not as an offset: the register itself may lie in another page, one that is nowhere in memory.
    return addend && i32.add(i32.add(i32.wrap(this.x(rs1)), addend.get), i32.const(imm))
  }

  /**
   * Looks `address` up in a TLB.
   * @param tested an address that has to be in the same page, and is the one that has to be aligned
   * @returns its place in memory
   */
  #probe(write: boolean, address: I64, bytes: number, why: number, tested = address): I32 {
    const { entry, offset } = this.tlbEntry(write, address)
    const tag = this.hold('i64', i64.load(entry, offset))
    this.#context.giveUp(i64.ne(i64.and(tested, i64.const(PAGE_MASK | (bytes - 1))), tag), why, tag)
    return i32.add(i32.wrap(address), i32.load(entry, offset + 8))
  }

  load(kind: AccessName, address: I64): I64 {
    const { bytes, load } = LOADS[kind]
    const known = this.#known()
    if (known) return load(known)
    const group = this.#groups.get(this.#step)
    if (group) {
      const { place, offset } = this.#member(group)
      return load(place, offset)
    }
    return load(this.#probe(false, address, bytes, LEAVE.load))
  }
  store(bytes: AccessBytes, address: I64, value: I64): void {
    const known = this.#known()
    if (known) {
      this.body.put(STORES[bytes](known, value))
      return
    }
    const group = this.#groups.get(this.#step)
    if (group) {
      const { place, offset } = this.#member(group)
      this.body.put(STORES[bytes](place, value, offset))
      return
    }
    this.body.put(STORES[bytes](this.#probe(true, address, bytes, LEAVE.store), value))
  }
  atomicAddress(bytes: 4 | 8, address: I64, write: boolean): I32 {
    return this.hold('i32', this.#probe(write, address, bytes, LEAVE.atomic))
  }

  branch(condition: I32): void {
    this.condition = condition
  }
  jump(): void {}
  jumpRegister(target: I64): void {
    this.target = i64.and(target, i64.const(-2))
  }

  reservation(): { address: I64; value: I64 } {
    return { address: this.#state.get(LAYOUT.loadRes), value: this.#state.get(LAYOUT.loadVal) }
  }
  setReservation(address: I64, value?: I64): void {
    this.body.put(this.#state.set(LAYOUT.loadRes, address))
    if (value) this.body.put(this.#state.set(LAYOUT.loadVal, value))
  }

  fs1(): I64 {
    return this.#f(this.#operands.rs1)
  }
  fs2(): I64 {
    return this.#f(this.#operands.rs2)
  }
  fs3(): I64 {
    return this.#f(this.#operands.rs3)
  }
  fd(value: I64): void {
    const bits: F64 = f64.reinterpret(value)
    this.body.set(this.#context.f(this.#operands.rd), bits)
    this.#context.wrote(F + this.#operands.rd)
  }
  fpEnabled(dirties: boolean): void {
    if (dirties ? this.#fpDirty : this.#fpOn) return
    const off = this.#state.get32(LAYOUT.fpOff32)
    this.#context.giveUp(dirties ? off : i32.eq(off, i32.const(FP_OFF)), LEAVE.float)
    this.#fpOn = true
    if (dirties) this.#fpDirty = true
  }
  roundingMode(): I32 {
    const { rm } = this.#operands
    return rm === DYNAMIC ? this.#state.get32(LAYOUT.frm32) : i32.const(rm)
  }
  fflags(): I32 {
    return this.#state.get32(LAYOUT.fflags32)
  }
  raise(flags: I32): void {
    this.body.put(this.#state.set32(LAYOUT.fflags32, i32.or(this.fflags(), flags)))
  }

  either(fast: () => void): void {
    fast()
  }
  guard(condition: I32): void {
    this.#context.giveUp(i32.eqz(condition), LEAVE.float)
  }
  illegalIf(condition: I32): void {
    this.#context.giveUp(condition, LEAVE.system)
  }

  csr(funct3: number, immediate: boolean): I64 {
    const { rs1, imm } = this.#operands
    const operation = funct3 & 3
    const source = immediate ? i64.const(rs1) : this.rs1()
    const giveUp = (condition: I32): void => this.#context.giveUp(condition, LEAVE.system)
    const written = operation !== WRITE && rs1 === 0 ? undefined : { operation, source }
    if (imm === SSTATUS) this.#fpOn = this.#fpDirty = false
    return csrCode(this.body, this.#context.hartBase, imm, written, giveUp)
  }

  // Rows that ask for these end a block; the interpreter runs them. See row-kind.ts.
  system(): never {
    return this.#notHere()
  }
  cacheBlock(): never {
    return this.#notHere()
  }
  fpu(): never {
    return this.#notHere()
  }
  #notHere(): never {
    throw new Error(`${this.#step.decoded.row.name} is not for compiled code`)
  }
}
