/** Comparisons, minimum and maximum, classification. Spec: RISC-V Unprivileged ISA, chapters "F", "D" and "Zfa". */
import type { Format, FpEnv } from './format.ts'
import { isNan, isSignalingNan, isZero, NV, signOf } from './format.ts'

/** Orders bit patterns that are not NaNs; -0 comes before +0. */
function ordered(f: Format, a: bigint): bigint {
  return signOf(f, a) ? -(a ^ f.signBit) - 1n : a
}

const bothZero = (f: Format, a: bigint, b: bigint): boolean => isZero(f, a) && isZero(f, b)

/** NV for a signaling NaN, or for any NaN when the comparison itself signals. */
function unordered(f: Format, env: FpEnv, a: bigint, b: bigint, signaling: boolean): boolean {
  if (!isNan(f, a) && !isNan(f, b)) return false
  if (signaling || isSignalingNan(f, a) || isSignalingNan(f, b)) env.flags |= NV
  return true
}

/** feq: quiet. */
export function equal(f: Format, env: FpEnv, a: bigint, b: bigint): boolean {
  return !unordered(f, env, a, b, false) && (a === b || bothZero(f, a, b))
}

/** flt; with `signaling` false, fltq. */
export function less(f: Format, env: FpEnv, a: bigint, b: bigint, signaling = true): boolean {
  return !unordered(f, env, a, b, signaling) && ordered(f, a) < ordered(f, b) && !bothZero(f, a, b)
}

/** fle; with `signaling` false, fleq. */
export function lessOrEqual(f: Format, env: FpEnv, a: bigint, b: bigint, signaling = true): boolean {
  return !unordered(f, env, a, b, signaling) && (ordered(f, a) <= ordered(f, b) || bothZero(f, a, b))
}

function extreme(f: Format, env: FpEnv, a: bigint, b: bigint, larger: boolean, nanWins: boolean): bigint {
  if (unordered(f, env, a, b, false)) {
    if (nanWins || (isNan(f, a) && isNan(f, b))) return f.canonicalNan
    return isNan(f, a) ? b : a
  }
  return ordered(f, a) < ordered(f, b) === larger ? b : a
}

/** fmin: the other operand when one is a NaN. */
export const min = (f: Format, env: FpEnv, a: bigint, b: bigint): bigint => extreme(f, env, a, b, false, false)
export const max = (f: Format, env: FpEnv, a: bigint, b: bigint): bigint => extreme(f, env, a, b, true, false)
/** fminm: NaN when one operand is a NaN. */
export const minm = (f: Format, env: FpEnv, a: bigint, b: bigint): bigint => extreme(f, env, a, b, false, true)
export const maxm = (f: Format, env: FpEnv, a: bigint, b: bigint): bigint => extreme(f, env, a, b, true, true)

/** fclass: one bit of ten. */
export function classify(f: Format, a: bigint): bigint {
  if (isNan(f, a)) return isSignalingNan(f, a) ? 0x100n : 0x200n
  const magnitude = a & ~f.signBit
  // Distance from zero: 3 infinite, 2 normal, 1 subnormal, 0 zero; negative numbers count down from bit 3.
  const distance = magnitude === f.infinity ? 3 : magnitude >= f.implicitBit ? 2 : magnitude > 0n ? 1 : 0
  return 1n << BigInt(signOf(f, a) ? 3 - distance : 4 + distance)
}
