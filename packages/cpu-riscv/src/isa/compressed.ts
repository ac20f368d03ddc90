/**
 * C on RV64 with D: each 16-bit encoding as the 32-bit instruction it stands for. Encodings left out (and those that
 * `valid` turns down) are reserved and illegal; hints decode as what they expand to, with rd x0.
 * Spec: RISC-V Unprivileged ISA, chapter "C", tables "RVC opcode map" and the instruction listings after it.
 */
import type { Operands } from './formats.ts'
import type { CompressedInstruction } from './row.ts'

/** Bit `from` of the instruction, moved to bit `to`. */
const bit = (insn: number, from: number, to: number): number => ((insn >> from) & 1) << to
const field = (insn: number, from: number, width: number, to = 0): number => ((insn >> from) & ((1 << width) - 1)) << to
const signed = (value: number, width: number): number => (value << (32 - width)) >> (32 - width)

/** Full and three-bit register fields. */
const rd = (insn: number): number => field(insn, 7, 5)
const rs2 = (insn: number): number => field(insn, 2, 5)
const rdShort = (insn: number): number => field(insn, 2, 3) + 8
const rs1Short = (insn: number): number => field(insn, 7, 3) + 8

const imm6 = (insn: number): number => signed(bit(insn, 12, 5) | field(insn, 2, 5), 6)
const shamt = (insn: number): number => bit(insn, 12, 5) | field(insn, 2, 5)
const offsetW = (insn: number): number => field(insn, 10, 3, 3) | bit(insn, 6, 2) | bit(insn, 5, 6)
const offsetD = (insn: number): number => field(insn, 10, 3, 3) | field(insn, 5, 2, 6)
const offsetWsp = (insn: number): number => bit(insn, 12, 5) | field(insn, 4, 3, 2) | field(insn, 2, 2, 6)
const offsetDsp = (insn: number): number => bit(insn, 12, 5) | field(insn, 5, 2, 3) | field(insn, 2, 3, 6)
const offsetWspStore = (insn: number): number => field(insn, 9, 4, 2) | field(insn, 7, 2, 6)
const offsetDspStore = (insn: number): number => field(insn, 10, 3, 3) | field(insn, 7, 3, 6)
const addi4spn = (insn: number): number =>
  field(insn, 11, 2, 4) | field(insn, 7, 4, 6) | bit(insn, 6, 2) | bit(insn, 5, 3)
const addi16sp = (insn: number): number =>
  signed(bit(insn, 12, 9) | bit(insn, 6, 4) | bit(insn, 5, 6) | field(insn, 3, 2, 7) | bit(insn, 2, 5), 10)
const jump = (insn: number): number =>
  signed(
    bit(insn, 12, 11) |
      bit(insn, 11, 4) |
      field(insn, 9, 2, 8) |
      bit(insn, 8, 10) |
      bit(insn, 7, 6) |
      bit(insn, 6, 7) |
      field(insn, 3, 3, 1) |
      bit(insn, 2, 5),
    12,
  )
const branch = (insn: number): number =>
  signed(bit(insn, 12, 8) | field(insn, 10, 2, 3) | field(insn, 5, 2, 6) | field(insn, 3, 2, 1) | bit(insn, 2, 5), 9)

const SP = 2
/** Mask bits: which parts of the 16 are fixed. */
const QUADRANT = 0xe003
const row = (
  name: string,
  match: number,
  mask: number,
  expandsTo: string,
  syntax: string,
  operands: (insn: number) => Partial<Operands>,
  valid?: (insn: number) => boolean,
): CompressedInstruction => ({
  name,
  extension: /^c\.f/.test(name) ? 'd' : 'c',
  match,
  mask,
  expandsTo,
  syntax,
  operands,
  valid,
})

const aluShort = (name: string, match: number, expandsTo: string): CompressedInstruction =>
  row(name, match, 0xfc63, expandsTo, 'd,t', (i) => ({ rd: rs1Short(i), rs1: rs1Short(i), rs2: rdShort(i) }))

const unaryShort = (i: number): Partial<Operands> => ({ rd: rs1Short(i), rs1: rs1Short(i) })

export const compressed: readonly CompressedInstruction[] = [
  row(
    'c.addi4spn',
    0x0000,
    QUADRANT,
    'addi',
    'd,s,j',
    (i) => ({ rd: rdShort(i), rs1: SP, imm: addi4spn(i) }),
    (i) => addi4spn(i) !== 0,
  ),
  row('c.fld', 0x2000, QUADRANT, 'fld', 'D,o(s)', (i) => ({ rd: rdShort(i), rs1: rs1Short(i), imm: offsetD(i) })),
  row('c.lw', 0x4000, QUADRANT, 'lw', 'd,o(s)', (i) => ({ rd: rdShort(i), rs1: rs1Short(i), imm: offsetW(i) })),
  row('c.ld', 0x6000, QUADRANT, 'ld', 'd,o(s)', (i) => ({ rd: rdShort(i), rs1: rs1Short(i), imm: offsetD(i) })),
  row('c.fsd', 0xa000, QUADRANT, 'fsd', 'T,o(s)', (i) => ({ rs2: rdShort(i), rs1: rs1Short(i), imm: offsetD(i) })),
  row('c.sw', 0xc000, QUADRANT, 'sw', 't,o(s)', (i) => ({ rs2: rdShort(i), rs1: rs1Short(i), imm: offsetW(i) })),
  row('c.sd', 0xe000, QUADRANT, 'sd', 't,o(s)', (i) => ({ rs2: rdShort(i), rs1: rs1Short(i), imm: offsetD(i) })),

  /** c.nop is c.addi x0, 0. */
  row('c.addi', 0x0001, QUADRANT, 'addi', 'd,j', (i) => ({ rd: rd(i), rs1: rd(i), imm: imm6(i) })),
  row(
    'c.addiw',
    0x2001,
    QUADRANT,
    'addiw',
    'd,j',
    (i) => ({ rd: rd(i), rs1: rd(i), imm: imm6(i) }),
    (i) => rd(i) !== 0,
  ),
  row('c.li', 0x4001, QUADRANT, 'addi', 'd,j', (i) => ({ rd: rd(i), rs1: 0, imm: imm6(i) })),
  row(
    'c.addi16sp',
    0x6101,
    0xef83,
    'addi',
    'd,j',
    (i) => ({ rd: SP, rs1: SP, imm: addi16sp(i) }),
    (i) => addi16sp(i) !== 0,
  ),
  row(
    'c.lui',
    0x6001,
    QUADRANT,
    'lui',
    'd,u',
    (i) => ({ rd: rd(i), imm: imm6(i) << 12 }),
    (i) => imm6(i) !== 0,
  ),
  row('c.srli', 0x8001, 0xec03, 'srli', 'd,>', (i) => ({ ...unaryShort(i), imm: shamt(i) })),
  row('c.srai', 0x8401, 0xec03, 'srai', 'd,>', (i) => ({ ...unaryShort(i), imm: shamt(i) })),
  row('c.andi', 0x8801, 0xec03, 'andi', 'd,j', (i) => ({ ...unaryShort(i), imm: imm6(i) })),
  aluShort('c.sub', 0x8c01, 'sub'),
  aluShort('c.xor', 0x8c21, 'xor'),
  aluShort('c.or', 0x8c41, 'or'),
  aluShort('c.and', 0x8c61, 'and'),
  aluShort('c.subw', 0x9c01, 'subw'),
  aluShort('c.addw', 0x9c21, 'addw'),
  row('c.j', 0xa001, QUADRANT, 'jal', 'a', (i) => ({ rd: 0, imm: jump(i) })),
  row('c.beqz', 0xc001, QUADRANT, 'beq', 's,p', (i) => ({ rs1: rs1Short(i), rs2: 0, imm: branch(i) })),
  row('c.bnez', 0xe001, QUADRANT, 'bne', 's,p', (i) => ({ rs1: rs1Short(i), rs2: 0, imm: branch(i) })),

  row('c.slli', 0x0002, QUADRANT, 'slli', 'd,>', (i) => ({ rd: rd(i), rs1: rd(i), imm: shamt(i) })),
  row('c.fldsp', 0x2002, QUADRANT, 'fld', 'D,o(s)', (i) => ({ rd: rd(i), rs1: SP, imm: offsetDsp(i) })),
  row(
    'c.lwsp',
    0x4002,
    QUADRANT,
    'lw',
    'd,o(s)',
    (i) => ({ rd: rd(i), rs1: SP, imm: offsetWsp(i) }),
    (i) => rd(i) !== 0,
  ),
  row(
    'c.ldsp',
    0x6002,
    QUADRANT,
    'ld',
    'd,o(s)',
    (i) => ({ rd: rd(i), rs1: SP, imm: offsetDsp(i) }),
    (i) => rd(i) !== 0,
  ),
  row(
    'c.jr',
    0x8002,
    0xf07f,
    'jalr',
    's',
    (i) => ({ rd: 0, rs1: rd(i), imm: 0 }),
    (i) => rd(i) !== 0,
  ),
  row('c.mv', 0x8002, 0xf003, 'add', 'd,t', (i) => ({ rd: rd(i), rs1: 0, rs2: rs2(i) })),
  row('c.ebreak', 0x9002, 0xffff, 'ebreak', '', () => ({})),
  row('c.jalr', 0x9002, 0xf07f, 'jalr', 's', (i) => ({ rd: 1, rs1: rd(i), imm: 0 })),
  row('c.add', 0x9002, 0xf003, 'add', 'd,t', (i) => ({ rd: rd(i), rs1: rd(i), rs2: rs2(i) })),
  row('c.fsdsp', 0xa002, QUADRANT, 'fsd', 'T,o(s)', (i) => ({ rs2: rs2(i), rs1: SP, imm: offsetDspStore(i) })),
  row('c.swsp', 0xc002, QUADRANT, 'sw', 't,o(s)', (i) => ({ rs2: rs2(i), rs1: SP, imm: offsetWspStore(i) })),
  row('c.sdsp', 0xe002, QUADRANT, 'sd', 't,o(s)', (i) => ({ rs2: rs2(i), rs1: SP, imm: offsetDspStore(i) })),
]
