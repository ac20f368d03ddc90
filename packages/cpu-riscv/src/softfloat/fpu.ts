/**
 * The slow path of floating-point instructions: one entry for every operation that ops.ts numbers.
 *
 * ```ts
 * const env = { rm: RNE, flags: 0 }
 * const sum = fpu(env, fpuOpNumber('fadd.d'), a, b, 0n) // env.flags has accrued NX, OF ...
 * ```
 */
import { add, div, fma, mul, negate, sqrt } from './arithmetic.ts'
import { classify, equal, less, lessOrEqual, max, maxm, min, minm } from './compare.ts'
import { convert, fromInteger, roundToIntegral, toInteger, toIntegerModular } from './convert.ts'
import * as fast from './fast.ts'
import type { Format, FpEnv } from './format.ts'
import { F32, F64 } from './format.ts'
import type { FpuOpName } from './ops.ts'
import { FPU_OP_NAMES } from './ops.ts'

type Operation = (env: FpEnv, a: bigint, b: bigint, c: bigint) => bigint

type Fast = (env: FpEnv, a: bigint, b: bigint, c: bigint) => bigint | undefined
interface FastArithmetic {
  readonly add: Fast
  readonly mul: Fast
  readonly div: Fast
  readonly sqrt: Fast
  readonly fma: Fast
}
const fastSingle: FastArithmetic = {
  add: fast.addSingle,
  mul: fast.mulSingle,
  div: fast.divSingle,
  sqrt: fast.sqrtSingle,
  fma: fast.fmaSingle,
}
const fastDouble: FastArithmetic = {
  add: fast.addDouble,
  mul: fast.mulDouble,
  div: fast.divDouble,
  sqrt: fast.sqrtDouble,
  fma: fast.fmaDouble,
}

/** The forms that exist for both formats, by name without suffix. */
const generic = (f: Format, quick: FastArithmetic) => {
  const sum = (env: FpEnv, a: bigint, b: bigint): bigint => quick.add(env, a, b, 0n) ?? add(f, env, a, b)
  const fused = (env: FpEnv, a: bigint, b: bigint, c: bigint): bigint => quick.fma(env, a, b, c) ?? fma(f, env, a, b, c)
  return {
    fadd: sum,
    fsub: (env, a, b) => sum(env, a, negate(f, b)),
    fmul: (env, a, b) => quick.mul(env, a, b, 0n) ?? mul(f, env, a, b),
    fdiv: (env, a, b) => quick.div(env, a, b, 0n) ?? div(f, env, a, b),
    fsqrt: (env, a) => quick.sqrt(env, a, 0n, 0n) ?? sqrt(f, env, a),
    fmadd: fused,
    fmsub: (env, a, b, c) => fused(env, a, b, negate(f, c)),
    fnmsub: (env, a, b, c) => fused(env, negate(f, a), b, c),
    fnmadd: (env, a, b, c) => fused(env, negate(f, a), b, negate(f, c)),
    fmin: (env, a, b) => min(f, env, a, b),
    fmax: (env, a, b) => max(f, env, a, b),
    fminm: (env, a, b) => minm(f, env, a, b),
    fmaxm: (env, a, b) => maxm(f, env, a, b),
    feq: (env, a, b) => BigInt(equal(f, env, a, b)),
    flt: (env, a, b) => BigInt(less(f, env, a, b)),
    fle: (env, a, b) => BigInt(lessOrEqual(f, env, a, b)),
    fltq: (env, a, b) => BigInt(less(f, env, a, b, false)),
    fleq: (env, a, b) => BigInt(lessOrEqual(f, env, a, b, false)),
    fclass: (_, a) => classify(f, a),
    fround: (env, a) => roundToIntegral(f, env, a, false),
    froundnx: (env, a) => roundToIntegral(f, env, a, true),
    'fcvt.w': (env, a) => toInteger(f, env, a, 32, false),
    'fcvt.wu': (env, a) => toInteger(f, env, a, 32, true),
    'fcvt.l': (env, a) => toInteger(f, env, a, 64, false),
    'fcvt.lu': (env, a) => toInteger(f, env, a, 64, true),
  } satisfies Record<string, Operation>
}

const suffixed = <S extends 's' | 'd'>(f: Format, quick: FastArithmetic, suffix: S) =>
  Object.fromEntries(
    Object.entries(generic(f, quick)).map(([name, operation]) => [`${name}.${suffix}`, operation]),
  ) as Record<`${keyof ReturnType<typeof generic>}.${S}`, Operation>

const fromIntegers = (f: Format): Record<'w' | 'wu' | 'l' | 'lu', Operation> => ({
  w: (env, a) => fromInteger(f, env, BigInt.asIntN(32, a)),
  wu: (env, a) => fromInteger(f, env, BigInt.asUintN(32, a)),
  l: (env, a) => fromInteger(f, env, BigInt.asIntN(64, a)),
  lu: (env, a) => fromInteger(f, env, a),
})
const single = fromIntegers(F32)
const double = fromIntegers(F64)

const operations: Record<FpuOpName, Operation> = {
  ...suffixed(F32, fastSingle, 's'),
  ...suffixed(F64, fastDouble, 'd'),
  'fcvt.s.w': single.w,
  'fcvt.s.wu': single.wu,
  'fcvt.s.l': single.l,
  'fcvt.s.lu': single.lu,
  'fcvt.d.w': double.w,
  'fcvt.d.wu': double.wu,
  'fcvt.d.l': double.l,
  'fcvt.d.lu': double.lu,
  'fcvt.s.d': (env, a) => convert(F32, F64, env, a),
  'fcvt.d.s': (env, a) => convert(F64, F32, env, a),
  'fcvtmod.w.d': (env, a) => toIntegerModular(env, a),
}
const byNumber = FPU_OP_NAMES.map((name) => operations[name])

/**
 * Operands of any sign; narrower formats must come with their high bits clear, as ops.ts says.
 * @param env rm is the resolved rounding mode; flags accrue into it
 * @returns the result as an unsigned 64-bit value
 */
export function fpu(env: FpEnv, op: number, a: bigint, b: bigint, c: bigint): bigint {
  return byNumber[op]!(env, BigInt.asUintN(64, a), BigInt.asUintN(64, b), BigInt.asUintN(64, c))
}
