/**
 * Arithmetic on the host's own doubles, for the common case: everything stays far from the ends of the exponent range and
 * the mode is not RMM. The rounding error of each operation is computed exactly (TwoSum, Dekker's product, the exact
 * remainder of a quotient or root); it tells NX, and which neighbour a directed mode wants instead of the nearest.
 *
 * Every function returns undefined when its proof does not cover the operands; the exact code in arithmetic.ts then takes
 * over. Singles are computed in double precision and rounded once more, which is harmless for one operation because
 * 53 >= 2 * 24 + 2 (Figueroa); the fused form goes through round-to-odd instead (Boldo and Melquiond).
 */
import { type FpEnv, NX, RDN, RMM, RNE, RTZ, RUP } from './format.ts'

const doubles = new Float64Array(3)
const longs = new BigUint64Array(doubles.buffer)
const words = new Int32Array(doubles.buffer)
const singles = new Float32Array(doubles.buffer)

/** Magnitudes between which no intermediate of a double operation over- or underflows, for operands and results. */
const D_LOW = 2 ** -400
const D_HIGH = 2 ** 400
const S_LOW = 2 ** -100
const S_HIGH = 2 ** 100

const inside = (x: number, low: number, high: number): boolean => {
  const magnitude = Math.abs(x)
  return magnitude > low && magnitude < high
}

/** a + b - fl(a + b), exactly. Knuth. */
function sumError(a: number, b: number, sum: number): number {
  const b1 = sum - a
  return a - (sum - b1) + (b - b1)
}

const SPLITTER = 2 ** 27 + 1
/** a * b - fl(a * b), exactly. Dekker, with Veltkamp's splitting. */
function productError(a: number, b: number, product: number): number {
  const ca = SPLITTER * a
  const ah = ca - (ca - a)
  const al = a - ah
  const cb = SPLITTER * b
  const bh = cb - (cb - b)
  const bl = b - bh
  return ah * bh - product + ah * bl + al * bh + al * bl
}

/** Moves doubles[0] one step: away from zero when `direction` has its sign, else towards zero. It is not zero. */
function step(direction: number): void {
  if (direction > 0 === doubles[0]! > 0) {
    words[0] = words[0]! + 1
    if (words[0] === 0) words[1] = words[1]! + 1
  } else {
    if (words[0] === 0) words[1] = words[1]! - 1
    words[0] = words[0]! - 1
  }
}

/** Does the mode want the neighbour of the nearest result, which lies `error` below the true one? */
function wantsNeighbour(rm: number, result: number, error: number): boolean {
  if (rm === RUP) return error > 0
  if (rm === RDN) return error < 0
  return rm === RTZ && error > 0 !== result > 0
}

/** @param nearest not zero @param error of the sign of (true value - nearest) */
function finishDouble(env: FpEnv, nearest: number, error: number): bigint {
  doubles[0] = nearest
  if (error !== 0) {
    env.flags |= NX
    if (env.rm !== RNE && wantsNeighbour(env.rm, nearest, error)) step(error)
  }
  return longs[0]!
}

function finishSingle(env: FpEnv, nearest: number, error: number): bigint {
  singles[0] = nearest
  let bits = words[0]!
  if (error !== 0) {
    env.flags |= NX
    if (env.rm !== RNE && wantsNeighbour(env.rm, nearest, error)) bits += error > 0 === nearest > 0 ? 1 : -1
  }
  return BigInt(bits >>> 0)
}

function double(bits: bigint): number {
  longs[0] = bits
  return doubles[0]!
}

function single(bits: bigint): number {
  words[0] = Number(bits)
  return singles[0]!
}

/** The proof does not cover these operands. */
const UNPROVEN = undefined

/** The sum of two doubles (negate b's sign bit to subtract). */
export function addDouble(env: FpEnv, a: bigint, b: bigint): bigint | undefined {
  const x = double(a)
  const y = double(b)
  const sum = x + y
  if (env.rm === RMM || !inside(sum, D_LOW, D_HIGH) || Math.abs(x) > D_HIGH) return UNPROVEN
  return finishDouble(env, sum, sumError(x, y, sum))
}

export function mulDouble(env: FpEnv, a: bigint, b: bigint): bigint | undefined {
  const x = double(a)
  const y = double(b)
  const product = x * y
  if (env.rm === RMM || !inside(product, D_LOW, D_HIGH) || !inside(x, D_LOW, D_HIGH)) return UNPROVEN
  if (!inside(y, D_LOW, D_HIGH)) return UNPROVEN
  return finishDouble(env, product, productError(x, y, product))
}

export function divDouble(env: FpEnv, a: bigint, b: bigint): bigint | undefined {
  const x = double(a)
  const y = double(b)
  const quotient = x / y
  if (env.rm === RMM || !inside(quotient, D_LOW, D_HIGH) || !inside(x, D_LOW, D_HIGH)) return UNPROVEN
  if (!inside(y, D_LOW, D_HIGH)) return UNPROVEN
  const product = quotient * y
  const remainder = x - product - productError(quotient, y, product)
  return finishDouble(env, quotient, y > 0 ? remainder : -remainder)
}

export function sqrtDouble(env: FpEnv, a: bigint): bigint | undefined {
  const x = double(a)
  const root = Math.sqrt(x)
  if (env.rm === RMM || !(x > D_LOW && x < D_HIGH)) return UNPROVEN
  const square = root * root
  return finishDouble(env, root, x - square - productError(root, root, square))
}

/** a * b + c rounded once. Boldo and Melquiond, "Emulation of FMA and correctly rounded sums". */
export function fmaDouble(env: FpEnv, a: bigint, b: bigint, c: bigint): bigint | undefined {
  const x = double(a)
  const y = double(b)
  const z = double(c)
  const high = x * y
  if (env.rm !== RNE || !inside(high, D_LOW, D_HIGH) || !inside(z, D_LOW, D_HIGH)) return UNPROVEN
  if (!inside(x, D_LOW, D_HIGH) || !inside(y, D_LOW, D_HIGH)) return UNPROVEN
  const low = productError(x, y, high)
  const inner = z + low
  const innerError = sumError(z, low, inner)
  const outer = high + inner
  if (!inside(outer, D_LOW, D_HIGH)) return UNPROVEN
  const outerError = sumError(high, inner, outer)
  const rest = innerError + outerError
  const restError = sumError(innerError, outerError, rest)
  const odd = roundToOdd(rest, restError)
  const result = outer + odd
  if (!inside(result, D_LOW, D_HIGH)) return UNPROVEN
  if (restError !== 0 || sumError(outer, odd, result) !== 0) env.flags |= NX
  doubles[0] = result
  return longs[0]!
}

/** The sum of two doubles, rounded to nearest, with what was lost: made odd when anything was. */
function roundToOdd(nearest: number, error: number): number {
  if (error === 0) return nearest
  doubles[0] = nearest
  if ((words[0]! & 1) === 0) step(error)
  return doubles[0]!
}

export function addSingle(env: FpEnv, a: bigint, b: bigint): bigint | undefined {
  const x = single(a)
  const y = single(b)
  const sum = x + y
  const result = Math.fround(sum)
  if (env.rm === RMM || !inside(result, S_LOW, S_HIGH)) return UNPROVEN
  return finishSingle(env, result, sum - result || sumError(x, y, sum))
}

export function mulSingle(env: FpEnv, a: bigint, b: bigint): bigint | undefined {
  const product = single(a) * single(b)
  const result = Math.fround(product)
  if (env.rm === RMM || !inside(result, S_LOW, S_HIGH)) return UNPROVEN
  return finishSingle(env, result, product - result)
}

export function divSingle(env: FpEnv, a: bigint, b: bigint): bigint | undefined {
  const x = single(a)
  const y = single(b)
  const result = Math.fround(x / y)
  if (env.rm === RMM || !inside(result, S_LOW, S_HIGH)) return UNPROVEN
  const remainder = x - result * y
  return finishSingle(env, result, y > 0 ? remainder : -remainder)
}

export function sqrtSingle(env: FpEnv, a: bigint): bigint | undefined {
  const x = single(a)
  const result = Math.fround(Math.sqrt(x))
  if (env.rm === RMM || !(x > S_LOW && x < S_HIGH)) return UNPROVEN
  return finishSingle(env, result, x - result * result)
}

export function fmaSingle(env: FpEnv, a: bigint, b: bigint, c: bigint): bigint | undefined {
  const product = single(a) * single(b)
  const z = single(c)
  const sum = product + z
  const odd = roundToOdd(sum, sumError(product, z, sum))
  const result = Math.fround(odd)
  if (env.rm === RMM || !inside(result, S_LOW, S_HIGH)) return UNPROVEN
  return finishSingle(env, result, odd - result)
}
