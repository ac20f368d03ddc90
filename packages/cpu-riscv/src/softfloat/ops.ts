/**
 * The floating-point operations that the interpreter hands to softfloat (HartImports.fpu): every instruction of F, D and
 * Zfa that rounds or raises flags, named by its mnemonic. One list; the number of an operation is its place in it.
 *
 * Formats, all carried in an unsigned 64-bit integer (a wasm i64; sign does not matter, callee takes `BigInt.asUintN`):
 * - `s`: binary32 in the low 32 bits. The caller has already unboxed operands (a value that was not NaN-boxed arrives as
 *   the canonical NaN 0x7fc00000) and boxes results; high bits of operands are zero, of results ignored.
 * - `d`: binary64.
 * - `w`, `wu`: 32-bit integer; operands: use the low 32 bits only; results: sign-extended from bit 31 (also `wu`), as
 *   the x register holds it. `l`, `lu`: 64-bit integers.
 * - `bool`: 0 or 1. `class`: the 10-bit mask of fclass.
 *
 * `a` is rs1, `b` rs2, `c` rs3; operands that an operation does not have are 0n. rm is 0 RNE, 1 RTZ, 2 RDN, 3 RUP, 4 RMM,
 * resolved (never 7). NaN results are canonical. Tininess is detected after rounding.
 * Spec: RISC-V Unprivileged ISA, chapters "F", "D" and "Zfa".
 */
export type FpuFormat = 's' | 'd' | 'w' | 'wu' | 'l' | 'lu' | 'bool' | 'class'

export interface FpuOp {
  readonly operands: readonly FpuFormat[]
  readonly result: FpuFormat
}

const both = <N extends string>(name: N, arity: 1 | 2 | 3, result?: FpuFormat): Record<`${N}.${'s' | 'd'}`, FpuOp> => {
  const row = (format: 's' | 'd'): FpuOp => ({ operands: Array(arity).fill(format), result: result ?? format })
  return { [`${name}.s`]: row('s'), [`${name}.d`]: row('d') } as Record<`${N}.${'s' | 'd'}`, FpuOp>
}

type Integer = 'w' | 'wu' | 'l' | 'lu'
const toInteger = <I extends Integer>(to: I): Record<`fcvt.${I}.${'s' | 'd'}`, FpuOp> => both(`fcvt.${to}`, 1, to)
const fromInteger = <I extends Integer>(from: I): Record<`fcvt.${'s' | 'd'}.${I}`, FpuOp> =>
  ({
    [`fcvt.s.${from}`]: { operands: [from], result: 's' },
    [`fcvt.d.${from}`]: { operands: [from], result: 'd' },
  }) as unknown as Record<`fcvt.${'s' | 'd'}.${I}`, FpuOp>

/** Operation name -> formats. Order is the numbering: append only. */
export const FPU_OPS = {
  ...both('fadd', 2),
  ...both('fsub', 2),
  ...both('fmul', 2),
  ...both('fdiv', 2),
  ...both('fsqrt', 1),
  /** a * b + c, one rounding; and the three with signs turned: msub a*b-c, nmsub -(a*b)+c, nmadd -(a*b)-c. */
  ...both('fmadd', 3),
  ...both('fmsub', 3),
  ...both('fnmsub', 3),
  ...both('fnmadd', 3),
  ...both('fmin', 2),
  ...both('fmax', 2),
  ...both('fminm', 2),
  ...both('fmaxm', 2),
  ...both('feq', 2, 'bool'),
  ...both('flt', 2, 'bool'),
  ...both('fle', 2, 'bool'),
  ...both('fltq', 2, 'bool'),
  ...both('fleq', 2, 'bool'),
  ...both('fclass', 1, 'class'),
  ...both('fround', 1),
  ...both('froundnx', 1),
  ...toInteger('w'),
  ...toInteger('wu'),
  ...toInteger('l'),
  ...toInteger('lu'),
  ...fromInteger('w'),
  ...fromInteger('wu'),
  ...fromInteger('l'),
  ...fromInteger('lu'),
  'fcvt.s.d': { operands: ['d'], result: 's' },
  'fcvt.d.s': { operands: ['s'], result: 'd' },
  /** Modular conversion of Zfa: always RTZ, low 32 bits of the integer part, sign-extended. */
  'fcvtmod.w.d': { operands: ['d'], result: 'w' },
} as const satisfies Record<string, FpuOp>

export type FpuOpName = keyof typeof FPU_OPS

/** Names by number. */
export const FPU_OP_NAMES = Object.keys(FPU_OPS) as readonly FpuOpName[]

/** The number that the interpreter passes as `op`. */
export const fpuOpNumber = (name: FpuOpName): number => FPU_OP_NAMES.indexOf(name)
