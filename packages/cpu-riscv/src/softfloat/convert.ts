/**
 * Conversions between formats and integers, rounding to integral values, the Zfa constants.
 * Spec: RISC-V Unprivileged ISA, chapters "F", "D" and "Zfa".
 */
import type { Format, FpEnv } from './format.ts'
import {
  dropped,
  exponent,
  F32,
  F64,
  isInfinite,
  isNan,
  isZero,
  NV,
  NX,
  propagateNan,
  RTZ,
  roundPack,
  roundShift,
  signed,
  significand,
  signOf,
} from './format.ts'

/** fcvt.s.d, fcvt.d.s. */
export function convert(to: Format, from: Format, env: FpEnv, a: bigint): bigint {
  if (isNan(from, a)) {
    propagateNan(from, env, a)
    return to.canonicalNan
  }
  const sign = signOf(from, a)
  if (isInfinite(from, a)) return signed(to, sign, to.infinity)
  if (isZero(from, a)) return signed(to, sign, 0n)
  return roundPack(to, env, sign, significand(from, a), exponent(from, a))
}

/**
 * fcvt.w, .wu, .l, .lu. Out of range, infinite and NaN saturate and raise NV alone.
 * @returns the integer, sign-extended from `bits` to 64 (wu too, as RV64 has it), as an unsigned 64-bit value
 */
export function toInteger(f: Format, env: FpEnv, a: bigint, bits: 32 | 64, unsigned: boolean): bigint {
  const high = unsigned ? (1n << BigInt(bits)) - 1n : (1n << BigInt(bits - 1)) - 1n
  const low = unsigned ? 0n : -(1n << BigInt(bits - 1))
  const extend = (n: bigint): bigint => BigInt.asUintN(64, BigInt.asIntN(bits, n))
  const saturate = (negative: boolean): bigint => {
    env.flags |= NV
    return extend(negative ? low : high)
  }
  const sign = signOf(f, a)
  if (isNan(f, a)) return saturate(false)
  const exp = exponent(f, a)
  if (isInfinite(f, a) || exp > 64) return saturate(sign)
  const magnitude = roundShift(env.rm, sign, significand(f, a), -exp)
  const inexact = dropped
  const value = sign ? -magnitude : magnitude
  if (value > high || value < low) return saturate(sign)
  if (inexact) env.flags |= NX
  return extend(value)
}

/** fcvtmod.w.d: towards zero, modulo 2^32; the flags of fcvt.w.d; 0 for infinities and NaNs. */
export function toIntegerModular(env: FpEnv, a: bigint): bigint {
  const truncating: FpEnv = { rm: RTZ, flags: 0 }
  toInteger(F64, truncating, a, 32, false)
  env.flags |= truncating.flags
  if (isNan(F64, a) || isInfinite(F64, a)) return 0n
  const magnitude = roundShift(RTZ, false, significand(F64, a), -exponent(F64, a))
  return BigInt.asUintN(64, BigInt.asIntN(32, signOf(F64, a) ? -magnitude : magnitude))
}

/** fcvt from w, wu, l, lu: `value` is the mathematical integer. */
export function fromInteger(f: Format, env: FpEnv, value: bigint): bigint {
  if (value === 0n) return 0n
  return value < 0n ? roundPack(f, env, true, -value, 0) : roundPack(f, env, false, value, 0)
}

/** fround; with `exact`, froundnx: the one that raises NX. Keeps the sign of a zero result. */
export function roundToIntegral(f: Format, env: FpEnv, a: bigint, exact: boolean): bigint {
  if (isNan(f, a)) return propagateNan(f, env, a)
  const exp = exponent(f, a)
  if (isInfinite(f, a) || exp >= 0) return a
  const sign = signOf(f, a)
  const magnitude = roundShift(env.rm, sign, significand(f, a), -exp)
  if (dropped && exact) env.flags |= NX
  return magnitude === 0n ? signed(f, sign, 0n) : roundPack(f, env, sign, magnitude, 0)
}

/** Zfa table "Immediate values loaded by the FLI instructions", entries 2 to 29 as numbers; the rest are special. */
const FLI_NUMBERS = [
  2 ** -16,
  2 ** -15,
  2 ** -8,
  2 ** -7,
  0.0625,
  0.125,
  0.25,
  0.3125,
  0.375,
  0.4375,
  0.5,
  0.625,
  0.75,
  0.875,
  1,
  1.25,
  1.5,
  1.75,
  2,
  2.5,
  3,
  4,
  8,
  16,
  128,
  256,
  2 ** 15,
  2 ** 16,
]

/** The value of fli.s or fli.d for an rs1 field of 0 to 31. */
export function fliConstant(f: Format, index: number): bigint {
  if (index === 1) return f.implicitBit
  if (index === 30) return f.infinity
  if (index === 31) return f.canonicalNan
  const view = new DataView(new ArrayBuffer(8))
  view.setFloat64(0, index === 0 ? -1 : FLI_NUMBERS[index - 2]!)
  const double = view.getBigUint64(0)
  return f === F64 ? double : convert(F32, F64, { rm: RTZ, flags: 0 }, double)
}
