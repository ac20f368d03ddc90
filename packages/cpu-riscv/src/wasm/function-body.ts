import { ByteWriter } from './bytes.ts'

export type ValueType = 'i32' | 'i64' | 'f32' | 'f64' | 'v128'
export const VALUE_TYPE: Readonly<Record<ValueType, number>> = {
  i32: 0x7f,
  i64: 0x7e,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
}

/**
 * An expression: called with a function's body, it appends the instructions that leave one value of type T on the stack.
 * Calling it twice evaluates it twice; FunctionBody.hold evaluates once.
 */
export type Expr<T extends ValueType = ValueType> = ((body: FunctionBody) => void) & { readonly valueType?: T }
export type I32 = Expr<'i32'>
export type I64 = Expr<'i64'>
export type F32 = Expr<'f32'>
export type F64 = Expr<'f64'>
export type V128 = Expr<'v128'>

/** A local variable: `get` is its value when evaluated, `set` and `tee` write it. */
export interface Local<T extends ValueType> {
  readonly index: number
  readonly type: T
  readonly get: Expr<T>
  tee(value: Expr<T>): Expr<T>
}

/** A place that `br` can name: the depth of the block or loop it belongs to. */
export interface Label {
  readonly depth: number
}

/** The code of one function while it is written, statement by statement. */
export class FunctionBody {
  readonly code = new ByteWriter(128)
  /** Where in {@link code} branches are that are hardly ever taken. */
  readonly rare: number[] = []
  readonly #locals: ValueType[] = []
  readonly #parameterCount: number
  readonly #free = new Map<ValueType, number[]>()
  #scope: Local<ValueType>[] | undefined
  #depth = 0

  constructor(parameterCount: number) {
    this.#parameterCount = parameterCount
  }

  #localAt<T extends ValueType>(index: number, type: T): Local<T> {
    return {
      index,
      type,
      get: (body) => {
        body.code.u8(0x20)
        body.code.uleb(index)
      },
      tee: (value) => (body) => {
        value(body)
        body.code.u8(0x22)
        body.code.uleb(index)
      },
    }
  }

  parameter<T extends ValueType>(index: number, type: T): Local<T> {
    return this.#localAt(index, type)
  }

  local<T extends ValueType>(type: T): Local<T> {
    const free = this.#free.get(type)?.pop()
    const index = free ?? this.#parameterCount + this.#locals.push(type) - 1
    const local = this.#localAt(index, type)
    this.#scope?.push(local)
    return local
  }

  /** Locals made inside are free for reuse afterwards. */
  scope(inner: () => void): void {
    const outer = this.#scope
    const made: Local<ValueType>[] = []
    this.#scope = made
    inner()
    this.#scope = outer
    for (const local of made) {
      const free = this.#free.get(local.type)
      if (free) free.push(local.index)
      else this.#free.set(local.type, [local.index])
    }
  }

  set<T extends ValueType>(local: Local<T>, value: Expr<T>): void {
    value(this)
    this.code.u8(0x21)
    this.code.uleb(local.index)
  }

  /** Evaluates now, into a new local; the result reads it. */
  hold<T extends ValueType>(type: T, value: Expr<T>): Expr<T> {
    const local = this.local(type)
    this.set(local, value)
    return local.get
  }

  /** Appends an expression or statement. */
  put(what: (body: FunctionBody) => void): void {
    what(this)
  }

  /** As {@link if}, and says so to the engine: this hardly ever happens, and is not to cost the other way anything. */
  ifRarely(condition: I32, then: () => void): void {
    condition(this)
    this.rare.push(this.code.length)
    this.if(() => {}, then)
  }

  if(condition: I32, then: () => void, otherwise?: () => void): void {
    condition(this)
    this.code.u8(0x04)
    this.code.u8(0x40)
    this.#depth++
    then()
    if (otherwise) {
      this.code.u8(0x05)
      otherwise()
    }
    this.#depth--
    this.code.u8(0x0b)
  }

  #nest(opcode: number, inner: (label: Label) => void): void {
    this.code.u8(opcode)
    this.code.u8(0x40)
    inner({ depth: ++this.#depth })
    this.#depth--
    this.code.u8(0x0b)
  }

  /** `br` to the label leaves the block. */
  block(inner: (label: Label) => void): void {
    this.#nest(0x02, inner)
  }

  /** `br` to the label starts the loop over; falling off its end leaves it. */
  loop(inner: (label: Label) => void): void {
    this.#nest(0x03, inner)
  }

  br(label: Label): void {
    this.code.u8(0x0c)
    this.code.uleb(this.#depth - label.depth)
  }

  brIf(label: Label, condition: I32): void {
    condition(this)
    this.code.u8(0x0d)
    this.code.uleb(this.#depth - label.depth)
  }

  /** Goes to `labels[index]`, or to the last one if there is no such. */
  brTable(labels: readonly Label[], index: I32): void {
    index(this)
    this.code.u8(0x0e)
    this.code.uleb(labels.length - 1)
    for (const label of labels) this.code.uleb(this.#depth - label.depth)
  }

  return(value?: Expr): void {
    value?.(this)
    this.code.u8(0x0f)
  }

  unreachable(): void {
    this.code.u8(0x00)
  }

  drop(value: Expr): void {
    value(this)
    this.code.u8(0x1a)
  }

  /** `call`; results, if any, stay on the stack, see {@link pop}. */
  call(functionIndex: number, operands: readonly Expr[]): void {
    for (const operand of operands) operand(this)
    this.code.u8(0x10)
    this.code.uleb(functionIndex)
  }

  returnCall(functionIndex: number, operands: readonly Expr[]): void {
    for (const operand of operands) operand(this)
    this.code.u8(0x12)
    this.code.uleb(functionIndex)
  }

  /** `call_indirect` through a table; the results stay on the stack, see {@link pop}. */
  callIndirect(typeIndex: number, operands: readonly Expr[], entry: I32, tableIndex = 0): void {
    this.#indirect(0x11, typeIndex, operands, entry, tableIndex)
  }

  returnCallIndirect(typeIndex: number, operands: readonly Expr[], entry: I32, tableIndex = 0): void {
    this.#indirect(0x13, typeIndex, operands, entry, tableIndex)
  }

  #indirect(opcode: number, typeIndex: number, operands: readonly Expr[], entry: I32, tableIndex: number): void {
    for (const operand of operands) operand(this)
    entry(this)
    this.code.u8(opcode)
    this.code.uleb(typeIndex)
    this.code.uleb(tableIndex)
  }

  /** Moves the value on top of the stack, one of several results of a call, into a local. */
  pop(local: Local<ValueType>): void {
    this.code.u8(0x21)
    this.code.uleb(local.index)
  }

  setGlobal(globalIndex: number, value: Expr): void {
    value(this)
    this.code.u8(0x24)
    this.code.uleb(globalIndex)
  }

  /** Local declarations, code and `end`, as the code section wants them (without the leading size). */
  finish(): ByteWriter {
    const out = this.#declarations()
    out.bytes(this.code.view())
    out.u8(0x0b)
    return out
  }

  /** {@link rare}, counted from where the local declarations begin. */
  rarelyTaken(): readonly number[] {
    const before = this.#declarations().length
    return this.rare.map((at) => before + at)
  }

  #declarations(): ByteWriter {
    const out = new ByteWriter(this.code.length + 32)
    const runs: [ValueType, number][] = []
    for (const type of this.#locals) {
      const last = runs.at(-1)
      if (last?.[0] === type) last[1]++
      else runs.push([type, 1])
    }
    out.uleb(runs.length)
    for (const [type, count] of runs) {
      out.uleb(count)
      out.u8(VALUE_TYPE[type])
    }
    return out
  }
}
