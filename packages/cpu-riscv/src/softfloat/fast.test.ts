import { expect, it } from 'vitest'
import { add, div, fma, mul, sqrt } from './arithmetic.ts'
import * as fast from './fast.ts'
import type { FpEnv } from './format.ts'
import { F32, F64, RDN, RMM, RNE, RTZ, RUP } from './format.ts'

let state = 0x9e3779b97f4a7c15n
const random = (): bigint => {
  state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n)
  return (state >> 29n) ^ state
}
/** Exponents within `spread` of 1, fractions with long runs of zeros and ones. */
const near = (fractionBits: bigint, bias: bigint, spread: bigint): bigint => {
  const mask = (1n << fractionBits) - 1n
  const shift = random() % fractionBits
  const fraction =
    [mask << shift, 1n << shift, random(), random() << shift, mask >> shift, 0n][Number(random() % 6n)]! & mask
  return (
    ((((random() & 1n) << (fractionBits === 52n ? 11n : 8n)) | (bias + (random() % (2n * spread)) - spread)) <<
      fractionBits) |
    fraction
  )
}

type Way = (env: FpEnv, a: bigint, b: bigint, c: bigint) => bigint | undefined
const pairs: [string, Way, Way][] = [
  ['addDouble', fast.addDouble, (env, a, b) => add(F64, env, a, b)],
  ['mulDouble', fast.mulDouble, (env, a, b) => mul(F64, env, a, b)],
  ['divDouble', fast.divDouble, (env, a, b) => div(F64, env, a, b)],
  ['sqrtDouble', fast.sqrtDouble, (env, a) => sqrt(F64, env, a)],
  ['fmaDouble', fast.fmaDouble, (env, a, b, c) => fma(F64, env, a, b, c)],
  ['addSingle', fast.addSingle, (env, a, b) => add(F32, env, a, b)],
  ['mulSingle', fast.mulSingle, (env, a, b) => mul(F32, env, a, b)],
  ['divSingle', fast.divSingle, (env, a, b) => div(F32, env, a, b)],
  ['sqrtSingle', fast.sqrtSingle, (env, a) => sqrt(F32, env, a)],
  ['fmaSingle', fast.fmaSingle, (env, a, b, c) => fma(F32, env, a, b, c)],
]
const ROUNDS = Number(process.env.FERRY_FP_ROUNDS ?? 12_000)

it.each(pairs)('%s agrees with the exact code in every mode, flags included', (name, quick, exact) => {
  const isDouble = name.endsWith('Double')
  const operand = (spread: bigint) => (isDouble ? near(52n, 1023n, spread) : near(23n, 127n, spread))
  const sign = isDouble ? 1n << 63n : 1n << 31n
  let taken = 0
  for (let i = 0; i < ROUNDS; i++) {
    const spread = [3n, 30n, isDouble ? 390n : 90n][i % 3]!
    const [a, b] = [operand(spread), operand(i % 2 === 0 ? spread : 2n)]
    let c = operand(spread)
    if (i % 5 === 0) {
      // Cancels nearly, or exactly.
      const product = mul(isDouble ? F64 : F32, { rm: RNE, flags: 0 }, a, b)
      c = (product ^ sign) + (random() % 3n) - 1n
    }
    for (const rm of [RNE, RTZ, RDN, RUP, RMM]) {
      const [x, y] = [
        { rm, flags: 0 },
        { rm, flags: 0 },
      ]
      const result = quick(x, a, b, c)
      if (result === undefined) {
        expect(x.flags).toBe(0)
        continue
      }
      taken++
      const label = `rm ${rm} ${[a, b, c].map((o) => o.toString(16))}`
      const expected = exact(y, a, b, c)!
      if (result !== expected || x.flags !== y.flags) {
        expect(`${label} -> ${result.toString(16)} ${x.flags}`).toBe(`${label} -> ${expected.toString(16)} ${y.flags}`)
      }
    }
  }
  expect(taken).toBeGreaterThan(ROUNDS / 4)
})
