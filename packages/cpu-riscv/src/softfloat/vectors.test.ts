import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { add, div, fma, mul, sqrt, sub } from './arithmetic.ts'
import { equal, less } from './compare.ts'
import { convert, fromInteger, roundToIntegral, toInteger } from './convert.ts'
import type { Format, FpEnv } from './format.ts'
import { F32, F64, NV } from './format.ts'

/** In the order of the enum in __fixtures__/generate-vectors.c; the double forms follow at 32. */
const NAMES = 'add sub mul div sqrt fma rint eq lt w l wu lu from.w from.l from.lu convert'.split(' ')
const signed64 = (a: bigint) => BigInt.asIntN(64, a)

function run(name: string, f: Format, env: FpEnv, a: bigint, b: bigint, c: bigint): bigint {
  switch (name) {
    case 'add':
      return add(f, env, a, b)
    case 'sub':
      return sub(f, env, a, b)
    case 'mul':
      return mul(f, env, a, b)
    case 'div':
      return div(f, env, a, b)
    case 'sqrt':
      return sqrt(f, env, a)
    case 'fma':
      return fma(f, env, a, b, c)
    case 'rint':
      return roundToIntegral(f, env, a, true)
    case 'eq':
      return BigInt(equal(f, env, a, b))
    case 'lt':
      return BigInt(less(f, env, a, b))
    case 'w':
      return toInteger(f, env, a, 32, false)
    case 'l':
      return toInteger(f, env, a, 64, false)
    case 'wu':
      return toInteger(f, env, a, 32, true)
    case 'lu':
      return toInteger(f, env, a, 64, true)
    case 'from.w':
    case 'from.l':
      return fromInteger(f, env, signed64(a))
    case 'from.lu':
      return fromInteger(f, env, a)
    default:
      return convert(f, f === F64 ? F32 : F64, env, a)
  }
}

describe('softfloat against vectors from an x86-64 processor', () => {
  const file = process.env.FERRY_FP_VECTORS ?? new URL('./__fixtures__/x86-vectors.bin', import.meta.url)
  const bytes = readFileSync(file)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const groups = new Map<number, number[]>()
  for (let at = 0; at < bytes.length; at += 36) {
    const op = bytes[at]!
    const group = groups.get(op)
    if (group) group.push(at)
    else groups.set(op, [at])
  }
  it('has every operation in both formats', () => expect(groups.size).toBe(2 * NAMES.length))

  for (const [op, records] of groups) {
    const f = op >= 32 ? F64 : F32
    const name = NAMES[op & 31]!
    it(`${name} ${f === F64 ? 'double' : 'single'}`, () => {
      const wrong: string[] = []
      for (const at of records) {
        const word = (index: number) => view.getBigUint64(at + 4 + 8 * index, true)
        const env = { rm: bytes[at + 1]!, flags: 0 }
        let result = run(name, f, env, word(0), word(1), word(2))
        // x86 answers its "integer indefinite" where RISC-V saturates.
        if (/^[wl]u?$/.test(name) && env.flags & NV) result = 0n
        if (result !== word(3) || env.flags !== bytes[at + 2]) {
          const operands = [0, 1, 2].map((i) => word(i).toString(16)).join(' ')
          wrong.push(
            `rm ${env.rm}: ${operands} -> ${result.toString(16)} flags ${env.flags}; x86 ${word(3).toString(16)} flags ${bytes[at + 2]}`,
          )
        }
      }
      expect(wrong.slice(0, 5)).toEqual([])
    })
  }
})
