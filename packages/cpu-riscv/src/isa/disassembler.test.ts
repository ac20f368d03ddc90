import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { disassemble } from './disassembler.ts'
import { encode } from './encode-testing.ts'
import { COMPRESSED, decode, INSTRUCTIONS } from './table.ts'

const AS = 'riscv64-unknown-elf-as'
const OBJDUMP = 'riscv64-unknown-elf-objdump'
const ARCH = '-march=rv64gc_zba_zbb_zbc_zbs_zicbom_zicboz_zicbop_zawrs_svinval_zifencei_zicsr_zihintpause'
/** Zfa is younger than the binutils that distributions have. */
const UNKNOWN_TO_BINUTILS = 'zfa'

const haveBinutils = spawnSync(OBJDUMP, ['--version']).status === 0
if (!haveBinutils && !process.env.CI) console.log(`${OBJDUMP} is not installed: encodings are not compared with it`)

/** They have names of their own in objdump, for the sake of RV128. */
const isShiftByZero = (text: string): boolean => /^c\.s\w+64\t/.test(text)

const random = (seed: number) => (): number => {
  seed = (Math.imul(seed, 1664525) + 1013904223) | 0
  return ((seed >>> 8) ^ (seed << 11)) >>> 0
}

/** What objdump makes of each instruction; the address of instruction i is 4 * i. */
function objdump(insns: readonly number[]): string[] {
  const folder = mkdtempSync(join(tmpdir(), 'disassembler-'))
  try {
    const lines = insns.map((insn) => ((insn & 3) === 3 ? `.insn 4, ${insn}` : `.insn 2, ${insn}\n.insn 2, 1`))
    writeFileSync(join(folder, 'a.s'), `${lines.join('\n')}\n`)
    const assembled = spawnSync(AS, [ARCH, 'a.s', '-o', 'a.o'], { cwd: folder, encoding: 'utf8' })
    expect(assembled.stderr).toBe('')
    const options = { cwd: folder, encoding: 'utf8', maxBuffer: 1 << 28 } as const
    const { stdout } = spawnSync(OBJDUMP, ['-d', '-M', 'no-aliases,numeric', 'a.o'], options)
    const texts: string[] = []
    for (const line of stdout.split('\n')) {
      const match = /^\s*([0-9a-f]+):\t[0-9a-f ]+\t(.*)$/.exec(line)
      if (match && Number.parseInt(match[1], 16) % 4 === 0) {
        texts[Number.parseInt(match[1], 16) / 4] = match[2]
          .replace(/ <.*$/, '')
          .replace(/\s*#.*$/, '')
          .trim()
      }
    }
    return texts
  } finally {
    rmSync(folder, { recursive: true })
  }
}

describe('disassembler', () => {
  it('writes operands in the order of the assembler', () => {
    const text = (name: string, operands = {}) => disassemble(encode(name, operands), 0x1000n)
    expect(text('addi', { rd: 1, rs1: 2, imm: -5 })).toBe('addi\tx1,x2,-5')
    expect(text('ld', { rd: 1, rs1: 2, imm: 16 })).toBe('ld\tx1,16(x2)')
    expect(text('beq', { rs1: 1, rs2: 2, imm: -16 })).toBe('beq\tx1,x2,ff0')
    expect(text('fmadd.d', { rd: 1, rs1: 2, rs2: 3, rs3: 4, rm: 7 })).toBe('fmadd.d\tf1,f2,f3,f4')
    expect(text('fmadd.d', { rd: 1, rs1: 2, rs2: 3, rs3: 4, rm: 1 })).toBe('fmadd.d\tf1,f2,f3,f4,rtz')
    expect(text('fli.d', { rd: 1, rs1: 16 })).toBe('fli.d\tf1,1.0')
    expect(text('fli.s', { rd: 1, rs1: 1 })).toBe('fli.s\tf1,min')
    expect(text('fcvtmod.w.d', { rd: 1, rs1: 2 })).toBe('fcvtmod.w.d\tx1,f2,rtz')
    expect(text('csrrw', { rd: 1, rs1: 2, imm: 0x300 })).toBe('csrrw\tx1,0x300,x2')
    expect(disassemble(0x4505, 0n)).toBe('c.li\tx10,1')
    expect(disassemble(0, 0n)).toBe('.2byte\t0x0')
    expect(disassemble(0xffff_ffff, 0n)).toBe('.4byte\t0xffffffff')
  })

  it('takes names of CSRs from the caller', () => {
    const csrName = (number: number) => (number === 0x300 ? 'mstatus' : undefined)
    expect(disassemble(encode('csrrs', { rd: 1, imm: 0x300 }), 0n, { csrName })).toBe('csrrs\tx1,mstatus,x0')
    expect(disassemble(encode('csrrsi', { rd: 1, rs1: 3, imm: 0x7c0 }), 0n, { csrName })).toBe('csrrsi\tx1,0x7c0,3')
  })

  it.skipIf(!haveBinutils && !process.env.CI)('agrees with objdump on every row with random operands', () => {
    const next = random(20260)
    const insns: number[] = []
    for (const row of INSTRUCTIONS) {
      if (row.extension === UNKNOWN_TO_BINUTILS) continue
      for (let i = 0; i < 24; i++) insns.push((row.match | (next() & ~row.mask)) >>> 0)
    }
    for (const row of COMPRESSED) for (let i = 0; i < 48; i++) insns.push(row.match | (next() & ~row.mask & 0xffff))
    const comparable = insns.filter((insn) => {
      const decoded = decode(insn)
      if (!decoded) return false
      // objdump only knows the canonical forms of these: reserved fields of a fence are ignored by harts, and conversions
      // that are exact are written with rm zero.
      if (decoded.row.name.startsWith('fence')) return (insn & 0xf00f_8f80) === 0
      return !decoded.row.format.syntax.includes('M') || decoded.operands.rm === 0
    })
    const csrNumber = (text: string): string => text.replace(/^(csrr\w+\tx\d+),(0x[0-9a-f]+|\w+),/, '$1,CSR,')
    const texts = objdump(comparable)
    const differences: string[] = []
    comparable.forEach((insn, index) => {
      const ours = csrNumber(disassemble(insn, BigInt(index * 4)))
      if (ours !== csrNumber(texts[index]) && !isShiftByZero(texts[index]))
        differences.push(`${insn.toString(16)}: ${ours} | ${texts[index]}`)
    })
    expect(differences).toEqual([])
    expect(comparable.length).toBeGreaterThan(4000)
  })

  it.skipIf(!haveBinutils && !process.env.CI)('agrees with objdump on 16-bit instructions', () => {
    const insns: number[] = []
    for (let insn = 0; insn < 0x10000; insn += 3) if ((insn & 3) !== 3 && decode(insn)) insns.push(insn)
    const texts = objdump(insns)
    const differences: string[] = []
    insns.forEach((insn, index) => {
      const ours = disassemble(insn, BigInt(index * 4))
      if (ours !== texts[index] && !isShiftByZero(texts[index])) differences.push(`${ours} | ${texts[index]}`)
    })
    expect(differences).toEqual([])
    expect(insns.length).toBeGreaterThan(12_000)
  })
})
