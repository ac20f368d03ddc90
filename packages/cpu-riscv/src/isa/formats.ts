/**
 * Instruction formats: which bits are operands, how operands are read from them and how they are written in assembly.
 *
 * `syntax` uses one letter per operand: d s t rd rs1 rs2 as x registers; D S T R rd rs1 rs2 rs3 as f registers; j signed
 * immediate; o the same as an offset; > shift amount; u upper immediate (bits 31:12); p branch target; a jump target;
 * Z the rs1 field as a number; E CSR; m rounding mode (left out when dynamic); M the same, also left out when it is what
 * assemblers write by default for an exact conversion (rne); P Q fence sets; F value of fli; N the mode rtz,
 * written out. Everything else is literal.
 * Spec: RISC-V Unprivileged ISA, section 2.2 "Base Instruction Formats".
 */

export interface Operands {
  rd: number
  rs1: number
  rs2: number
  rs3: number
  imm: number
  rm: number
}

export interface Format {
  readonly syntax: string
  /** Bits that the operands use. */
  readonly operandBits: number
  readonly imm: (insn: number) => number
  /** aq and rl are bits 26 and 25. */
  readonly ordered?: boolean
}

export const RD = 0x0000_0f80
export const RS1 = 0x000f_8000
export const RS2 = 0x01f0_0000
export const RS3 = 0xf800_0000
export const RM = 0x0000_7000
const IMM12 = 0xfff0_0000

export const immediateI = (insn: number): number => insn >> 20
const immediateS = (insn: number): number => ((insn >> 25) << 5) | ((insn >>> 7) & 0x1f)
const immediateB = (insn: number): number =>
  ((insn >> 31) << 12) | ((insn << 4) & 0x800) | ((insn >>> 20) & 0x7e0) | ((insn >>> 7) & 0x1e)
const immediateU = (insn: number): number => insn & 0xffff_f000
const immediateJ = (insn: number): number =>
  ((insn >> 31) << 20) | (insn & 0xff000) | ((insn >>> 9) & 0x800) | ((insn >>> 20) & 0x7fe)
const none = (): number => 0
const bits20 =
  (width: number) =>
  (insn: number): number =>
    (insn >>> 20) & ((1 << width) - 1)

const format = (syntax: string, operandBits: number, imm: (insn: number) => number = none): Format => ({
  syntax,
  operandBits: operandBits >>> 0,
  imm,
})

/** What fli can load, by its rs1 field. 1 is the smallest normal number. Spec: Zfa, "Load-Immediate Instructions". */
export const LOADABLE: readonly (number | 'min')[] = [
  ...[-1, 'min' as const, 2 ** -16, 2 ** -15, 2 ** -8, 2 ** -7, 0.0625, 0.125, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625],
  ...[0.75, 0.875, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 8, 16, 128, 256, 2 ** 15, 2 ** 16, Infinity, NaN],
]
const scratch = new DataView(new ArrayBuffer(8))
const loadable = (insn: number, set: 'setFloat32' | 'setFloat64'): number => {
  const value = LOADABLE[(insn >>> 15) & 31]
  scratch[set](0, value === 'min' ? (set === 'setFloat32' ? 2 ** -126 : 2 ** -1022) : value)
  return scratch.getInt32(0)
}

export const FORMATS = {
  r: format('d,s,t', RD | RS1 | RS2),
  /** One source. */
  r1: format('d,s', RD | RS1),
  i: format('d,s,j', RD | RS1 | IMM12, immediateI),
  shift64: format('d,s,>', RD | RS1 | 0x03f0_0000, bits20(6)),
  shift32: format('d,s,>', RD | RS1 | 0x01f0_0000, bits20(5)),
  load: format('d,o(s)', RD | RS1 | IMM12, immediateI),
  store: format('t,o(s)', RS1 | RS2 | 0xfe00_0f80, immediateS),
  branch: format('s,t,p', RS1 | RS2 | 0xfe00_0f80, immediateB),
  u: format('d,u', RD | 0xffff_f000, immediateU),
  jal: format('d,a', RD | 0xffff_f000, immediateJ),
  jalr: format('d,o(s)', RD | RS1 | IMM12, immediateI),
  fence: format('P,Q', RD | RS1 | IMM12, immediateI),
  bare: format('', 0),
  fenceVma: format('s,t', RS1 | RS2),
  csr: format('d,E,s', RD | RS1 | IMM12, bits20(12)),
  csri: format('d,E,Z', RD | RS1 | IMM12, bits20(12)),
  cbo: format('(s)', RS1),
  prefetch: format('o(s)', RS1 | 0xfe00_0000, (insn) => (insn & 0xfe00_0000 ? (insn >> 25) << 5 : 0)),
  lr: { ...format('d,(s)', RD | RS1 | 0x0600_0000), ordered: true },
  amo: { ...format('d,t,(s)', RD | RS1 | RS2 | 0x0600_0000), ordered: true },

  fpLoad: format('D,o(s)', RD | RS1 | IMM12, immediateI),
  fpStore: format('T,o(s)', RS1 | RS2 | 0xfe00_0f80, immediateS),
  fpRounded: format('D,S,T,m', RD | RS1 | RS2 | RM),
  fpRounded1: format('D,S,m', RD | RS1 | RM),
  /** Exact conversions: assemblers set rm to rne and leave it out. */
  fpExact1: format('D,S,M', RD | RS1 | RM),
  fpFused: format('D,S,T,R,m', RD | RS1 | RS2 | RS3 | RM),
  fp: format('D,S,T', RD | RS1 | RS2),
  fpCompare: format('d,S,T', RD | RS1 | RS2),
  fpToX: format('d,S', RD | RS1),
  fpToXRounded: format('d,S,m', RD | RS1 | RM),
  xToFp: format('D,s', RD | RS1),
  xToFpRounded: format('D,s,m', RD | RS1 | RM),
  xToFpExact: format('D,s,M', RD | RS1 | RM),
  /** The immediate is the constant itself: all of a binary32, the upper half of a binary64 (the lower one is zero). */
  fliS: format('D,F', RD | RS1, (insn) => loadable(insn, 'setFloat32')),
  fliD: format('D,F', RD | RS1, (insn) => loadable(insn, 'setFloat64')),
  fcvtmod: format('d,S,N', RD | RS1),
} as const satisfies Record<string, Format>

export type FormatName = keyof typeof FORMATS

export const readOperands = (format: Format, insn: number): Operands => ({
  rd: (insn >>> 7) & 31,
  rs1: (insn >>> 15) & 31,
  rs2: (insn >>> 20) & 31,
  rs3: insn >>> 27,
  imm: format.imm(insn),
  rm: (insn >>> 12) & 7,
})

/** Does the format have a rounding-mode field? Values 5 and 6 of it are reserved. */
export const hasRoundingMode = (format: Format): boolean =>
  (format.operandBits & RM) === RM && /[mM]/.test(format.syntax)
/** Is the immediate a distance from pc? */
export const isRelative = (format: Format): boolean => /[pa]/.test(format.syntax)
