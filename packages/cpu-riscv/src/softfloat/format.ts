/**
 * IEEE 754 binary formats on bit patterns, with the choices RISC-V makes: every NaN result is the canonical one,
 * tininess is detected after rounding. Spec: RISC-V Unprivileged ISA, chapters "F" and "D"; IEEE 754-2008.
 *
 * Finite numbers travel as (sign, sig, exp) with the value (-1)^sign * sig * 2^exp, sig an exact BigInt: every operation
 * computes exactly (or with a sticky lowest bit) and rounds once, in {@link roundPack}.
 */

/** Bits of fflags. */
export const NX = 1
export const UF = 2
export const OF = 4
export const DZ = 8
export const NV = 16

/** Rounding modes as frm encodes them. */
export const RNE = 0
export const RTZ = 1
export const RDN = 2
export const RUP = 3
export const RMM = 4

/** The dynamic part: `rm` is the resolved mode (never 7), `flags` accrues. */
export interface FpEnv {
  rm: number
  flags: number
}

export interface Format {
  /** Width of the encoding. */
  readonly bits: number
  /** Significand bits, the implicit one included. */
  readonly precision: number
  /** Exponent of the smallest normal number. */
  readonly minExponent: number
  /** Exponent of the last bit of a subnormal number: all finite numbers are multiples of 2^quantum. */
  readonly quantum: number
  readonly fractionBits: bigint
  readonly fractionMask: bigint
  readonly implicitBit: bigint
  readonly quietBit: bigint
  readonly signBit: bigint
  /** +infinity; also the largest exponent field. */
  readonly infinity: bigint
  readonly canonicalNan: bigint
}

function defineFormat(bits: number, precision: number): Format {
  const exponentBits = bits - precision
  const minExponent = 2 - 2 ** (exponentBits - 1)
  const fractionBits = BigInt(precision - 1)
  const implicitBit = 1n << fractionBits
  const infinity = ((1n << BigInt(exponentBits)) - 1n) << fractionBits
  return {
    bits,
    precision,
    minExponent,
    quantum: minExponent - (precision - 1),
    fractionBits,
    fractionMask: implicitBit - 1n,
    implicitBit,
    quietBit: implicitBit >> 1n,
    signBit: 1n << BigInt(bits - 1),
    infinity,
    canonicalNan: infinity | (implicitBit >> 1n),
  }
}

export const F32 = defineFormat(32, 24)
export const F64 = defineFormat(64, 53)

export const isNan = (f: Format, a: bigint): boolean => (a & ~f.signBit) > f.infinity
export const isSignalingNan = (f: Format, a: bigint): boolean => isNan(f, a) && (a & f.quietBit) === 0n
export const isInfinite = (f: Format, a: bigint): boolean => (a & ~f.signBit) === f.infinity
export const isZero = (f: Format, a: bigint): boolean => (a & ~f.signBit) === 0n
export const signOf = (f: Format, a: bigint): boolean => (a & f.signBit) !== 0n

/** Significand of a finite number; 0n for a zero. */
export function significand(f: Format, a: bigint): bigint {
  const fraction = a & f.fractionMask
  return (a & f.infinity) === 0n ? fraction : fraction | f.implicitBit
}

/** Exponent of the significand's last bit. */
export function exponent(f: Format, a: bigint): number {
  const field = Number((a & f.infinity) >> f.fractionBits)
  return f.quantum + (field === 0 ? 0 : field - 1)
}

export const signed = (f: Format, sign: boolean, magnitude: bigint): bigint =>
  sign ? magnitude | f.signBit : magnitude

/** The result of an operation that has no other: raises NV. */
export function invalid(f: Format, env: FpEnv): bigint {
  env.flags |= NV
  return f.canonicalNan
}

/** The result when an operand is a NaN: canonical; NV when one of them is signaling. */
export function propagateNan(f: Format, env: FpEnv, a: bigint, b: bigint = 0n, c: bigint = 0n): bigint {
  if (isSignalingNan(f, a) || isSignalingNan(f, b) || isSignalingNan(f, c)) env.flags |= NV
  return f.canonicalNan
}

const doubles = new Float64Array(1)
const words = new Uint32Array(doubles.buffer)

/** Bits needed for n > 0, n < 2^1023. */
export function bitLength(n: bigint): number {
  doubles[0] = Number(n)
  const length = (words[1]! >>> 20) - 1022
  // The conversion to double may have rounded up to the next power of two.
  return n >> BigInt(length - 1) === 0n ? length - 1 : length
}

/** Whether the last {@link roundShift} dropped anything but zeros. */
export let dropped = false

/** sig / 2^shift rounded to an integer magnitude by `rm`; sets {@link dropped}. A negative shift multiplies. */
export function roundShift(rm: number, sign: boolean, sig: bigint, shift: number): bigint {
  if (shift <= 0) {
    dropped = false
    return sig << BigInt(-shift)
  }
  const count = BigInt(shift)
  const kept = sig >> count
  const rest = sig - (kept << count)
  dropped = rest !== 0n
  if (!dropped) return kept
  let up: boolean
  if (rm === RNE) {
    const half = 1n << (count - 1n)
    up = rest > half || (rest === half && (kept & 1n) === 1n)
  } else if (rm === RMM) up = rest >= 1n << (count - 1n)
  else if (rm === RTZ) up = false
  else up = sign === (rm === RDN)
  return up ? kept + 1n : kept
}

/**
 * Rounds (-1)^sign * sig * 2^exp to the format, raising NX, UF and OF. sig > 0. An inexact sig may stand in for the true
 * value when its lowest bit is sticky and it has at least precision + 2 bits.
 */
export function roundPack(f: Format, env: FpEnv, sign: boolean, sig: bigint, exp: number): bigint {
  const top = exp + bitLength(sig) - 1
  const normalQuantum = top - (f.precision - 1)
  const quantum = Math.max(normalQuantum, f.quantum)
  const rounded = roundShift(env.rm, sign, sig, quantum - exp)
  const inexact = dropped
  // A normal significand carries its implicit bit into the exponent field; a rounding carry does the same once more.
  const magnitude = (BigInt(quantum - f.quantum) << f.fractionBits) + rounded
  if (inexact) {
    env.flags |= NX
    if (top < f.minExponent) {
      const unbounded = roundShift(env.rm, sign, sig, normalQuantum - exp)
      const tiny = top < f.minExponent - 1 || unbounded >> BigInt(f.precision) === 0n
      if (tiny) env.flags |= UF
    }
  }
  if (magnitude >= f.infinity) {
    env.flags |= OF | NX
    const toInfinity = env.rm === RNE || env.rm === RMM || (env.rm !== RTZ && sign === (env.rm === RDN))
    return signed(f, sign, toInfinity ? f.infinity : f.infinity - 1n)
  }
  return signed(f, sign, magnitude)
}
