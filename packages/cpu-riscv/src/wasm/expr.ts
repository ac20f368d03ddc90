/**
 * Expression combinators: `i64.add(a, b)` is the expression that evaluates a, then b, then adds. Names are those of the
 * WebAssembly text format without the type. Spec: WebAssembly Core, section 5.4 "Instructions".
 */
import type { Expr, F32, F64, FunctionBody, I32, I64, V128, ValueType } from './function-body.ts'

type Unary<A extends ValueType, R extends ValueType> = (a: Expr<A>) => Expr<R>
type Binary<A extends ValueType, R extends ValueType> = (a: Expr<A>, b: Expr<A>) => Expr<R>

const unary =
  <A extends ValueType, R extends ValueType>(...opcode: number[]): Unary<A, R> =>
  (a) =>
  (body) => {
    a(body)
    for (const byte of opcode) body.code.u8(byte)
  }

const binary =
  <A extends ValueType, R extends ValueType>(opcode: number): Binary<A, R> =>
  (a, b) =>
  (body) => {
    a(body)
    b(body)
    body.code.u8(opcode)
  }

const memarg = (body: FunctionBody, align: number, offset: number): void => {
  body.code.uleb(align)
  body.code.uleb(offset)
}

/** `offset` is the constant part of the address, below 2^32. */
const load =
  <R extends ValueType>(opcode: number, align: number) =>
  (address: I32, offset = 0): Expr<R> =>
  (body) => {
    address(body)
    body.code.u8(opcode)
    memarg(body, align, offset)
  }

const store =
  <A extends ValueType>(opcode: number, align: number) =>
  (address: I32, value: Expr<A>, offset = 0) =>
  (body: FunctionBody): void => {
    address(body)
    value(body)
    body.code.u8(opcode)
    memarg(body, align, offset)
  }

/** Atomic accesses; `align` is their natural one. */
const atomicRmw =
  <A extends ValueType>(opcode: number, align: number) =>
  (address: I32, value: Expr<A>): Expr<A> =>
  (body) => {
    address(body)
    value(body)
    body.code.u8(0xfe)
    body.code.uleb(opcode)
    memarg(body, align, 0)
  }

const atomicCmpxchg =
  <A extends ValueType>(opcode: number, align: number) =>
  (address: I32, expected: Expr<A>, replacement: Expr<A>): Expr<A> =>
  (body) => {
    address(body)
    expected(body)
    replacement(body)
    body.code.u8(0xfe)
    body.code.uleb(opcode)
    memarg(body, align, 0)
  }

export const i32 = {
  const:
    (value: number): I32 =>
    (body) => {
      body.code.u8(0x41)
      body.code.sleb(value)
    },
  eqz: unary<'i32', 'i32'>(0x45),
  eq: binary<'i32', 'i32'>(0x46),
  ne: binary<'i32', 'i32'>(0x47),
  lt_s: binary<'i32', 'i32'>(0x48),
  lt_u: binary<'i32', 'i32'>(0x49),
  gt_s: binary<'i32', 'i32'>(0x4a),
  gt_u: binary<'i32', 'i32'>(0x4b),
  le_s: binary<'i32', 'i32'>(0x4c),
  le_u: binary<'i32', 'i32'>(0x4d),
  ge_s: binary<'i32', 'i32'>(0x4e),
  ge_u: binary<'i32', 'i32'>(0x4f),
  clz: unary<'i32', 'i32'>(0x67),
  ctz: unary<'i32', 'i32'>(0x68),
  popcnt: unary<'i32', 'i32'>(0x69),
  add: binary<'i32', 'i32'>(0x6a),
  sub: binary<'i32', 'i32'>(0x6b),
  mul: binary<'i32', 'i32'>(0x6c),
  div_s: binary<'i32', 'i32'>(0x6d),
  div_u: binary<'i32', 'i32'>(0x6e),
  rem_s: binary<'i32', 'i32'>(0x6f),
  rem_u: binary<'i32', 'i32'>(0x70),
  and: binary<'i32', 'i32'>(0x71),
  or: binary<'i32', 'i32'>(0x72),
  xor: binary<'i32', 'i32'>(0x73),
  shl: binary<'i32', 'i32'>(0x74),
  shr_s: binary<'i32', 'i32'>(0x75),
  shr_u: binary<'i32', 'i32'>(0x76),
  rotl: binary<'i32', 'i32'>(0x77),
  rotr: binary<'i32', 'i32'>(0x78),
  wrap: unary<'i64', 'i32'>(0xa7),
  reinterpret: unary<'f32', 'i32'>(0xbc),
  trunc_sat_f64_s: unary<'f64', 'i32'>(0xfc, 0x02),
  trunc_sat_f64_u: unary<'f64', 'i32'>(0xfc, 0x03),
  load: load<'i32'>(0x28, 2),
  load8_u: load<'i32'>(0x2d, 0),
  load16_u: load<'i32'>(0x2f, 1),
  store: store<'i32'>(0x36, 2),
  store8: store<'i32'>(0x3a, 0),
  store16: store<'i32'>(0x3b, 1),
  atomicLoad:
    (address: I32, offset = 0): I32 =>
    (body) => {
      address(body)
      body.code.bytes([0xfe, 0x10])
      memarg(body, 2, offset)
    },
  atomic: {
    add: atomicRmw<'i32'>(0x1e, 2),
    and: atomicRmw<'i32'>(0x2c, 2),
    or: atomicRmw<'i32'>(0x33, 2),
    xor: atomicRmw<'i32'>(0x3a, 2),
    xchg: atomicRmw<'i32'>(0x41, 2),
    cmpxchg: atomicCmpxchg<'i32'>(0x48, 2),
  },
}

export const i64 = {
  const: (value: number | bigint): I64 => {
    const wide = BigInt(value)
    return (body) => {
      body.code.u8(0x42)
      body.code.sleb64(wide)
    }
  },
  eqz: unary<'i64', 'i32'>(0x50),
  eq: binary<'i64', 'i32'>(0x51),
  ne: binary<'i64', 'i32'>(0x52),
  lt_s: binary<'i64', 'i32'>(0x53),
  lt_u: binary<'i64', 'i32'>(0x54),
  gt_s: binary<'i64', 'i32'>(0x55),
  gt_u: binary<'i64', 'i32'>(0x56),
  le_s: binary<'i64', 'i32'>(0x57),
  le_u: binary<'i64', 'i32'>(0x58),
  ge_s: binary<'i64', 'i32'>(0x59),
  ge_u: binary<'i64', 'i32'>(0x5a),
  clz: unary<'i64', 'i64'>(0x79),
  ctz: unary<'i64', 'i64'>(0x7a),
  popcnt: unary<'i64', 'i64'>(0x7b),
  add: binary<'i64', 'i64'>(0x7c),
  sub: binary<'i64', 'i64'>(0x7d),
  mul: binary<'i64', 'i64'>(0x7e),
  div_s: binary<'i64', 'i64'>(0x7f),
  div_u: binary<'i64', 'i64'>(0x80),
  rem_s: binary<'i64', 'i64'>(0x81),
  rem_u: binary<'i64', 'i64'>(0x82),
  and: binary<'i64', 'i64'>(0x83),
  or: binary<'i64', 'i64'>(0x84),
  xor: binary<'i64', 'i64'>(0x85),
  shl: binary<'i64', 'i64'>(0x86),
  shr_s: binary<'i64', 'i64'>(0x87),
  shr_u: binary<'i64', 'i64'>(0x88),
  rotl: binary<'i64', 'i64'>(0x89),
  rotr: binary<'i64', 'i64'>(0x8a),
  extend_s: unary<'i32', 'i64'>(0xac),
  extend_u: unary<'i32', 'i64'>(0xad),
  extend8: unary<'i64', 'i64'>(0xc2),
  extend16: unary<'i64', 'i64'>(0xc3),
  extend32: unary<'i64', 'i64'>(0xc4),
  reinterpret: unary<'f64', 'i64'>(0xbd),
  trunc_sat_f64_s: unary<'f64', 'i64'>(0xfc, 0x06),
  trunc_sat_f64_u: unary<'f64', 'i64'>(0xfc, 0x07),
  load: load<'i64'>(0x29, 3),
  load8_s: load<'i64'>(0x30, 0),
  load8_u: load<'i64'>(0x31, 0),
  load16_s: load<'i64'>(0x32, 1),
  load16_u: load<'i64'>(0x33, 1),
  load32_s: load<'i64'>(0x34, 2),
  load32_u: load<'i64'>(0x35, 2),
  store: store<'i64'>(0x37, 3),
  store8: store<'i64'>(0x3c, 0),
  store16: store<'i64'>(0x3d, 1),
  store32: store<'i64'>(0x3e, 2),
  atomic: {
    add: atomicRmw<'i64'>(0x1f, 3),
    and: atomicRmw<'i64'>(0x2d, 3),
    or: atomicRmw<'i64'>(0x34, 3),
    xor: atomicRmw<'i64'>(0x3b, 3),
    xchg: atomicRmw<'i64'>(0x42, 3),
    cmpxchg: atomicCmpxchg<'i64'>(0x49, 3),
  },
}

export const f32 = {
  const:
    (value: number): F32 =>
    (body) => {
      body.code.u8(0x43)
      body.code.f32(value)
    },
  eq: binary<'f32', 'i32'>(0x5b),
  ne: binary<'f32', 'i32'>(0x5c),
  lt: binary<'f32', 'i32'>(0x5d),
  gt: binary<'f32', 'i32'>(0x5e),
  le: binary<'f32', 'i32'>(0x5f),
  ge: binary<'f32', 'i32'>(0x60),
  abs: unary<'f32', 'f32'>(0x8b),
  neg: unary<'f32', 'f32'>(0x8c),
  sqrt: unary<'f32', 'f32'>(0x91),
  add: binary<'f32', 'f32'>(0x92),
  sub: binary<'f32', 'f32'>(0x93),
  mul: binary<'f32', 'f32'>(0x94),
  div: binary<'f32', 'f32'>(0x95),
  convert_i32_s: unary<'i32', 'f32'>(0xb2),
  convert_i32_u: unary<'i32', 'f32'>(0xb3),
  convert_i64_s: unary<'i64', 'f32'>(0xb4),
  convert_i64_u: unary<'i64', 'f32'>(0xb5),
  demote: unary<'f64', 'f32'>(0xb6),
  reinterpret: unary<'i32', 'f32'>(0xbe),
}

export const f64 = {
  const:
    (value: number): F64 =>
    (body) => {
      body.code.u8(0x44)
      body.code.f64(value)
    },
  eq: binary<'f64', 'i32'>(0x61),
  ne: binary<'f64', 'i32'>(0x62),
  lt: binary<'f64', 'i32'>(0x63),
  gt: binary<'f64', 'i32'>(0x64),
  le: binary<'f64', 'i32'>(0x65),
  ge: binary<'f64', 'i32'>(0x66),
  abs: unary<'f64', 'f64'>(0x99),
  neg: unary<'f64', 'f64'>(0x9a),
  ceil: unary<'f64', 'f64'>(0x9b),
  floor: unary<'f64', 'f64'>(0x9c),
  trunc: unary<'f64', 'f64'>(0x9d),
  nearest: unary<'f64', 'f64'>(0x9e),
  sqrt: unary<'f64', 'f64'>(0x9f),
  add: binary<'f64', 'f64'>(0xa0),
  sub: binary<'f64', 'f64'>(0xa1),
  mul: binary<'f64', 'f64'>(0xa2),
  div: binary<'f64', 'f64'>(0xa3),
  convert_i32_s: unary<'i32', 'f64'>(0xb7),
  convert_i32_u: unary<'i32', 'f64'>(0xb8),
  convert_i64_s: unary<'i64', 'f64'>(0xb9),
  convert_i64_u: unary<'i64', 'f64'>(0xba),
  promote: unary<'f32', 'f64'>(0xbb),
  reinterpret: unary<'i64', 'f64'>(0xbf),
  load: load<'f64'>(0x2b, 3),
  store: store<'f64'>(0x39, 3),
}

const simd =
  (a: readonly Expr[], opcode: number, ...rest: number[]) =>
  (body: FunctionBody): void => {
    for (const operand of a) operand(body)
    body.code.u8(0xfd)
    body.code.uleb(opcode)
    for (const byte of rest) body.code.u8(byte)
  }

/** The few vector operations that scalar floating point needs: fused multiply-add exists only there. */
export const v128 = {
  splat_f32: (a: F32): V128 => simd([a], 0x13),
  splat_f64: (a: F64): V128 => simd([a], 0x14),
  lane0_f32: (a: V128): F32 => simd([a], 0x1f, 0),
  lane0_f64: (a: V128): F64 => simd([a], 0x21, 0),
  /** a * b + c; whether it rounds once is up to the engine: probe before use. */
  relaxed_madd_f32: (a: V128, b: V128, c: V128): V128 => simd([a, b, c], 0x105),
  relaxed_madd_f64: (a: V128, b: V128, c: V128): V128 => simd([a, b, c], 0x107),
}

/** a if condition is not zero, else b; both are evaluated. */
export const select =
  <T extends ValueType>(a: Expr<T>, b: Expr<T>, condition: I32): Expr<T> =>
  (body) => {
    a(body)
    b(body)
    condition(body)
    body.code.u8(0x1b)
  }

/** The call of a function with one result, as an expression. */
export const callResult =
  <T extends ValueType>(functionIndex: number, operands: readonly Expr[]): Expr<T> =>
  (body) =>
    body.call(functionIndex, operands)

export const callIndirectResult =
  <T extends ValueType>(typeIndex: number, operands: readonly Expr[], entry: I32, tableIndex = 0): Expr<T> =>
  (body) =>
    body.callIndirect(typeIndex, operands, entry, tableIndex)

export const getGlobal =
  <T extends ValueType>(globalIndex: number): Expr<T> =>
  (body) => {
    body.code.u8(0x23)
    body.code.uleb(globalIndex)
  }

/** Orders all memory accesses before it before all after it. */
export const atomicFence = (body: FunctionBody): void => {
  body.code.bytes([0xfe, 0x03, 0x00])
}
