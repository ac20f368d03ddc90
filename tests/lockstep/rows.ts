/** What the generator knows of an instruction: taken from the table of cpu-riscv, nothing is listed twice. */

export interface Row {
  readonly name: string
  readonly extension: string
  /** How the table writes the operands; see packages/cpu-riscv/src/isa/formats.ts. */
  readonly syntax: string
  readonly match: number
  readonly mask: number
}

export interface CompressedRow {
  readonly name: string
  readonly extension: string
  readonly match: number
  readonly mask: number
  readonly expandsTo: Row
  readonly operands: (insn: number) => { rd?: number; rs1?: number; rs2?: number; imm?: number }
  readonly valid: (insn: number) => boolean
}

export interface RowTable {
  readonly rows: readonly Row[]
  readonly compressed: readonly CompressedRow[]
  /** Is the extension there on the machine that the program is made for? Rows of others are generated, and must trap. */
  readonly has: (extension: string) => boolean
  /** Bits of fflags that do not count after this row. */
  readonly ignoredFlags: (row: string) => number
  /** Release 7.2 reports an atomic access to where nothing is as a load's: those are left out there. */
  readonly atomicsAnywhere: boolean
  /** Release 10.0 reports the bits of an earlier instruction, or none, when one is illegal only in some modes: not compared there. */
  readonly illegalTval: boolean
}

/** Rows that cannot be compared with one release, because it is wrong there. */
export const WRONG_IN_RELEASE: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'qemu-7.2': { ctzw: 'goes on counting past bit 31 when the low half is zero' },
}

/**
 * Rows whose flags one release gets wrong: the instruction after it sets those flags, so that only the results (and the
 * other flags) are compared. Softfloat's own tests check them.
 */
export const FLAGS_WRONG_IN_RELEASE: Readonly<
  Record<string, readonly { readonly row: RegExp; readonly flags: number; readonly reason: string }[]>
> = {
  'qemu-10.0': [
    { row: /^froundnx\./, flags: 1, reason: 'NX stays down when a subnormal number is rounded' },
    { row: /^fround\./, flags: 16, reason: 'NV stays down for a signaling NaN' },
  ],
}

/** Why a row is not generated, or only where it traps. */
export const RESTRICTED_ROWS: Readonly<
  Record<
    string,
    { readonly where: 'never' | 'not in M' | 'in U' | 'not in S, except with TW'; readonly reason: string }
  >
> = {
  mret: { where: 'not in M', reason: 'in M it leaves the block; the driver itself enters every block by mret' },
  wfi: { where: 'not in S, except with TW', reason: 'S cannot make an interrupt pending without being interrupted' },
  sret: { where: 'in U', reason: 'in S it leaves the block; the S handler itself returns by sret' },
}

/** Encodings of extensions that stock QEMU has and our CPU refuses for now, or that cannot be told from valid ones. */
export const NOT_ILLEGAL: readonly { readonly match: number; readonly mask: number; readonly reason: string }[] = [
  { match: 0x0000_4073, mask: 0x0000_707f, reason: 'hypervisor loads and stores' },
  { match: 0x2200_0073, mask: 0xfe00_707f, reason: 'hfence.vvma' },
  { match: 0x6200_0073, mask: 0xfe00_707f, reason: 'hfence.gvma' },
  { match: 0x2600_0073, mask: 0xfe00_707f, reason: 'hinval.vvma' },
  { match: 0x6600_0073, mask: 0xfe00_707f, reason: 'hinval.gvma' },
]

export type Kind = 'load' | 'store' | 'amo' | 'lr' | 'cbo' | 'branch' | 'jal' | 'jalr' | 'csr' | 'csri' | 'plain'

const KINDS: Readonly<Record<string, Kind>> = {
  'd,o(s)': 'load',
  'D,o(s)': 'load',
  't,o(s)': 'store',
  'T,o(s)': 'store',
  'd,t,(s)': 'amo',
  'd,(s)': 'lr',
  '(s)': 'cbo',
  's,t,p': 'branch',
  'd,a': 'jal',
  'd,E,s': 'csr',
  'd,E,Z': 'csri',
}

export const kindOf = (row: Row): Kind => (row.name === 'jalr' ? 'jalr' : (KINDS[row.syntax] ?? 'plain'))
/** Does it write an x register in its rd field? */
export const writesX = (row: Row): boolean => row.syntax.startsWith('d')
/** Does all it does to the floating-point state go to fflags? */
export const raisesFlagsOnly = (row: Row): boolean => /^d,S/.test(row.syntax) && /^f(eq|l[te]q?|cvt)/.test(row.name)
export const hasRoundingMode = (row: Row): boolean => /,[mM]$/.test(row.syntax)
/** Bytes of a memory access. */
export function accessBytes(name: string): number {
  const letter = /^(?:c\.)?(?:f?[ls]([bhwdq])|(?:amo\w+|lr|sc)\.([wd]))/.exec(name)
  return { b: 1, h: 2, w: 4, d: 8, q: 16 }[letter?.[1] ?? letter?.[2] ?? 'd'] ?? 8
}

export function isKnown(table: RowTable, insn: number): boolean {
  const hit = (r: { match: number; mask: number }): boolean => (insn & r.mask) >>> 0 === r.match >>> 0
  if (NOT_ILLEGAL.some(hit)) return true
  if ((insn & 3) !== 3) return table.compressed.some((r) => hit(r) && r.valid(insn))
  return table.rows.some(hit)
}

/** Which format the f registers of a row hold: bases of the half of the register file that usually has it. */
export function floatHalves(name: string): { readonly sources: number; readonly destination: number } {
  const formats = name
    .split('.')
    .slice(1)
    .flatMap((part) => (part === 's' || part === 'w' ? [0] : part === 'd' ? [16] : []))
  const plain = /^(?:c\.)?f[ls][wd]/.exec(name)?.[0]
  if (plain) return plain.endsWith('w') ? { sources: 0, destination: 0 } : { sources: 16, destination: 16 }
  return { sources: formats.at(-1) ?? 0, destination: formats[0] ?? 0 }
}
