import { describe, expect, it } from 'vitest'
import { csrOffset, LAYOUT } from '../hart/layout.ts'
import { encode } from '../isa/encode-testing.ts'
import type { Operands } from '../isa/formats.ts'
import { Request } from '../worker/requests.ts'
import { Exit } from './contract.ts'
import { FLAT_BASE, type FlatHart, type FlatOptions } from './interpreter-testing.ts'

const ECALL = encode('ecall')
const MIN = 1n << 63n
const ONES = (1n << 64n) - 1n
const DATA = FLAT_BASE + 0x10_0000

/**
 * What instructions do, as unit tests of whatever runs them.
 * @param create a hart with the engine in question @returns the hart that most cases share
 */
export function instructionCases(create: (options: FlatOptions) => FlatHart): FlatHart {
  /** Most tests share a hart: building one compiles its interpreter. Each uses a page of code of its own. */
  const shared = create({})
  shared.fillTlb()
  let nextPage = FLAT_BASE
  const freshPage = (): number => {
    nextPage += 4096
    return nextPage
  }

  /** Runs instructions followed by ecall. */
  function execute(hart: FlatHart, insns: readonly number[], at = freshPage()): void {
    hart.load(at, [...insns, ECALL])
    expect(hart.run(at)).toBe(Exit.system)
  }
  /** x12 = name(x10, x11). */
  function binary(name: string, a: bigint, b: bigint, operands: Partial<Operands> = {}): bigint {
    shared.setX(10, a)
    shared.setX(11, b)
    execute(shared, [encode(name, { rd: 12, rs1: 10, rs2: 11, ...operands })])
    return shared.x(12)
  }

  describe('integer instructions', () => {
    it.each([
      ['add', ONES, 1n, 0n],
      ['sub', 0n, 1n, ONES],
      ['addw', 0x7fff_ffffn, 1n, 0xffff_ffff_8000_0000n],
      ['subw', 0x1_0000_0000n, 1n, ONES],
      ['sll', 1n, 127n, MIN],
      ['sllw', 1n, 63n, 0xffff_ffff_8000_0000n],
      ['srl', ONES, 63n, 1n],
      ['sra', MIN, 63n, ONES],
      ['sraw', 0x8000_0000n, 31n, ONES],
      ['srlw', 0xffff_ffff_8000_0000n, 31n, 1n],
      ['slt', ONES, 0n, 1n],
      ['sltu', ONES, 0n, 0n],
      // "M", table of division by zero and overflow.
      ['div', 7n, 0n, ONES],
      ['div', MIN, ONES, MIN],
      ['div', ONES - 6n, 2n, ONES - 2n],
      ['divu', 7n, 0n, ONES],
      ['rem', 7n, 0n, 7n],
      ['rem', MIN, ONES, 0n],
      ['rem', ONES - 6n, 2n, ONES],
      ['remu', 7n, 0n, 7n],
      ['divw', 0x8000_0000n, ONES, 0xffff_ffff_8000_0000n],
      ['divuw', 5n, 0x1_0000_0000n, ONES],
      ['remw', 0x8000_0000n, ONES, 0n],
      ['remuw', 0xffff_ffffn, 0n, ONES],
      ['mulh', ONES, ONES, 0n],
      ['mulh', MIN, MIN, 1n << 62n],
      ['mulhu', ONES, ONES, ONES - 1n],
      ['mulhsu', ONES, ONES, ONES],
      ['mulw', 0x8000_0001n, 3n, 0xffff_ffff_8000_0003n],
      ['add.uw', 0xffff_ffff_ffff_ffffn, 1n, 0x1_0000_0000n],
      ['sh3add', 2n, 5n, 21n],
      ['andn', 0b1100n, 0b1010n, 0b0100n],
      ['xnor', 0n, 0n, ONES],
      ['min', ONES, 1n, ONES],
      ['minu', ONES, 1n, 1n],
      ['maxu', ONES, 1n, ONES],
      ['rol', MIN, 1n, 1n],
      ['rorw', 1n, 1n, 0xffff_ffff_8000_0000n],
      ['clmul', 0b101n, 0b11n, 0b1111n],
      ['clmulh', MIN, 2n, 1n],
      ['clmulr', MIN, 1n, 1n],
      ['bext', 0b100n, 66n, 1n],
      ['binv', 1n, 0n, 0n],
    ] as const)('%s %x, %x', (name, a, b, result) => expect(binary(name, a, b)).toBe(result))

    it.each([
      ['clz', 1n, 63n],
      ['clz', 0n, 64n],
      ['ctzw', 0n, 32n],
      ['cpop', ONES, 64n],
      ['sext.b', 0x80n, ONES - 0x7fn],
      ['zext.h', ONES, 0xffffn],
      ['orc.b', 0x0001_0000_8000_0200n, 0x00ff_0000_ff00_ff00n],
      ['rev8', 0x0102_0304_0506_0708n, 0x0807_0605_0403_0201n],
    ] as const)('%s %x', (name, a, result) => expect(binary(name, a, 0n)).toBe(result))

    it('writes to x0 go nowhere', () => {
      shared.setX(10, 5n)
      execute(shared, [encode('addi', { rd: 0, rs1: 10, imm: 1 }), encode('addi', { rd: 12, rs1: 0, imm: 0 })])
      expect(shared.x(0)).toBe(0n)
      expect(shared.x(12)).toBe(0n)
    })
    it('auipc and lui extend their sign', () => {
      const at = freshPage()
      execute(shared, [encode('lui', { rd: 10, imm: 0x8000_0000 | 0 }), encode('auipc', { rd: 11, imm: 0x1000 })], at)
      expect(shared.x(10)).toBe(0xffff_ffff_8000_0000n)
      expect(shared.x(11)).toBe(BigInt(at + 4 + 0x1000))
    })
  })

  describe('control flow', () => {
    it('counts instructions exactly, and leaves at the branch where the budget ends', () => {
      const at = freshPage()
      // x10 counts down: two instructions a round.
      const loop = [encode('addi', { rd: 10, rs1: 10, imm: -1 }), encode('bne', { rs1: 10, rs2: 0, imm: -4 })]
      shared.load(at, [...loop, ECALL])
      shared.setX(10, 100n)
      shared.set(LAYOUT.instret, 0n)
      expect(shared.run(at, 51)).toBe(Exit.poll)
      expect(shared.get(LAYOUT.instret)).toBe(52n)
      expect(shared.pc()).toBe(at)
      expect(shared.run(at)).toBe(Exit.system)
      expect(shared.get(LAYOUT.instret)).toBe(200n)
      expect(shared.pc()).toBe(at + 8)
    })
    it('leaves when request32 is set', () => {
      const at = freshPage()
      shared.load(at, [encode('jal', { rd: 0, imm: 0 })])
      shared.set32(LAYOUT.request32, Request.irq)
      shared.set(LAYOUT.instret, 0n)
      expect(shared.run(at, 1 << 20)).toBe(Exit.poll)
      // At the jump, or before it.
      expect(shared.get(LAYOUT.instret)).toBeLessThanOrEqual(1n)
      shared.set32(LAYOUT.request32, 0)
    })
    it('jalr ignores bit 0, links, and may have rd = rs1', () => {
      const at = freshPage()
      shared.load(at, [encode('jalr', { rd: 5, rs1: 5, imm: 1 }), 0, 0, encode('ecall')])
      shared.setX(5, BigInt(at + 8))
      expect(shared.run(at)).toBe(Exit.system)
      expect(shared.pc()).toBe(at + 8)
      expect(shared.x(5)).toBe(BigInt(at + 4))
    })
    it('branches and jumps leave the page in both directions and come back', () => {
      const first = freshPage()
      const second = freshPage()
      shared.load(first + 0xff8, [encode('jal', { rd: 1, imm: 0x20 }), ECALL])
      shared.load(second + 0x18, [encode('beq', { imm: -0x1c })])
      expect(shared.run(first + 0xff8)).toBe(Exit.system)
      expect(shared.pc()).toBe(first + 0xffc)
      expect(shared.x(1)).toBe(BigInt(first + 0xffc))
    })
    it('runs on into the next page, also across an instruction that straddles', () => {
      const first = freshPage()
      freshPage()
      shared.setX(10, 0n)
      const increment = encode('addi', { rd: 10, rs1: 10, imm: 1 })
      shared.load(first + 0xff8, [increment, increment, increment, ECALL])
      expect(shared.run(first + 0xff8)).toBe(Exit.system)
      expect(shared.x(10)).toBe(3n)
      const at = freshPage()
      freshPage()
      shared.load(at + 0xffa, [increment, increment, increment, ECALL])
      expect(shared.run(at + 0xffa)).toBe(Exit.system)
      expect(shared.x(10)).toBe(6n)
      expect(shared.pc()).toBe(at + 0x1006)
      // Both of its halves are read again each time.
      shared.load(at + 0xffe, [encode('addi', { rd: 10, rs1: 10, imm: 5 })])
      expect(shared.run(at + 0xffe)).toBe(Exit.system)
      expect(shared.x(10)).toBe(6n + 5n + 1n)
    })
    it('a fetch that traps leaves with pc at the target', () => {
      const at = freshPage()
      shared.load(at, [encode('jalr', { rd: 0, rs1: 5 })])
      shared.setX(5, 0x1234n)
      expect(shared.run(at)).toBe(Exit.trap)
      expect(shared.pc()).toBe(0x1234)
      shared.set32(LAYOUT.trapPending32, 0)
    })
    it.each([
      ['ecall', encode('ecall'), 0x73],
      ['c.ebreak', 0x9002, 0x9002],
      ['mret', encode('mret'), 0x3020_0073],
      ['sfence.vma', encode('sfence.vma', { rs1: 1, rs2: 2 }), 0x1220_8073],
      ['fence.i', encode('fence.i'), 0x100f],
      ['an illegal instruction', 0xffff_ffff, -1],
      ['an illegal 16-bit instruction', 0x0000, 0],
    ])('%s leaves with its bits', (_, insn, bits) => {
      const at = freshPage()
      shared.load(at, [encode('addi', { rd: 0 }), insn])
      expect(shared.run(at)).toBe(Exit.system)
      expect(shared.pc()).toBe(at + 4)
      expect(shared.interpreter.exports.exitInsn.value).toBe(bits)
    })
    it('runs code that was overwritten once its slots are cleared', () => {
      const hart = create({})
      const at = FLAT_BASE
      hart.load(at, [encode('addi', { rd: 10, imm: 1 }), encode('sw', { rs1: 5, rs2: 6 }), encode('jal', { imm: -8 })])
      hart.setX(5, BigInt(at + 8))
      hart.setX(6, BigInt(ECALL))
      expect(hart.run(at)).toBe(Exit.system)
      expect(hart.pc()).toBe(at + 8)
      expect(hart.calls).toEqual([{ name: 'store', operands: [BigInt(at + 8), BigInt(ECALL), 4] }])
    })
  })

  describe('memory', () => {
    it.each([
      ['lb', 0xffff_ffff_ffff_ff88n],
      ['lbu', 0x88n],
      ['lh', 0xffff_ffff_ffff_9988n],
      ['lhu', 0x9988n],
      ['lw', 0xffff_ffff_bbaa_9988n],
      ['lwu', 0xbbaa_9988n],
      ['ld', 0xffee_ddcc_bbaa_9988n],
    ] as const)('%s reads through the TLB and through the slow path alike', (name, value) => {
      const slow = shared.calls.length
      shared.view.setBigUint64(DATA, 0xffee_ddcc_bbaa_9988n, true)
      shared.setX(10, BigInt(DATA + 16))
      execute(shared, [encode(name, { rd: 12, rs1: 10, imm: -16 })])
      expect(shared.x(12)).toBe(value)
      expect(shared.calls.length).toBe(slow)
      // Misaligned: never in the TLB.
      shared.view.setBigUint64(DATA + 33, 0xffee_ddcc_bbaa_9988n, true)
      execute(shared, [encode(name, { rd: 12, rs1: 10, imm: 17 })])
      expect(shared.x(12)).toBe(value)
      expect(shared.calls.length).toBe(slow + (name.startsWith('lb') ? 0 : 1))
    })
    it('stores the low bytes and nothing else', () => {
      for (const [name, result] of [
        ['sb', 0x1111_1111_1111_1188n],
        ['sh', 0x1111_1111_1111_9988n],
      ] as const) {
        shared.view.setBigUint64(DATA, 0x1111_1111_1111_1111n, true)
        shared.setX(10, BigInt(DATA))
        shared.setX(11, 0xffee_ddcc_bbaa_9988n)
        execute(shared, [encode(name, { rs1: 10, rs2: 11 })])
        expect(shared.view.getBigUint64(DATA, true)).toBe(result)
      }
    })
    it('a load that traps changes nothing and names its pc; instret stops before it', () => {
      const hart = create({})
      hart.faults.add(0x99n)
      hart.load(FLAT_BASE, [encode('addi', { rd: 10, imm: 0x99 }), encode('ld', { rd: 10, rs1: 10 })])
      expect(hart.run(FLAT_BASE)).toBe(Exit.trap)
      expect(hart.x(10)).toBe(0x99n)
      expect(hart.pc()).toBe(FLAT_BASE + 4)
      expect(hart.get(LAYOUT.instret)).toBe(1n)
    })
  })

  describe('atomics', () => {
    it.each([
      ['amoadd.w', 0x7fff_ffffn, 1n, 0x7fff_ffffn, 0x8000_0000n],
      ['amoswap.w', 0x8000_0000n, 5n, 0xffff_ffff_8000_0000n, 5n],
      ['amomin.w', 0xffff_ffffn, 1n, ONES, 0xffff_ffffn],
      ['amomaxu.w', 0xffff_ffffn, 1n, ONES, 0xffff_ffffn],
      ['amoxor.d', 0xf0n, 0xffn, 0xf0n, 0x0fn],
      ['amomax.d', ONES, 1n, ONES, 1n],
      ['amominu.d', ONES, 1n, ONES, 1n],
    ] as const)('%s', (name, memory, source, old, stored) => {
      shared.view.setBigUint64(DATA, memory, true)
      expect(binary(name, BigInt(DATA), source)).toBe(old)
      expect(shared.view.getBigUint64(DATA, true)).toBe(stored)
    })
    it('sc succeeds once after lr, and fails when the value has changed or without a reservation', () => {
      const lr = encode('lr.w', { rd: 12, rs1: 10 })
      const sc = encode('sc.w', { rd: 13, rs1: 10, rs2: 11 })
      const swap = encode('amoswap.w', { rd: 0, rs1: 10, rs2: 14 })
      shared.setX(10, BigInt(DATA))
      shared.setX(11, 7n)
      shared.setX(14, 8n)
      shared.view.setInt32(DATA, -5, true)
      execute(shared, [lr, sc])
      expect([shared.x(12), shared.x(13), shared.view.getInt32(DATA, true)]).toEqual([ONES - 4n, 0n, 7])
      execute(shared, [sc])
      expect([shared.x(13), shared.get(LAYOUT.loadRes)]).toEqual([1n, ONES])
      execute(shared, [lr, swap, sc])
      expect([shared.x(13), shared.view.getInt32(DATA, true)]).toEqual([1n, 8])
    })
    it('a misaligned amo goes to the slow path, which traps', () => {
      const at = freshPage()
      shared.setX(10, BigInt(DATA + 2))
      shared.load(at, [encode('amoadd.w', { rd: 12, rs1: 10, rs2: 11 })])
      expect(shared.run(at)).toBe(Exit.trap)
      expect(shared.calls.at(-1)).toEqual({ name: 'amoAddress', operands: [BigInt(DATA + 2), 4, 1] })
      shared.set32(LAYOUT.trapPending32, 0)
    })
  })

  describe('CSR instructions', () => {
    it('hands over the source, and writes the old value to rd', () => {
      shared.setX(11, 0x55n)
      execute(shared, [
        encode('csrrw', { rd: 12, rs1: 11, imm: 0x340 }),
        encode('csrrci', { rd: 13, rs1: 9, imm: 0xc00 }),
      ])
      expect(shared.calls.slice(-2)).toEqual([
        { name: 'csr', operands: [1, 0x340, 0x55n, 11] },
        { name: 'csr', operands: [7, 0xc00, 9n, 9] },
      ])
      expect([shared.x(12), shared.x(13)]).toEqual([0x123n, 0x123n])
    })
    it('sees instret up to the instruction before it', () => {
      let seen = 0n
      const hart: FlatHart = create({ overrides: { csr: () => (seen = hart.get(LAYOUT.instret)) } })
      hart.load(FLAT_BASE, [encode('addi'), encode('addi'), encode('csrrs', { rd: 1, imm: 0xc02 }), ECALL])
      expect(hart.run(FLAT_BASE)).toBe(Exit.system)
      expect([seen, hart.get(LAYOUT.instret)]).toEqual([2n, 3n])
    })
    it('leaves at the instruction when the import says so', () => {
      const hart: FlatHart = create({
        overrides: {
          csr() {
            hart.set32(LAYOUT.trapPending32, 3)
            return 9n
          },
        },
      })
      hart.load(FLAT_BASE, [encode('csrrs', { rd: 1, imm: 0x180 })])
      expect(hart.run(FLAT_BASE)).toBe(Exit.trap)
      expect([hart.pc(), hart.x(1)]).toEqual([FLAT_BASE, 0n])
    })
  })

  describe('floating point', () => {
    const bits = (value: number): bigint => new BigUint64Array(new Float64Array([value]).buffer)[0]
    const single = (value: number): bigint => BigInt(new Uint32Array(new Float32Array([value]).buffer)[0])
    const BOX = 0xffff_ffff_0000_0000n
    const NX = 1
    const NV = 16
    /** f12 = name(f10, f11, f13) or x12. */
    const run = (
      name: string,
      a: bigint,
      b = 0n,
      options: { fflags?: number; rm?: number; frm?: number; c?: bigint } = {},
    ) => {
      shared.setF(10, a)
      shared.setF(11, b)
      shared.setF(13, options.c ?? 0n)
      shared.set32(LAYOUT.fflags32, options.fflags ?? 0)
      shared.set32(LAYOUT.frm32, options.frm ?? 0)
      execute(shared, [encode(name, { rd: 12, rs1: 10, rs2: 11, rs3: 13, rm: options.rm ?? 7 })])
      return { f: shared.f(12), x: shared.x(12), fflags: shared.get32(LAYOUT.fflags32) }
    }

    it.each([0, NX])('arithmetic gives the same with and without the fast path (fflags %i)', (fflags) => {
      expect(run('fadd.d', bits(1), bits(2 ** -60), { fflags })).toMatchObject({ f: bits(1), fflags: NX })
      expect(run('fdiv.d', bits(1), bits(3), { fflags }).f).toBe(bits(1 / 3))
      expect(run('fsqrt.d', bits(2), 0n, { fflags }).f).toBe(bits(Math.sqrt(2)))
      expect(run('fmul.d', bits(3), bits(5), { fflags })).toMatchObject({ f: bits(15), fflags })
      expect(run('fmul.s', BOX | single(0.1), BOX | single(3), { fflags }).f).toBe(
        BOX | single(Math.fround(Math.fround(0.1) * 3)),
      )
      const a = 1 + 2 ** -30
      expect(run('fmadd.d', bits(a), bits(a), { c: bits(-1), fflags }).f).toBe(bits(2 ** -29 + 2 ** -60))
      expect(run('fnmsub.d', bits(a), bits(a), { c: bits(1), fflags }).f).toBe(bits(-(2 ** -29) - 2 ** -60))
      expect(run('fcvt.s.d', bits(0.1), 0n, { fflags })).toMatchObject({ f: BOX | single(0.1), fflags: NX })
    })
    it('abnormal results take the slow path with their flags', () => {
      expect(run('fdiv.d', bits(1), bits(0), { fflags: NX })).toMatchObject({ f: bits(Infinity), fflags: NX | 8 })
      expect(run('fmul.d', bits(2 ** -1000), bits(2 ** -100), { fflags: NX })).toMatchObject({ f: 0n, fflags: NX | 2 })
      expect(run('fadd.d', bits(Infinity), bits(-Infinity), { fflags: NX })).toMatchObject({
        f: 0x7ff8_0000_0000_0000n,
        fflags: NX | NV,
      })
    })
    it('rounds as rm or frm say', () => {
      expect(run('fadd.d', bits(1), bits(2 ** -60), { rm: 3, fflags: NX }).f).toBe(bits(1 + 2 ** -52))
      expect(run('fadd.d', bits(1), bits(2 ** -60), { frm: 3, fflags: NX }).f).toBe(bits(1 + 2 ** -52))
      for (const [rm, result] of [
        [0, 2n],
        [1, 2n],
        [2, 2n],
        [3, 3n],
        [4, 3n],
      ] as const) {
        expect(run('fcvt.w.d', bits(2.5), 0n, { rm }), `rm ${rm}`).toMatchObject({ x: result, fflags: NX })
      }
    })
    it('a reserved frm makes instructions that use it illegal', () => {
      expect(run('fadd.d', bits(1), bits(1), { frm: 5, rm: 0 }).f).toBe(bits(2))
      const at = freshPage()
      shared.load(at, [encode('fadd.d', { rd: 12, rs1: 10, rs2: 11, rm: 7 })])
      expect(shared.run(at)).toBe(Exit.system)
      expect(shared.pc()).toBe(at)
      shared.set32(LAYOUT.frm32, 0)
    })
    it('converts to integers with saturation ("F", table of limits)', () => {
      expect(run('fcvt.w.d', bits(2 ** 31), 0n, { rm: 1 })).toMatchObject({ x: 0x7fff_ffffn, fflags: NV })
      expect(run('fcvt.wu.d', bits(-1), 0n, { rm: 1 })).toMatchObject({ x: 0n, fflags: NV })
      expect(run('fcvt.wu.d', bits(-0.5), 0n, { rm: 1 })).toMatchObject({ x: 0n, fflags: NX })
      expect(run('fcvt.wu.d', bits(2 ** 32 - 1), 0n, { rm: 1 })).toMatchObject({ x: ONES, fflags: 0 })
      expect(run('fcvt.lu.d', bits(NaN), 0n, { rm: 1 })).toMatchObject({ x: ONES, fflags: NV })
      expect(run('fcvt.l.d', bits(-(2 ** 63)), 0n, { rm: 1 })).toMatchObject({ x: MIN, fflags: 0 })
    })
    it('compares, and orders zeros and NaNs as the manual says', () => {
      expect(run('flt.d', bits(1), bits(2))).toMatchObject({ x: 1n, fflags: 0 })
      expect(run('fle.d', bits(NaN), bits(2))).toMatchObject({ x: 0n, fflags: NV })
      expect(run('feq.d', bits(NaN), bits(2))).toMatchObject({ x: 0n, fflags: 0 })
      expect(run('fmin.d', bits(0), bits(-0)).f).toBe(bits(-0))
      expect(run('fmax.d', bits(-0), bits(0)).f).toBe(bits(0))
      expect(run('fmin.d', bits(-2), bits(-1)).f).toBe(bits(-2))
      expect(run('fmax.s', BOX | single(-2), BOX | single(-1)).f).toBe(BOX | single(-1))
      expect(run('fmin.d', bits(NaN), bits(1)).f).toBe(bits(1))
    })
    it('singles that are not NaN-boxed are NaN', () => {
      expect(run('fclass.s', single(1)).x).toBe(1n << 9n)
      expect(run('fsgnj.s', single(1), BOX | single(-1)).f).toBe(BOX | 0xffc0_0000n)
      expect(run('fmv.x.w', single(-1)).x).toBe(0xffff_ffff_0000_0000n | single(-1))
    })
    it('fli loads what the table says', () => {
      execute(shared, [encode('fli.d', { rd: 12, rs1: 0 }), encode('fli.s', { rd: 13, rs1: 29 })])
      expect([shared.f(12), shared.f(13)]).toEqual([bits(-1), BOX | single(65536)])
      execute(shared, [encode('fli.d', { rd: 12, rs1: 1 }), encode('fli.s', { rd: 13, rs1: 31 })])
      expect([shared.f(12), shared.f(13)]).toEqual([bits(2 ** -1022), BOX | 0x7fc0_0000n])
    })
    it('mstatus.FS: off traps, clean becomes dirty, reading leaves it', () => {
      const mstatus = csrOffset('mstatus')
      const at = freshPage()
      shared.set32(LAYOUT.fpOff32, 1)
      shared.load(at, [encode('fmv.d.x', { rd: 1 })])
      expect(shared.run(at)).toBe(Exit.system)
      expect(shared.interpreter.exports.exitInsn.value).toBe(encode('fmv.d.x', { rd: 1 }) | 0)
      shared.set32(LAYOUT.fpOff32, 2)
      shared.set(mstatus, 0x4000n)
      execute(shared, [encode('fmv.x.d', { rd: 1 })])
      expect([shared.get(mstatus), shared.get32(LAYOUT.fpOff32)]).toEqual([0x4000n, 2])
      execute(shared, [encode('fmv.d.x', { rd: 1 })])
      expect([shared.get(mstatus), shared.get32(LAYOUT.fpOff32)]).toEqual([0x6000n, 0])
    })
  })

  return shared
}
