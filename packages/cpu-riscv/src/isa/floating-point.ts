/**
 * F, D and Zfa. What is exact, or rounds as WebAssembly does with flags that are known beforehand, is done in place;
 * everything else goes to softfloat. Spec: RISC-V Unprivileged ISA, chapters "F", "D" and "Zfa".
 *
 * The fast path of arithmetic asks for: rounding to nearest-even, NX already accrued, and a result that is normal (and
 * not the smallest normal, which may have been tiny before rounding). Then the operands were neither NaN nor infinite, no
 * flag but NX can be raised, and the result has only one form.
 */
import type { FpuOpName } from '../softfloat/ops.ts'
import { f32, f64, i32, i64, select, v128 } from '../wasm/expr.ts'
import type { F32, F64, I32, I64 } from '../wasm/function-body.ts'
import { type Emit, NEVER } from './emit.ts'
import type { FormatName } from './formats.ts'
import { extension, type Instruction, type RowDraft, row } from './row.ts'

const LOAD_FP = 0x07
const STORE_FP = 0x27
const OP_FP = 0x53
const FUSED = { fmadd: 0x43, fmsub: 0x47, fnmsub: 0x4b, fnmadd: 0x4f }

const NX = 1
const RTZ = 1
const DYNAMIC_RESERVED = 5

/** Everything that differs between binary32 and binary64. */
interface Precision {
  readonly suffix: 's' | 'd'
  /** The fmt field, which is the low part of funct7. */
  readonly fmt: 0 | 1
  readonly bytes: 4 | 8
  /** An operand in the format that softfloat takes: unboxed. */
  readonly raw: (e: Emit, register: I64) => I64
  /** The raw result of softfloat, as a register holds it. */
  readonly boxed: (bits: I64) => I64
  readonly signBit: bigint
  readonly exponentMask: bigint
  readonly fractionMask: bigint
}

const BOX = 0xffff_ffff_0000_0000n
const box = (bits: I64): I64 => i64.or(bits, i64.const(BOX))
const low32 = (bits: I64): I64 => i64.and(bits, i64.const(0xffff_ffff))

const S: Precision = {
  suffix: 's',
  fmt: 0,
  bytes: 4,
  raw(e, register) {
    const held = e.hold('i64', register)
    const isBoxed = i64.eq(i64.shr_u(held, i64.const(32)), i64.const(0xffff_ffff))
    return e.hold('i64', select(low32(held), i64.const(0x7fc0_0000), isBoxed))
  },
  boxed: (bits) => box(low32(bits)),
  signBit: 1n << 31n,
  exponentMask: 0x7f80_0000n,
  fractionMask: 0x7f_ffffn,
}
const D: Precision = {
  suffix: 'd',
  fmt: 1,
  bytes: 8,
  raw: (e, register) => e.hold('i64', register),
  boxed: (bits) => bits,
  signBit: 1n << 63n,
  exponentMask: 0x7ff0_0000_0000_0000n,
  fractionMask: 0xf_ffff_ffff_ffffn,
}

const toF32 = (bits: I64): F32 => f32.reinterpret(i32.wrap(bits))
const fromF32 = (value: F32): I64 => i64.extend_u(i32.reinterpret(value))
const toF64 = (bits: I64): F64 => f64.reinterpret(bits)
const fromF64 = (value: F64): I64 => i64.reinterpret(value)

/** Biased exponent at least 2 and not all ones. */
const isPlainResult = (p: Precision, bits: I64): I32 => {
  const one = p.fractionMask + 1n
  const exponent = i64.and(bits, i64.const(p.exponentMask))
  return i64.lt_u(i64.sub(exponent, i64.const(one * 2n)), i64.const(p.exponentMask - one * 2n))
}
const isNan = (p: Precision, bits: I64): I32 =>
  i64.gt_u(i64.and(bits, i64.const(p.exponentMask | p.fractionMask)), i64.const(p.exponentMask))

/** Rounds to nearest-even, and NX is there already: goes on only then. */
const guardNearest = (e: Emit): void => {
  const inexact = i32.xor(i32.and(e.fflags(), i32.const(NX)), i32.const(NX))
  e.guard(i32.eqz(i32.or(e.roundingMode(), inexact)))
}
/** The rounding mode for softfloat; reserved ones are illegal. */
const checkedRounding = (e: Emit): I32 => {
  const rm = e.hold('i32', e.roundingMode())
  e.illegalIf(i32.ge_u(rm, i32.const(DYNAMIC_RESERVED)))
  return rm
}
const name = (base: string, p: Precision): FpuOpName => `${base}.${p.suffix}` as FpuOpName
const noRounding = i32.const(0)

interface Arithmetic {
  readonly f32: (a: F32, b: F32, c: F32) => F32
  readonly f64: (a: F64, b: F64, c: F64) => F64
}

/** An operation of 1 to 3 operands that rounds. */
const arithmetic = (
  format: FormatName,
  encoding: Parameters<typeof row>[1],
  base: string,
  arity: 1 | 2 | 3,
  p: Precision,
  direct: Arithmetic,
): RowDraft =>
  row(format, encoding, (e) => {
    e.fpEnabled(true)
    const operands = [() => e.fs1(), () => e.fs2(), () => e.fs3()].slice(0, arity).map((read) => p.raw(e, read()))
    const slow = (): void => {
      const rm = checkedRounding(e)
      e.fd(p.boxed(e.fpu(name(base, p), operands, rm)))
    }
    const [a, b = a, c = a] = operands
    e.either(() => {
      guardNearest(e)
      const value =
        p === S ? fromF32(direct.f32(toF32(a), toF32(b), toF32(c))) : fromF64(direct.f64(toF64(a), toF64(b), toF64(c)))
      const bits = e.hold('i64', value)
      e.guard(isPlainResult(p, bits))
      e.fd(p === S ? box(bits) : bits)
    }, slow)
  })

/** For operations without a fast path. */
const slowOnly = (e: Emit, slow: () => void): void => e.either(() => e.guard(NEVER), slow)

const binary = (funct5: number, base: string, p: Precision, direct: Arithmetic): RowDraft =>
  arithmetic('fpRounded', { opcode: OP_FP, funct7: (funct5 << 2) | p.fmt }, base, 2, p, direct)

const fusedF64 = (a: F64, b: F64, c: F64): F64 =>
  v128.lane0_f64(v128.relaxed_madd_f64(v128.splat_f64(a), v128.splat_f64(b), v128.splat_f64(c)))
const fusedF32 = (a: F32, b: F32, c: F32): F32 =>
  v128.lane0_f32(v128.relaxed_madd_f32(v128.splat_f32(a), v128.splat_f32(b), v128.splat_f32(c)))
const FUSED_DIRECT: Readonly<Record<keyof typeof FUSED, Arithmetic>> = {
  fmadd: { f32: fusedF32, f64: fusedF64 },
  fmsub: { f32: (a, b, c) => fusedF32(a, b, f32.neg(c)), f64: (a, b, c) => fusedF64(a, b, f64.neg(c)) },
  fnmsub: { f32: (a, b, c) => fusedF32(f32.neg(a), b, c), f64: (a, b, c) => fusedF64(f64.neg(a), b, c) },
  fnmadd: {
    f32: (a, b, c) => fusedF32(f32.neg(a), b, f32.neg(c)),
    f64: (a, b, c) => fusedF64(f64.neg(a), b, f64.neg(c)),
  },
}
const fused = (base: keyof typeof FUSED, p: Precision): RowDraft =>
  row('fpFused', { opcode: FUSED[base], funct7: p.fmt }, (e) => {
    e.fpEnabled(true)
    const [a, b, c] = [e.fs1(), e.fs2(), e.fs3()].map((register) => p.raw(e, register))
    e.either(
      () => {
        if (!e.fusesMultiplyAdd) {
          e.guard(NEVER)
          return
        }
        guardNearest(e)
        const direct = FUSED_DIRECT[base]
        const value =
          p === S
            ? fromF32(direct.f32(toF32(a), toF32(b), toF32(c)))
            : fromF64(direct.f64(toF64(a), toF64(b), toF64(c)))
        const bits = e.hold('i64', value)
        e.guard(isPlainResult(p, bits))
        e.fd(p === S ? box(bits) : bits)
      },
      () => {
        const rm = checkedRounding(e)
        e.fd(p.boxed(e.fpu(name(base, p), [a, b, c], rm)))
      },
    )
  })

/** fsgnj and its two relatives: bits only, no flags. */
const signInjection = (funct3: number, p: Precision, sign: (a: I64, b: I64) => I64): RowDraft =>
  row('fp', { opcode: OP_FP, funct3, funct7: 0x10 | p.fmt }, (e) => {
    e.fpEnabled(true)
    const a = p.raw(e, e.fs1())
    const b = p.raw(e, e.fs2())
    const magnitude = i64.and(a, i64.const(p.exponentMask | p.fractionMask))
    e.fd(p.boxed(i64.or(magnitude, i64.and(sign(a, b), i64.const(p.signBit)))))
  })

/** Compares; without a NaN there is no flag. */
const compare = (
  funct3: number,
  base: string,
  p: Precision,
  single: (a: F32, b: F32) => I32,
  double: (a: F64, b: F64) => I32,
): RowDraft =>
  row('fpCompare', { opcode: OP_FP, funct3, funct7: 0x50 | p.fmt }, (e) => {
    e.fpEnabled(true)
    const a = p.raw(e, e.fs1())
    const b = p.raw(e, e.fs2())
    e.either(
      () => {
        e.guard(i32.eqz(i32.or(isNan(p, a), isNan(p, b))))
        e.rd(i64.extend_u(p === S ? single(toF32(a), toF32(b)) : double(toF64(a), toF64(b))))
      },
      () => e.rd(e.fpu(name(base, p), [a, b], noRounding)),
    )
  })

/** fmin and fmax order -0 before +0. As integers with the sign turned into order, both are plain comparisons. */
const extremum = (funct3: number, base: string, p: Precision): RowDraft =>
  row('fp', { opcode: OP_FP, funct3, funct7: 0x14 | p.fmt }, (e) => {
    e.fpEnabled(true)
    const a = p.raw(e, e.fs1())
    const b = p.raw(e, e.fs2())
    e.either(
      () => {
        e.guard(i32.eqz(i32.or(isNan(p, a), isNan(p, b))))
        // Negative numbers sort backwards: flip their magnitude.
        const ordered = (bits: I64): I64 => {
          const wide = p === S ? i64.extend32(bits) : bits
          return i64.xor(wide, i64.and(i64.shr_s(wide, i64.const(63)), i64.const((1n << 63n) - 1n)))
        }
        const less = i64.lt_s(ordered(a), ordered(b))
        e.fd(p.boxed(base.startsWith('fmin') ? select(a, b, less) : select(b, a, less)))
      },
      () => e.fd(p.boxed(e.fpu(name(base, p), [a, b], noRounding))),
    )
  })

const classify = (p: Precision): RowDraft =>
  row('fpToX', { opcode: OP_FP, funct3: 1, funct7: 0x70 | p.fmt }, (e) => {
    e.fpEnabled(false)
    const a = p.raw(e, e.fs1())
    slowOnly(e, () => e.rd(e.fpu(name('fclass', p), [a], noRounding)))
  })

type IntegerName = 'w' | 'wu' | 'l' | 'lu'
const INTEGERS: readonly IntegerName[] = ['w', 'wu', 'l', 'lu']

/** Rounds as the rm field says, except to nearest with ties away, which WebAssembly does not have. */
const roundF64 = (value: F64, rm: I32): F64 =>
  select(
    select(f64.nearest(value), f64.trunc(value), i32.eqz(rm)),
    select(f64.floor(value), f64.ceil(value), i32.eq(rm, i32.const(2))),
    i32.le_u(rm, i32.const(RTZ)),
  )

/** Float to integer. In range, the only flag is NX, raised when the rounded value is another one. */
const toInteger = (integer: IntegerName, p: Precision): RowDraft =>
  row('fpToXRounded', { opcode: OP_FP, funct7: 0x60 | p.fmt, rs2: INTEGERS.indexOf(integer) }, (e) => {
    e.fpEnabled(true)
    const bits = p.raw(e, e.fs1())
    e.either(
      () => {
        const rm = e.hold('i32', e.roundingMode())
        e.guard(i32.le_u(rm, i32.const(3)))
        const value = e.hold('f64', p === S ? f64.promote(toF32(bits)) : toF64(bits))
        const rounded = e.hold('f64', roundF64(value, rm))
        const [low, high] = {
          w: [-(2 ** 31), 2 ** 31],
          wu: [0, 2 ** 32],
          l: [-(2 ** 63), 2 ** 63],
          lu: [0, 2 ** 64],
        }[integer]
        // A NaN fails both.
        e.guard(i32.and(f64.ge(rounded, f64.const(low)), f64.lt(rounded, f64.const(high))))
        e.raise(f64.ne(rounded, value))
        switch (integer) {
          case 'w':
            return e.rd(i64.extend_s(i32.trunc_sat_f64_s(rounded)))
          case 'wu':
            return e.rd(i64.extend_s(i32.trunc_sat_f64_u(rounded)))
          case 'l':
            return e.rd(i64.trunc_sat_f64_s(rounded))
          case 'lu':
            return e.rd(i64.trunc_sat_f64_u(rounded))
        }
      },
      () => {
        const rm = checkedRounding(e)
        e.rd(e.fpu(`fcvt.${integer}.${p.suffix}`, [bits], rm))
      },
    )
  })

/** Integer to float. 32 bits fit a double; otherwise it may round. */
const fromInteger = (integer: IntegerName, p: Precision): RowDraft => {
  const exact = p === D && (integer === 'w' || integer === 'wu')
  const encoding = { opcode: OP_FP, funct7: 0x68 | p.fmt, rs2: INTEGERS.indexOf(integer) }
  return row(exact ? 'xToFpExact' : 'xToFpRounded', encoding, (e) => {
    e.fpEnabled(true)
    e.either(
      () => {
        const rm = e.roundingMode()
        if (exact) {
          e.guard(i32.lt_u(rm, i32.const(DYNAMIC_RESERVED)))
          e.fd(fromF64(integer === 'w' ? f64.convert_i32_s(e.rs1w()) : f64.convert_i32_u(e.rs1w())))
          return
        }
        guardNearest(e)
        const signed = integer === 'w' || integer === 'l'
        const source = integer.startsWith('w') ? (signed ? i64.extend_s(e.rs1w()) : i64.extend_u(e.rs1w())) : e.rs1()
        if (p === S) e.fd(box(fromF32(signed ? f32.convert_i64_s(source) : f32.convert_i64_u(source))))
        else e.fd(fromF64(signed ? f64.convert_i64_s(source) : f64.convert_i64_u(source)))
      },
      () => {
        const rm = checkedRounding(e)
        e.fd(p.boxed(e.fpu(`fcvt.${p.suffix}.${integer}`, [e.rs1()], rm)))
      },
    )
  })
}

const loadFp = (p: Precision): RowDraft =>
  row('fpLoad', { opcode: LOAD_FP, funct3: p === S ? 2 : 3 }, (e) => {
    e.fpEnabled(true)
    e.fd(p === S ? box(e.load('u32', e.address())) : e.load('i64', e.address()))
  })
/** Stores the register as it is: the low half of what is not a boxed single, too. */
const storeFp = (p: Precision): RowDraft =>
  row('fpStore', { opcode: STORE_FP, funct3: p === S ? 2 : 3 }, (e) => {
    e.fpEnabled(false)
    e.store(p.bytes, e.address(), e.fs2())
  })

/** The instructions that both precisions have, apart from conversions between the two. */
const common = (p: Precision): Record<string, RowDraft> => {
  const s = p.suffix
  const rows: Record<string, RowDraft> = {
    [p === S ? 'flw' : 'fld']: loadFp(p),
    [p === S ? 'fsw' : 'fsd']: storeFp(p),
    [`fmadd.${s}`]: fused('fmadd', p),
    [`fmsub.${s}`]: fused('fmsub', p),
    [`fnmsub.${s}`]: fused('fnmsub', p),
    [`fnmadd.${s}`]: fused('fnmadd', p),
    [`fadd.${s}`]: binary(0x00, 'fadd', p, { f32: f32.add, f64: f64.add }),
    [`fsub.${s}`]: binary(0x01, 'fsub', p, { f32: f32.sub, f64: f64.sub }),
    [`fmul.${s}`]: binary(0x02, 'fmul', p, { f32: f32.mul, f64: f64.mul }),
    [`fdiv.${s}`]: binary(0x03, 'fdiv', p, { f32: f32.div, f64: f64.div }),
    [`fsqrt.${s}`]: arithmetic('fpRounded1', { opcode: OP_FP, funct7: 0x2c | p.fmt }, 'fsqrt', 1, p, {
      f32: f32.sqrt,
      f64: f64.sqrt,
    }),
    [`fsgnj.${s}`]: signInjection(0, p, (_, b) => b),
    [`fsgnjn.${s}`]: signInjection(1, p, (_, b) => i64.xor(b, i64.const(-1))),
    [`fsgnjx.${s}`]: signInjection(2, p, i64.xor),
    [`fmin.${s}`]: extremum(0, 'fmin', p),
    [`fmax.${s}`]: extremum(1, 'fmax', p),
    [`feq.${s}`]: compare(2, 'feq', p, f32.eq, f64.eq),
    [`flt.${s}`]: compare(1, 'flt', p, f32.lt, f64.lt),
    [`fle.${s}`]: compare(0, 'fle', p, f32.le, f64.le),
    [`fclass.${s}`]: classify(p),
  }
  for (const integer of INTEGERS) {
    rows[`fcvt.${integer}.${s}`] = toInteger(integer, p)
    rows[`fcvt.${s}.${integer}`] = fromInteger(integer, p)
  }
  return rows
}

export const rv64f: readonly Instruction[] = extension('f', {
  ...common(S),
  'fmv.x.w': row('fpToX', { opcode: OP_FP, funct7: 0x70 }, (e) => {
    e.fpEnabled(false)
    e.rd(i64.extend32(e.fs1()))
  }),
  'fmv.w.x': row('xToFp', { opcode: OP_FP, funct7: 0x78 }, (e) => {
    e.fpEnabled(true)
    e.fd(box(low32(e.rs1())))
  }),
})

export const rv64d: readonly Instruction[] = extension('d', {
  ...common(D),
  'fmv.x.d': row('fpToX', { opcode: OP_FP, funct7: 0x71 }, (e) => {
    e.fpEnabled(false)
    e.rd(e.fs1())
  }),
  'fmv.d.x': row('xToFp', { opcode: OP_FP, funct7: 0x79 }, (e) => {
    e.fpEnabled(true)
    e.fd(e.rs1())
  }),
  'fcvt.s.d': row('fpRounded1', { opcode: OP_FP, funct7: 0x20, rs2: 1 }, (e) => {
    e.fpEnabled(true)
    e.either(
      () => {
        guardNearest(e)
        const bits = e.hold('i64', fromF32(f32.demote(toF64(e.fs1()))))
        e.guard(isPlainResult(S, bits))
        e.fd(box(bits))
      },
      () => {
        const rm = checkedRounding(e)
        e.fd(S.boxed(e.fpu('fcvt.s.d', [e.fs1()], rm)))
      },
    )
  }),
  'fcvt.d.s': row('fpExact1', { opcode: OP_FP, funct7: 0x21, rs2: 0 }, (e) => {
    e.fpEnabled(true)
    const bits = S.raw(e, e.fs1())
    e.either(
      () => {
        e.guard(i32.lt_u(e.roundingMode(), i32.const(DYNAMIC_RESERVED)))
        e.guard(i32.eqz(isNan(S, bits)))
        e.fd(fromF64(f64.promote(toF32(bits))))
      },
      () => {
        const rm = checkedRounding(e)
        e.fd(e.fpu('fcvt.d.s', [bits], rm))
      },
    )
  }),
})

/** A Zfa operation that softfloat does. */
const viaSoftfloat = (
  format: FormatName,
  encoding: Parameters<typeof row>[1],
  base: string,
  arity: 1 | 2,
  p: Precision,
): RowDraft =>
  row(format, encoding, (e) => {
    e.fpEnabled(true)
    const operands = [e.fs1(), e.fs2()].slice(0, arity).map((register) => p.raw(e, register))
    slowOnly(e, () => {
      const rounded = format === 'fpRounded1' ? checkedRounding(e) : noRounding
      const result = e.fpu(name(base, p), operands, rounded)
      if (format === 'fpCompare') e.rd(result)
      else e.fd(p.boxed(result))
    })
  })

/** The immediate is the top half of the constant as a double, or all of it as a single: see formats.ts. */
const loadImmediate = (p: Precision): RowDraft =>
  row(p === S ? 'fliS' : 'fliD', { opcode: OP_FP, funct7: 0x78 | p.fmt, rs2: 1 }, (e) => {
    e.fpEnabled(true)
    e.fd(p === S ? box(low32(e.imm())) : i64.shl(e.imm(), i64.const(32)))
  })

const zfaCommon = (p: Precision): Record<string, RowDraft> => {
  const s = p.suffix
  return {
    [`fli.${s}`]: loadImmediate(p),
    [`fminm.${s}`]: viaSoftfloat('fp', { opcode: OP_FP, funct3: 2, funct7: 0x14 | p.fmt }, 'fminm', 2, p),
    [`fmaxm.${s}`]: viaSoftfloat('fp', { opcode: OP_FP, funct3: 3, funct7: 0x14 | p.fmt }, 'fmaxm', 2, p),
    [`fround.${s}`]: viaSoftfloat('fpRounded1', { opcode: OP_FP, funct7: 0x20 | p.fmt, rs2: 4 }, 'fround', 1, p),
    [`froundnx.${s}`]: viaSoftfloat('fpRounded1', { opcode: OP_FP, funct7: 0x20 | p.fmt, rs2: 5 }, 'froundnx', 1, p),
    [`fleq.${s}`]: viaSoftfloat('fpCompare', { opcode: OP_FP, funct3: 4, funct7: 0x50 | p.fmt }, 'fleq', 2, p),
    [`fltq.${s}`]: viaSoftfloat('fpCompare', { opcode: OP_FP, funct3: 5, funct7: 0x50 | p.fmt }, 'fltq', 2, p),
  }
}

export const zfa: readonly Instruction[] = extension('zfa', {
  ...zfaCommon(S),
  ...zfaCommon(D),
  'fcvtmod.w.d': row('fcvtmod', { opcode: OP_FP, funct3: RTZ, funct7: 0x61, rs2: 8 }, (e) => {
    e.fpEnabled(true)
    slowOnly(e, () => e.rd(e.fpu('fcvtmod.w.d', [e.fs1()], i32.const(RTZ))))
  }),
})
