import { describe, expect, it } from 'vitest'
import { fliConstant } from './convert.ts'
import type { Format } from './format.ts'
import { DZ, exponent, F32, F64, NV, NX, OF, RDN, RMM, RNE, RTZ, RUP, significand, signOf, UF } from './format.ts'
import { fpu } from './fpu.ts'
import type { FpuOpName } from './ops.ts'
import { FPU_OP_NAMES, fpuOpNumber } from './ops.ts'

const view = new DataView(new ArrayBuffer(8))
const d = (value: number) => {
  view.setFloat64(0, value)
  return view.getBigUint64(0)
}
const s = (value: number) => {
  view.setFloat32(0, value)
  return BigInt(view.getUint32(0))
}
const QNAN = { s: 0x7fc00000n, d: 0x7ff8000000000000n }
const SNAN = { s: 0x7f800001n, d: 0x7ff0000000000001n }
/** A quiet NaN with sign and payload: never to be seen in a result. */
const ODD_NAN = { s: 0xffc12345n, d: 0xfff8000000012345n }

/** [result, flags] */
function call(name: FpuOpName, rm: number, ...operands: bigint[]): [bigint, number] {
  const env = { rm, flags: 0 }
  const [a = 0n, b = 0n, c = 0n] = operands
  return [fpu(env, fpuOpNumber(name), a, b, c), env.flags]
}

describe('NaN rules (chapter "F", NaN Generation and Propagation)', () => {
  for (const format of ['s', 'd'] as const) {
    const one = format === 's' ? s(1) : d(1)
    const infinity = format === 's' ? s(Infinity) : d(Infinity)
    const zero = 0n
    for (const name of [
      'fadd',
      'fsub',
      'fmul',
      'fdiv',
      'fmadd',
      'fmsub',
      'fnmadd',
      'fnmsub',
      'fsqrt',
      'fround',
      'froundnx',
    ] as const) {
      it(`${name}.${format} answers the canonical NaN, and NV only for a signaling one`, () => {
        expect(call(`${name}.${format}`, RNE, ODD_NAN[format], one, one)).toEqual([QNAN[format], 0])
        expect(call(`${name}.${format}`, RNE, SNAN[format], one, one)).toEqual([QNAN[format], NV])
        if (/sqrt|round/.test(name)) return
        expect(call(`${name}.${format}`, RNE, one, SNAN[format], ODD_NAN[format])).toEqual([QNAN[format], NV])
      })
    }
    it(`fmadd.${format}: infinity times zero is invalid even with a quiet NaN added`, () => {
      expect(call(`fmadd.${format}`, RNE, infinity, zero, ODD_NAN[format])).toEqual([QNAN[format], NV])
      expect(call(`fnmsub.${format}`, RNE, zero, infinity, ODD_NAN[format])).toEqual([QNAN[format], NV])
    })
    it(`fmin.${format} and fmax.${format} prefer the number; fminm and fmaxm the NaN`, () => {
      for (const name of ['fmin', 'fmax'] as const) {
        expect(call(`${name}.${format}`, RNE, ODD_NAN[format], one)).toEqual([one, 0])
        expect(call(`${name}.${format}`, RNE, one, SNAN[format])).toEqual([one, NV])
        expect(call(`${name}.${format}`, RNE, ODD_NAN[format], ODD_NAN[format])).toEqual([QNAN[format], 0])
        expect(call(`${name}m.${format}`, RNE, ODD_NAN[format], one)).toEqual([QNAN[format], 0])
        expect(call(`${name}m.${format}`, RNE, one, SNAN[format])).toEqual([QNAN[format], NV])
      }
      const negativeZero = format === 's' ? s(-0) : d(-0)
      expect(call(`fmin.${format}`, RNE, zero, negativeZero)[0]).toBe(negativeZero)
      expect(call(`fmax.${format}`, RNE, negativeZero, zero)[0]).toBe(zero)
    })
    it(`flt.${format} and fle.${format} signal, feq, fltq and fleq do not`, () => {
      for (const [name, quiet] of [
        ['flt', 0],
        ['fle', 0],
        ['feq', 1],
        ['fltq', 1],
        ['fleq', 1],
      ] as const) {
        expect(call(`${name}.${format}`, RNE, QNAN[format], one)).toEqual([0n, quiet ? 0 : NV])
        expect(call(`${name}.${format}`, RNE, one, SNAN[format])).toEqual([0n, NV])
      }
      expect(call(`fleq.${format}`, RNE, one, one)).toEqual([1n, 0])
      expect(call(`fltq.${format}`, RNE, one, infinity)).toEqual([1n, 0])
    })
    it(`fclass.${format} names all ten`, () => {
      const f = format === 's' ? F32 : F64
      const classes = [f.infinity, one, 1n, 0n].flatMap((m) => [m | f.signBit, m])
      expect(classes.map((a) => call(`fclass.${format}`, RNE, a)[0])).toEqual([
        1n,
        0x80n,
        2n,
        0x40n,
        4n,
        0x20n,
        8n,
        0x10n,
      ])
      expect(call(`fclass.${format}`, RNE, SNAN[format])).toEqual([0x100n, 0])
      expect(call(`fclass.${format}`, RNE, ODD_NAN[format])).toEqual([0x200n, 0])
    })
  }
})

describe('integer conversions (chapter "F", table of limits)', () => {
  it.each([
    ['fcvt.w.d', d(2147483647.5), RTZ, 0x7fffffffn, NX],
    ['fcvt.w.d', d(2147483648), RTZ, 0x7fffffffn, NV],
    ['fcvt.w.d', d(-2147483649), RTZ, 0xffffffff80000000n, NV],
    ['fcvt.wu.d', d(-0.5), RTZ, 0n, NX],
    ['fcvt.wu.d', d(-0.5), RDN, 0n, NV],
    ['fcvt.wu.d', d(-0.5), RMM, 0n, NV],
    ['fcvt.wu.d', d(4294967295), RTZ, 0xffffffffffffffffn, 0],
    ['fcvt.wu.d', QNAN.d, RTZ, 0xffffffffffffffffn, NV],
    ['fcvt.l.d', ODD_NAN.d, RTZ, 0x7fffffffffffffffn, NV],
    ['fcvt.l.d', d(-Infinity), RTZ, 0x8000000000000000n, NV],
    ['fcvt.l.d', d(-(2 ** 63)), RTZ, 0x8000000000000000n, 0],
    ['fcvt.lu.s', s(2 ** 64), RTZ, 0xffffffffffffffffn, NV],
    ['fcvt.lu.s', s(-1), RTZ, 0n, NV],
    ['fcvt.w.s', s(2.5), RMM, 3n, NX],
    ['fcvt.w.s', s(2.5), RNE, 2n, NX],
    ['fcvt.s.wu', 0xffffffffffffffffn, RTZ, 0x4f7fffffn, NX],
    ['fcvt.d.w', 0x00000000ffffffffn, RTZ, d(-1), 0],
    ['fcvt.d.lu', 0xffffffffffffffffn, RMM, d(2 ** 64), NX],
    ['fcvtmod.w.d', d(4294967296 + 5.75), RUP, 5n, NV],
    ['fcvtmod.w.d', d(-1.5), RNE, 0xffffffffffffffffn, NX],
    ['fcvtmod.w.d', d(2147483648), RNE, 0xffffffff80000000n, NV],
    ['fcvtmod.w.d', d(2 ** 84 + 2 ** 32), RNE, 0n, NV],
    ['fcvtmod.w.d', d(Infinity), RNE, 0n, NV],
    ['fcvtmod.w.d', ODD_NAN.d, RNE, 0n, NV],
  ] as const)('%s of %x, rm %i', (name, a, rm, result, flags) => {
    expect(call(name, rm, a)).toEqual([result, flags])
  })
})

it('raises DZ for a finite number divided by zero, NV for zero by zero', () => {
  expect(call('fdiv.d', RNE, d(-1), d(0))).toEqual([d(-Infinity), DZ])
  expect(call('fdiv.s', RNE, 0n, 0n)).toEqual([QNAN.s, NV])
  expect(call('fdiv.s', RNE, s(Infinity), 0n)).toEqual([s(Infinity), 0])
})

it('detects tininess after rounding', () => {
  // Rounds up to the smallest normal number at normal precision: not tiny. One bit less: tiny.
  const largestSubnormal = 0x000fffffffffffffn
  expect(call('fmul.d', RNE, 0x001fffffffffffffn, d(0.5))).toEqual([F64.implicitBit, NX | UF])
  expect(call('fmadd.d', RUP, 1n, d(0.5), largestSubnormal)).toEqual([F64.implicitBit, NX | UF])
  // (2 - 2^-52) * 2^-1023 * (1 + 2^-52) = 2^-1022 * (1 - 2^-105 ...): at 53 bits this rounds to 2^-1022.
  const [result, flags] = call('fmul.d', RNE, 0x0010000000000001n, 0x3fefffffffffffffn)
  expect([result, flags]).toEqual([F64.implicitBit, NX])
})

it('fround keeps NX down, froundnx raises it, both keep the sign of zero', () => {
  expect(call('fround.s', RNE, s(-0.5))).toEqual([s(-0), 0])
  expect(call('froundnx.s', RNE, s(-0.5))).toEqual([s(-0), NX])
  expect(call('froundnx.d', RMM, d(0.5))).toEqual([d(1), NX])
  expect(call('fround.d', RUP, d(2 ** 52 - 0.5))).toEqual([d(2 ** 52), 0])
  expect(call('froundnx.d', RNE, d(2 ** 60))).toEqual([d(2 ** 60), 0])
})

it('fli: the Zfa table', () => {
  const table = [
    -1,
    2 ** -1022,
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
  ]
  table.push(1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 8, 16, 128, 256, 32768, 65536, Infinity, NaN)
  expect(table.map((_, i) => fliConstant(F64, i))).toEqual(table.map(d))
  table[1] = 2 ** -126
  expect(table.map((_, i) => fliConstant(F32, i))).toEqual(table.map(s))
})

describe('every rounding mode against exact rational arithmetic', () => {
  let state = 12345n
  const random = (): bigint => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n)
    return (state >> 32n) ^ state
  }
  const finite = (f: Format): bigint => {
    const fraction =
      random() % 3n === 0n ? f.fractionMask << (random() % f.fractionBits) : random() << (random() % f.fractionBits)
    const fields = f.infinity >> f.fractionBits
    const pick = random() % 4n
    const field =
      pick === 0n
        ? random() % 3n
        : pick === 1n
          ? fields - 1n - (random() % 3n)
          : pick === 2n
            ? fields / 2n + (random() % 20n) - 10n
            : random() % fields
    return ((random() & 1n) * f.signBit) | (field << f.fractionBits) | (fraction & f.fractionMask)
  }
  /** A finite number as an exact fraction over 2^1100. */
  const SCALE = 1100n
  const exact = (f: Format, a: bigint): bigint => {
    const magnitude = significand(f, a) << (SCALE + BigInt(exponent(f, a)))
    return signOf(f, a) ? -magnitude : magnitude
  }
  /** numerator / denominator rounded by comparing with the neighbouring representable numbers, nothing shared with the code. */
  function nearest(f: Format, rm: number, numerator: bigint, denominator: bigint): bigint {
    const negative = numerator < 0n
    const magnitude = negative ? -numerator : numerator
    // Bit patterns order like the values: binary search for the last one not above.
    let low = 0n
    let high = f.infinity
    const value = (bits: bigint) => exact(f, bits) * denominator
    while (high - low > 1n) {
      const middle = (low + high) >> 1n
      if (value(middle) <= magnitude) low = middle
      else high = middle
    }
    const below = value(low)
    if (below === magnitude) return negative ? low | f.signBit : low
    // Past the largest finite number the neighbour is where the next binade would begin.
    const above = value(high === f.infinity ? low : high) + (high === f.infinity ? value(low) - value(low - 1n) : 0n)
    const twice = 2n * magnitude - below - above
    const away = negative ? RDN : RUP
    const up = rm === RNE ? twice > 0n || (twice === 0n && (low & 1n) === 1n) : rm === RMM ? twice >= 0n : rm === away
    // Far past the largest number, directed modes still stop there and nearest modes still overflow.
    return (up ? high : low) | (negative ? f.signBit : 0n)
  }
  for (const f of [F32, F64]) {
    const suffix = f === F32 ? 's' : 'd'
    it(`add, mul, div, fmadd .${suffix}`, () => {
      const one = 1n << SCALE
      for (let i = 0; i < (f === F32 ? 1500 : 400); i++) {
        const [a, b, c] = [finite(f), finite(f), finite(f)]
        const [x, y, z] = [exact(f, a), exact(f, b), exact(f, c)]
        for (const rm of [RNE, RTZ, RDN, RUP, RMM]) {
          const check = (
            name: 'fadd' | 'fmul' | 'fdiv' | 'fmadd',
            operands: bigint[],
            numerator: bigint,
            denominator: bigint,
          ) => {
            if (numerator === 0n) return
            const [result, flags] = call(`${name}.${suffix}`, rm, ...operands)
            const label = `${name} rm ${rm} ${operands.map((o) => o.toString(16))}`
            expect(`${label} ${result.toString(16)}`).toBe(
              `${label} ${nearest(f, rm, numerator, denominator).toString(16)}`,
            )
            if ((result & ~f.signBit) < f.infinity && !(flags & OF)) {
              expect(`${label} inexact ${flags & NX}`).toBe(
                `${label} inexact ${exact(f, result) * denominator === numerator ? 0 : NX}`,
              )
            }
          }
          check('fadd', [a, b], x + y, 1n)
          check('fmul', [a, b], x * y, one)
          check('fmadd', [a, b, c], x * y + z * one, one)
          if (y !== 0n) check('fdiv', [a, b], (y < 0n ? -x : x) * one, y < 0n ? -y : y)
        }
      }
    })
    it(`sqrt .${suffix}`, () => {
      for (let i = 0; i < 1000; i++) {
        const a = finite(f) & ~f.signBit
        if (a === 0n) continue
        for (const rm of [RNE, RTZ, RDN, RUP, RMM]) {
          const [r, flags] = call(`fsqrt.${suffix}`, rm, a)
          const x = exact(f, a) << SCALE
          const [low, high] = [exact(f, r - 1n), exact(f, r + 1n)]
          const root = exact(f, r)
          expect(flags).toBe(root * root === x ? 0 : NX)
          if (flags === 0) continue
          if (rm === RTZ || rm === RDN) expect(root * root < x && high * high > x).toBe(true)
          else if (rm === RUP) expect(root * root > x && low * low < x).toBe(true)
          else expect((root + low) ** 2n < 4n * x && (root + high) ** 2n > 4n * x).toBe(true)
        }
      }
    })
  }
})

it('has an operation for every number', () => {
  for (const [op] of FPU_OP_NAMES.entries()) expect(typeof fpu({ rm: RNE, flags: 0 }, op, 0n, 0n, 0n)).toBe('bigint')
})
