import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { add, div, fma, mul, negate, sqrt } from './arithmetic.ts'
import type { Format, FpEnv } from './format.ts'
import { F32, F64, NV } from './format.ts'
import { fpu } from './fpu.ts'
import type { FpuOpName } from './ops.ts'
import { fpuOpNumber } from './ops.ts'

/** In the order of the enum in __fixtures__/generate-vectors.c; the double forms follow at 32. */
const NAMES = 'add sub mul div sqrt fma rint eq lt w l wu lu from.w from.l from.lu convert'.split(' ')

/** The exact code, without the short cuts of fast.ts that fpu() tries first. */
function exact(name: string, f: Format, env: FpEnv, a: bigint, b: bigint, c: bigint): bigint {
  switch (name) {
    case 'add':
      return add(f, env, a, b)
    case 'sub':
      return add(f, env, a, negate(f, b))
    case 'mul':
      return mul(f, env, a, b)
    case 'div':
      return div(f, env, a, b)
    case 'sqrt':
      return sqrt(f, env, a)
    default:
      return fma(f, env, a, b, c)
  }
}

const mnemonic = (name: string, suffix: 's' | 'd'): FpuOpName => {
  if (/^[wl]u?$/.test(name)) return `fcvt.${name}.${suffix}` as FpuOpName
  if (name.startsWith('from')) return name.replace('from', `fcvt.${suffix}`) as FpuOpName
  if (name === 'convert') return suffix === 's' ? 'fcvt.s.d' : 'fcvt.d.s'
  const stem = { rint: 'froundnx', fma: 'fmadd' }[name] ?? `f${name}`
  return `${stem}.${suffix}` as FpuOpName
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
    const suffix = f === F64 ? 'd' : 's'
    const number = fpuOpNumber(mnemonic(name, suffix))
    const ways: [string, (env: FpEnv, a: bigint, b: bigint, c: bigint) => bigint][] = [
      ['fpu()', (env, a, b, c) => fpu(env, number, a, b, c)],
    ]
    if (/^(add|sub|mul|div|sqrt|fma)$/.test(name)) ways.push(['exact', (env, a, b, c) => exact(name, f, env, a, b, c)])
    it.each(ways)(`${name} ${f === F64 ? 'double' : 'single'}: %s`, (_, way) => {
      const wrong: string[] = []
      for (const at of records) {
        const word = (index: number) => view.getBigUint64(at + 4 + 8 * index, true)
        const env = { rm: bytes[at + 1]!, flags: 0 }
        let result = way(env, word(0), word(1), word(2))
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
