/** add, sub, mul, div, sqrt and the fused forms, for any {@link Format}. Spec: RISC-V Unprivileged ISA, chapters "F" and "D". */
import type { Format, FpEnv } from './format.ts'
import {
  bitLength,
  DZ,
  exponent,
  invalid,
  isInfinite,
  isNan,
  isZero,
  NV,
  propagateNan,
  RDN,
  roundPack,
  signed,
  significand,
  signOf,
} from './format.ts'

/** Further apart than this, the smaller addend is nothing but a sticky bit: no significand here exceeds 106 bits. */
const FAR = 256

/** Exact sum of two scaled integers, rounded once. */
function addScaled(
  f: Format,
  env: FpEnv,
  signA: boolean,
  sigA: bigint,
  expA: number,
  signB: boolean,
  sigB: bigint,
  expB: number,
): bigint {
  let low = expB
  let a = sigA
  let b = sigB
  if (sigA !== 0n && sigB !== 0n) {
    const distance = expA - expB
    if (distance > FAR) {
      low = expA - FAR
      a <<= BigInt(FAR)
      b = 1n
    } else if (distance < -FAR) {
      low = expB - FAR
      b <<= BigInt(FAR)
      a = 1n
    } else if (distance >= 0) a <<= BigInt(distance)
    else {
      low = expA
      b <<= BigInt(-distance)
    }
  } else if (sigA !== 0n) low = expA
  const sum = (signA ? -a : a) + (signB ? -b : b)
  if (sum === 0n) return signed(f, signA === signB ? signA : env.rm === RDN, 0n)
  return sum < 0n ? roundPack(f, env, true, -sum, low) : roundPack(f, env, false, sum, low)
}

export function add(f: Format, env: FpEnv, a: bigint, b: bigint): bigint {
  if (isNan(f, a) || isNan(f, b)) return propagateNan(f, env, a, b)
  if (isInfinite(f, a)) return isInfinite(f, b) && a !== b ? invalid(f, env) : a
  if (isInfinite(f, b)) return b
  return addScaled(
    f,
    env,
    signOf(f, a),
    significand(f, a),
    exponent(f, a),
    signOf(f, b),
    significand(f, b),
    exponent(f, b),
  )
}

export function mul(f: Format, env: FpEnv, a: bigint, b: bigint): bigint {
  if (isNan(f, a) || isNan(f, b)) return propagateNan(f, env, a, b)
  const sign = signOf(f, a) !== signOf(f, b)
  if (isInfinite(f, a) || isInfinite(f, b)) {
    return isZero(f, a) || isZero(f, b) ? invalid(f, env) : signed(f, sign, f.infinity)
  }
  const sig = significand(f, a) * significand(f, b)
  if (sig === 0n) return signed(f, sign, 0n)
  return roundPack(f, env, sign, sig, exponent(f, a) + exponent(f, b))
}

export function div(f: Format, env: FpEnv, a: bigint, b: bigint): bigint {
  if (isNan(f, a) || isNan(f, b)) return propagateNan(f, env, a, b)
  const sign = signOf(f, a) !== signOf(f, b)
  if (isInfinite(f, a)) return isInfinite(f, b) ? invalid(f, env) : signed(f, sign, f.infinity)
  if (isInfinite(f, b)) return signed(f, sign, 0n)
  if (isZero(f, b)) {
    if (isZero(f, a)) return invalid(f, env)
    env.flags |= DZ
    return signed(f, sign, f.infinity)
  }
  if (isZero(f, a)) return signed(f, sign, 0n)
  // A quotient of at least precision + 2 bits, whatever the operands' leading zeros.
  const shift = 2 * f.precision + 3
  const dividend = significand(f, a) << BigInt(shift)
  const divisor = significand(f, b)
  const quotient = dividend / divisor
  const sticky = quotient * divisor === dividend ? 0n : 1n
  return roundPack(f, env, sign, quotient | sticky, exponent(f, a) - exponent(f, b) - shift)
}

/** Largest r with r * r <= n; 0 < n < 2^1023. */
function integerSqrt(n: bigint): bigint {
  let root = BigInt(Math.floor(Math.sqrt(Number(n))))
  root = (root + n / root) >> 1n
  while (root * root > n) root--
  while ((root + 1n) * (root + 1n) <= n) root++
  return root
}

export function sqrt(f: Format, env: FpEnv, a: bigint): bigint {
  if (isNan(f, a)) return propagateNan(f, env, a)
  if (isZero(f, a)) return a
  if (signOf(f, a)) return invalid(f, env)
  if (isInfinite(f, a)) return a
  const sig = significand(f, a)
  const exp = exponent(f, a)
  // A root of at least precision + 2 bits, from an even exponent.
  let shift = 2 * (f.precision + 2) - bitLength(sig)
  if ((exp - shift) % 2 !== 0) shift++
  const radicand = sig << BigInt(shift)
  const root = integerSqrt(radicand)
  const sticky = root * root === radicand ? 0n : 1n
  return roundPack(f, env, false, (root << 1n) | sticky, (exp - shift) / 2 - 1)
}

/** a * b + c with one rounding. Infinity times zero raises NV even when c is a quiet NaN. */
export function fma(f: Format, env: FpEnv, a: bigint, b: bigint, c: bigint): bigint {
  const product = (isInfinite(f, a) && isZero(f, b)) || (isZero(f, a) && isInfinite(f, b))
  if (product) env.flags |= NV
  if (product || isNan(f, a) || isNan(f, b) || isNan(f, c)) return propagateNan(f, env, a, b, c)
  const sign = signOf(f, a) !== signOf(f, b)
  if (isInfinite(f, a) || isInfinite(f, b)) {
    return isInfinite(f, c) && signOf(f, c) !== sign ? invalid(f, env) : signed(f, sign, f.infinity)
  }
  if (isInfinite(f, c)) return c
  return addScaled(
    f,
    env,
    sign,
    significand(f, a) * significand(f, b),
    exponent(f, a) + exponent(f, b),
    signOf(f, c),
    significand(f, c),
    exponent(f, c),
  )
}

/** Changes the sign of anything, NaNs included: the callers of {@link fma} build fmsub, fnmsub and fnmadd with it. */
export const negate = (f: Format, a: bigint): bigint => a ^ f.signBit
