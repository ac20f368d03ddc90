import { describe, expect, it } from 'vitest'
import { encode } from './encode-testing.ts'
import { COMPRESSED, decode, INSTRUCTIONS } from './table.ts'

/** Every combination of all operand bits zero, all one, and a pattern; rm kept valid. */
const fillings = [0, 0xffff_ffff, 0x5a5a_5a5a, 0xa5a5_a5a5]

describe('instruction table', () => {
  it.each(INSTRUCTIONS.map((row) => [row.name, row] as const))('%s decodes from its match bits', (name, row) => {
    for (const filling of fillings) {
      const insn = (row.match | (filling & ~row.mask)) >>> 0
      const decoded = decode(insn)
      // Reserved rounding modes are the only operand values that make an instruction illegal.
      if (!decoded) expect([5, 6]).toContain((insn >>> 12) & 7)
      // A more specific row may claim some operands: pause and fence.tso among fence, prefetches among ori.
      else if (!['fence', 'ori'].includes(name)) expect(decoded.row.name).toBe(name)
    }
  })

  it.each(COMPRESSED.map((row) => [row.name, row] as const))(
    '%s expands to an instruction that exists',
    (name, row) => {
      let seen = 0
      for (let insn = 0; insn < 0x10000; insn++) {
        if ((insn & row.mask) !== row.match) continue
        const decoded = decode(insn)
        if (decoded?.compressed?.name !== name) continue
        seen++
        expect(decoded.row.name).toBe(row.expandsTo)
        expect(decoded.bytes).toBe(2)
      }
      expect(seen).toBeGreaterThan(0)
    },
  )

  it('has no two rows that match the same bits with the same mask', () => {
    const keys = INSTRUCTIONS.map((row) => `${row.match}/${row.mask}`)
    expect(new Set(keys).size).toBe(keys.length)
  })

  it('reads immediates with their sign (RV32I, "Immediate Encoding Variants")', () => {
    expect(decode(encode('addi', { rd: 1, rs1: 2, imm: -1 }))?.operands).toMatchObject({ rd: 1, rs1: 2, imm: -1 })
    expect(decode(encode('sd', { rs1: 2, rs2: 3, imm: -8 }))?.operands).toMatchObject({ rs1: 2, rs2: 3, imm: -8 })
    for (const imm of [-4096, -2, 0, 2, 2048, 4094]) expect(decode(encode('bne', { imm }))?.operands.imm).toBe(imm)
    for (const imm of [-(2 ** 20), -2, 2, 2048, 4096, 2 ** 20 - 2]) {
      expect(decode(encode('jal', { imm }))?.operands.imm).toBe(imm)
    }
    expect(decode(encode('lui', { imm: 0x8000_0000 | 0 }))?.operands.imm).toBe(-0x8000_0000)
  })

  it('leaves reserved encodings undecoded', () => {
    const reserved = {
      'all zero': 0x0000,
      'c.addi4spn with immediate 0': 0x0004,
      'c.addiw x0': 0x2001,
      'c.lui with immediate 0': 0x6081,
      'c.addi16sp with immediate 0': 0x6101,
      'c.lwsp x0': 0x4002,
      'c.ldsp x0': 0x6002,
      'c.jr x0': 0x8002,
      'quadrant 0, funct3 100': 0x8000,
      'quadrant 1, funct6 100111 subfunct 10': 0x9c41,
      'all ones': 0xffff_ffff,
      'slliw with shamt 32': (encode('slliw', {}) | (1 << 25)) >>> 0,
      'lr.w with rs2': (encode('lr.w', {}) | (1 << 20)) >>> 0,
      'fadd.d with rm 5': encode('fadd.d', { rm: 5 }),
      'hlv.w': 0x6800_4073,
      'hfence.gvma': 0x6200_0073,
    }
    for (const [what, insn] of Object.entries(reserved)) expect(decode(insn), what).toBeUndefined()
  })

  it('does not decode extensions that the hart does not have', () => {
    const without = (extension: string) => (name: string) => name !== extension
    expect(decode(encode('cbo.zero', { rs1: 1 }), without('zicboz'))).toBeUndefined()
    expect(decode(encode('fround.d', { rm: 0 }), without('zfa'))).toBeUndefined()
    expect(decode(encode('prefetch.r', { rs1: 1 }), without('zicbop'))?.row.name).toBe('ori')
  })
})
