/** One generated block: a few dozen instructions that end in an ecall, with every choice made by the generator's Random. */
import { Assembler } from './assembler.ts'
import type { CsrRule, Mode } from './csrs.ts'
import type { Random } from './random.ts'
import type { CompressedRow, Row, RowTable } from './rows.ts'
import {
  accessBytes,
  floatHalves,
  hasRoundingMode,
  isKnown,
  kindOf,
  RESTRICTED_ROWS,
  raisesFlagsOnly,
  writesX,
} from './rows.ts'
import { integerValue } from './values.ts'

export interface EmittedInsn {
  readonly address: number
  readonly bytes: 2 | 4
  bits: number
  readonly name: string
}

export interface BlockContext {
  readonly mode: Mode
  /** Some exceptions go to the S handler. */
  readonly delegated: boolean
  /** On entry. */
  readonly mstatus: bigint
  /** x3 while the block runs: a place in the sandbox. */
  readonly window: number
  readonly csrs: readonly CsrRule[]
}

const GP = 3
/** mstatus.TW */
const TW = 1n << 21n
const FS = 3n << 13n
const SSTATUS = 0x100
const MSTATUS = 0x300
/** Places that do not answer, and ones where an access wraps or leaves what is mapped. */
const BAD_ADDRESSES: readonly bigint[] = [
  0n,
  8n,
  0x8_0000n,
  0x8800_0000n,
  0x4000_0000_0000n,
  0x7fff_ffff_f000n,
  0x4000_0000_0000_0000n,
  0xffff_ffff_8000_0000n,
  0xffff_ffff_ffff_fff8n,
]

const encodeBranch = (row: Row, rs1: number, rs2: number, o: number): number => {
  const high = (((o >> 12) & 1) << 31) | (((o >> 5) & 0x3f) << 25) | (((o >> 1) & 15) << 8) | (((o >> 11) & 1) << 7)
  return (row.match | high | (rs2 << 20) | (rs1 << 15)) >>> 0
}
const encodeJal = (row: Row, rd: number, o: number): number =>
  (row.match |
    (((o >> 20) & 1) << 31) |
    (((o >> 1) & 0x3ff) << 21) |
    (((o >> 11) & 1) << 20) |
    (o & 0xff000) |
    (rd << 7)) >>>
  0

const bitCount = (n: number): number => n.toString(2).replaceAll('0', '').length

/** All encodings of a compressed row, without those that a row with more fixed bits takes away (c.mv and c.jr). */
const encodings = new WeakMap<CompressedRow, number[]>()
function encodingsOf(row: CompressedRow, all: readonly CompressedRow[]): number[] {
  let list = encodings.get(row)
  if (!list) {
    list = []
    const free = ~row.mask & 0xffff
    const finer = all.filter((other) => bitCount(other.mask) > bitCount(row.mask))
    let bits = 0
    do {
      const insn = row.match | bits
      if (row.valid(insn) && !finer.some((other) => (insn & other.mask) === other.match)) list.push(insn)
      bits = (bits - free) & free // the next subset of the free bits
    } while (bits !== 0)
    encodings.set(row, list)
  }
  return list
}

export class BlockBuilder {
  readonly insns: EmittedInsn[] = []
  readonly start: number
  readonly #random: Random
  readonly #table: RowTable
  readonly #context: BlockContext
  /** x registers that what is emitted now must not write. */
  readonly #held = new Set([GP])
  #here: number
  /** mstatus.FS is known to be Dirty. */
  #dirty: boolean

  constructor(random: Random, table: RowTable, context: BlockContext, start: number) {
    this.#random = random
    this.#table = table
    this.#context = context
    this.start = start
    this.#here = start
    this.#dirty = (context.mstatus & FS) === FS
  }

  get here(): number {
    return this.#here
  }

  emit(bytes: 2 | 4, bits: number, name: string): EmittedInsn {
    const insn: EmittedInsn = { address: this.#here, bytes, bits: bits >>> 0, name }
    this.insns.push(insn)
    this.#here += bytes
    return insn
  }

  /** A register that may be written now. */
  #free(): number {
    for (;;) {
      const x = 1 + this.#random.below(31)
      if (!this.#held.has(x)) return x
    }
  }

  #destination(): number {
    return this.#random.chance(0.06) ? 0 : this.#free()
  }

  #assembled(write: (asm: Assembler) => void): void {
    const asm = new Assembler(this.#here)
    write(asm)
    const bytes = asm.finish()
    const view = new DataView(bytes.buffer)
    for (let at = 0; at < bytes.length; at += 4) this.emit(4, view.getUint32(at, true), '')
  }

  #holding(x: number, body: () => void): void {
    const had = this.#held.has(x)
    this.#held.add(x)
    body()
    if (!had) this.#held.delete(x)
  }

  /** Where an access goes, relative to the window: usually near and aligned. */
  #delta(bytes: number): number {
    const r = this.#random
    const near = r.chance(0.85) ? r.below(128) - 64 : r.below(3000) - 1500
    return r.chance(0.7) ? near & -Math.max(1, bytes) : near
  }

  /** Makes x point so that an access at `x + imm` is an interesting one. */
  #pointer(x: number, imm: number, bytes: number, anywhere = true): void {
    if (this.#random.chance(0.04) && anywhere) {
      const address = BigInt.asUintN(64, this.#random.pick(BAD_ADDRESSES) - BigInt(imm))
      this.#assembled((asm) => asm.li(x, address))
      return
    }
    const offset = this.#delta(bytes) - imm
    if (offset >= -2048 && offset < 2048) this.#assembled((asm) => asm.addi(x, GP, offset))
    else {
      this.#assembled((asm) => {
        asm.li(x, offset)
        asm.add(x, x, GP)
      })
    }
  }

  /** A row with random operands; everything it needs before it. */
  row(row: Row) {
    const r = this.#random
    const { mode } = this.#context
    const restriction = RESTRICTED_ROWS[row.name]
    if (restriction && this.#table.has(row.extension)) {
      if (restriction.where === 'never') return
      if (restriction.where === 'not in M' && mode === 'M') return
      if (restriction.where === 'in U' && mode !== 'U') return
      if (restriction.where === 'not in S, except with TW' && mode === 'S' && !(this.#context.mstatus & TW)) return
    }
    let bits = (row.match | (r.u32() & ~row.mask)) >>> 0
    const setRd = (rd: number): void => {
      bits = ((bits & ~0xf80) | (rd << 7)) >>> 0
    }
    const setRs1 = (rs1: number): void => {
      bits = ((bits & ~0xf8000) | (rs1 << 15)) >>> 0
    }
    if (writesX(row)) setRd(this.#destination())
    if (/[DSTR]/.test(row.syntax)) bits = this.#floatOperands(row, bits)
    if (hasRoundingMode(row)) {
      const rm = r.chance(0.04) ? 5 + r.below(2) : r.chance(0.4) ? 7 : r.below(5)
      bits = ((bits & ~0x7000) | (rm << 12)) >>> 0
    }
    // Stock QEMU does not call FS dirty when such an instruction only raises flags; the specification and ours do. So it
    // is made dirty by something else before.
    if (raisesFlagsOnly(row) && !this.#dirty) this.emit(4, 0x2200_0053, 'fsgnj.d')
    const kind = kindOf(row)
    if (kind === 'load' || kind === 'store') {
      const imm = r.chance(0.5) ? r.below(256) - 128 : r.below(4096) - 2048
      if (kind === 'load') bits = ((bits & 0xfffff) | (imm << 20)) >>> 0
      else bits = ((bits & ~0xfe000f80) | ((imm >> 5) << 25) | ((imm & 31) << 7)) >>> 0
      const base = this.#free()
      this.#pointer(base, imm, accessBytes(row.name))
      setRs1(base)
    } else if (kind === 'amo' || kind === 'cbo') {
      const base = this.#free()
      this.#pointer(base, 0, accessBytes(row.name), kind === 'cbo' || this.#table.atomicsAnywhere)
      setRs1(base)
    } else if (kind === 'lr') return this.#reservation(row, bits)
    else if (kind === 'branch') return this.#branch(row)
    else if (kind === 'jal') {
      const rd = this.#destination()
      const at = this.emit(4, 0, row.name)
      this.#skipped()
      at.bits = encodeJal(row, rd, this.#here - at.address)
      return
    } else if (kind === 'jalr') return this.#jalr(row)
    else if (kind === 'csr' || kind === 'csri') return this.#csr(row, kind === 'csri')
    else if (row.name === 'wfi' && this.#table.has(row.extension) && mode === 'M') {
      // Something must be pending, else it waits for ever, but not taken.
      this.#assembled((asm) => {
        asm.i(0x73, 7, 0, 8, 0x300) // csrrci x0, mstatus, MIE
        asm.i(0x73, 6, 0, 2, 0x304) // csrrsi x0, mie, SSIE
        asm.i(0x73, 6, 0, 2, 0x344) // csrrsi x0, mip, SSIP
      })
    }
    // Release 10.0 gets the page of the pc wrong when one of these traps at the end of a page.
    while (/^w(fi|rs)/.test(row.name) && (this.#here & 0xfff) >= 0xffa) this.emit(2, 1, 'c.nop')
    this.emit(4, bits, row.name)
    const ignored = this.#table.ignoredFlags(row.name)
    if (ignored) this.emit(4, 0x0010_6073 | (ignored << 15), 'csrrsi') // csrrsi x0, fflags, ignored
  }

  /** f registers that usually hold the row's format, and now and then neighbours, whose values are related. */
  #floatOperands(row: Row, insn: number): number {
    const r = this.#random
    const halves = floatHalves(row.name)
    const register = (half: number): number => (r.chance(0.9) ? half + r.below(16) : r.below(32))
    let bits = insn
    const put = (shift: number, x: number): void => {
      bits = ((bits & ~(31 << shift)) | (x << shift)) >>> 0
    }
    const source = register(halves.sources)
    const other = (): number => (r.chance(0.25) ? (source + r.below(3)) & 31 : register(halves.sources))
    if (row.syntax.includes('D')) put(7, register(halves.destination))
    if (row.syntax.includes('S')) put(15, source)
    if (row.syntax.includes('T')) put(20, other())
    if (row.syntax.includes('R')) put(27, other())
    return bits
  }

  compressed(row: CompressedRow) {
    const r = this.#random
    const list = encodingsOf(row, this.#table.compressed)
    const kind = kindOf(row.expandsTo)
    const usable = (insn: number): boolean => {
      const operands = row.operands(insn)
      return !writesX(row.expandsTo) || !this.#held.has(operands.rd ?? 0)
    }
    const random = (): number | undefined => {
      for (let tries = 0; tries < 50; tries++) {
        const insn = r.pick(list)
        if (usable(insn)) return insn
      }
      return undefined
    }
    if (kind === 'branch' || kind === 'jal') {
      const at = this.emit(2, 0, row.name)
      this.#skipped()
      const offset = this.#here - at.address
      const fits = list.filter((insn) => row.operands(insn).imm === offset && usable(insn))
      at.bits = fits.length ? r.pick(fits) : 1 // c.nop: the target is out of reach
      return
    }
    const insn = random()
    if (insn === undefined) return
    const operands = row.operands(insn)
    if (kind === 'jalr') {
      const base = operands.rs1 ?? 0
      if (base === 0 || this.#held.has(base)) return
      return this.#indirect(base, 0, () => this.emit(2, insn, row.name))
    }
    if (kind === 'load' || kind === 'store') {
      const base = operands.rs1 ?? 0
      if (base !== GP) {
        if (base === 0 || this.#held.has(base)) return
        this.#pointer(base, operands.imm ?? 0, accessBytes(row.name))
      } else if (Math.abs(operands.imm ?? 0) > 2000) return
    }
    this.emit(2, insn, row.name)
  }

  /** An encoding that no row has. */
  illegal(): void {
    const r = this.#random
    for (let tries = 0; tries < 100; tries++) {
      const short = r.chance(0.3)
      let bits: number
      if (short) bits = r.chance(0.2) ? 0 : r.u32() & 0xffff
      else {
        bits = r.pick(this.#table.rows).match | (r.u32() & 0x01ff_8f80)
        for (let flips = 1 + r.below(3); flips > 0; flips--)
          bits ^= 1 << (r.chance(0.3) ? 2 + r.below(5) : 12 + r.below(20))
        bits >>>= 0
      }
      if ((bits & 3) === 3 ? short : !short) continue
      if (isKnown(this.#table, bits)) continue
      this.emit(short ? 2 : 4, bits, 'illegal')
      return
    }
  }

  /** Something with one of the table's rows. */
  any(): void {
    const r = this.#random
    const { rows, compressed } = this.#table
    if (r.chance(0.03)) this.illegal()
    else if (r.chance(0.04) && this.#context.mode === 'M') r.chance(0.6) ? this.#rewritten() : this.#interrupted()
    else if (r.chance(0.3)) this.compressed(r.pick(compressed))
    else this.row(r.pick(rows))
  }

  /** A software interrupt, in any order of asking for it and letting it in. */
  #interrupted(): void {
    const r = this.#random
    const steps = [
      { csr: 0x304, bit: 2 }, // mie.SSIE
      { csr: 0x344, bit: 2 }, // mip.SSIP
      { csr: 0x300, bit: 8 }, // mstatus.MIE
    ]
    while (steps.length > 0) {
      const [{ csr, bit }] = steps.splice(r.below(steps.length), 1) as [{ csr: number; bit: number }]
      this.#assembled((asm) => asm.i(0x73, 6, this.#destination(), bit, csr))
      if (r.chance(0.3)) this.#simple()
    }
  }

  /** Writes the next instruction anew: an addi whose immediate comes from a register. */
  #rewritten(): void {
    const r = this.#random
    const [base, value] = [this.#free(), this.#free()]
    const target = this.#free()
    if (base === value) return
    const addi = 0x13 | (target << 7) | (r.below(32) << 15)
    this.#assembled((asm) => {
      asm.slli(value, 1 + r.below(31), 20)
      asm.li(base, addi)
      asm.add(value, value, base)
    })
    const auipc = this.emit(4, 0x17 | (base << 7), '')
    const store = this.emit(4, 0, '')
    if (r.chance(0.3)) this.emit(2, 1, '') // c.nop
    this.emit(4, 0x100f, 'fence.i')
    const offset = this.#here - auipc.address
    store.bits = 0x2023 | (value << 20) | (base << 15) | ((offset & 31) << 7) | ((offset >> 5) << 25)
    this.emit(4, addi, '')
  }

  /** Instructions that a jump passes over, or not. Simple ones, so that reach is no problem. */
  #skipped(): void {
    for (let n = this.#random.below(4); n > 0; n--) this.#simple()
  }

  #simple() {
    const r = this.#random
    for (;;) {
      if (r.chance(0.4)) {
        const row = r.pick(this.#table.compressed)
        if (kindOf(row.expandsTo) === 'plain') return this.compressed(row)
      } else {
        const row = r.pick(this.#table.rows)
        if (kindOf(row) === 'plain' && row.name !== 'wfi') return this.row(row)
      }
    }
  }

  #branch(row: Row) {
    const r = this.#random
    if (r.chance(0.25)) return this.#loop(row)
    const at = this.emit(4, 0, row.name)
    this.#skipped()
    const rs1 = r.below(32)
    at.bits = encodeBranch(row, rs1, r.chance(0.2) ? rs1 : r.below(32), this.#here - at.address)
  }

  /** A few rounds, with the branch under test at the bottom; the count is bounded whatever the branch decides. */
  #loop(row: Row): void {
    const r = this.#random
    const counter = this.#free()
    const rounds = 1 + r.below(3)
    this.#assembled((asm) => asm.addi(counter, 0, rounds))
    const top = this.#here
    this.#holding(counter, () => {
      for (let n = 1 + r.below(3); n > 0; n--) this.#simple()
    })
    this.#assembled((asm) => asm.addi(counter, counter, -1))
    // Leaves when the counter is zero, then asks the branch.
    const out = new Assembler(this.#here)
    out.beq(counter, 0, 'out')
    out.word(0)
    out.label('out')
    this.emit(4, new DataView(out.finish().buffer).getUint32(0, true), '')
    this.emit(4, encodeBranch(row, r.below(32), r.below(32), top - this.#here), row.name)
  }

  #jalr(row: Row): void {
    const r = this.#random
    const base = this.#free()
    const rd = r.chance(0.1) ? base : this.#destination()
    const odd = r.below(2)
    this.#indirect(base, odd, (offset) =>
      this.emit(4, row.match | ((offset & 0xfff) << 20) | (base << 15) | (rd << 7), row.name),
    )
  }

  /** x[base] = where the jump that `jump` emits shall go (or nowhere good), split between register and offset. */
  #indirect(base: number, odd: number, jump: (offset: number) => EmittedInsn): void {
    const r = this.#random
    if (r.chance(0.03)) {
      // Nothing can be fetched there.
      this.#assembled((asm) => asm.li(base, r.pick(BAD_ADDRESSES)))
      jump(0)
      return
    }
    const auipc = this.emit(4, 0x17 | (base << 7), '')
    const adjust = this.emit(4, 0, '')
    const at = jump(0)
    const split = at.bytes === 2 ? 0 : r.below(1024) - 512
    this.#skipped()
    const distance = this.#here - auipc.address
    adjust.bits = (0x13 | (base << 7) | (base << 15) | (((distance - split + odd) & 0xfff) << 20)) >>> 0
    if (at.bytes === 4) at.bits = (at.bits | ((split & 0xfff) << 20)) >>> 0
  }

  /** lr, perhaps something between, then an sc that may or may not succeed. */
  #reservation(row: Row, bits: number): void {
    const r = this.#random
    const stores = this.#table.rows.filter((s) => s.name.startsWith('sc.'))
    const base = this.#free()
    this.#pointer(base, 0, 8, this.#table.atomicsAnywhere)
    this.#holding(base, () => {
      const clear = ((bits >>> 7) & 31) === base ? 0xf8f80 : 0xf8000 // rd must not be the base
      this.emit(4, (bits & ~clear) | (base << 15), row.name)
      if (r.chance(0.2)) this.emit(4, 0x0000_3023 | (r.below(32) << 20) | (base << 15), 'sd')
      else for (let n = r.below(3); n > 0; n--) this.#simple()
      const sc = stores.find((s) => s.name.slice(2) === row.name.slice(2))
      if (!sc || r.chance(0.15)) return
      // Not sc.w after lr.d: stock QEMU then stores and says that it did not.
      const chosen = r.chance(0.85) || row.name === 'lr.d' ? sc : r.pick(stores)
      this.emit(
        4,
        chosen.match | (r.below(4) << 25) | (r.below(32) << 20) | (base << 15) | (this.#destination() << 7),
        chosen.name,
      )
    })
  }

  #csr(row: Row, immediate: boolean) {
    const r = this.#random
    const { mode, delegated, csrs } = this.#context
    const rule = r.chance(0.05) && mode !== 'M' ? { csr: r.below(4096), write: 'none' as const } : r.pick(csrs)
    // Setting or clearing nothing is a write, which makes FS dirty; not so in stock QEMU.
    if (rule.csr <= 3 && !this.#dirty) this.emit(4, 0x2200_0053, 'fsgnj.d')
    if (rule.csr === SSTATUS || rule.csr === MSTATUS) this.#dirty = false
    const writable = rule.write !== 'none' && (rule.writeIn?.(mode, delegated) ?? true)
    const form = (row.match >>> 12) & 3 // 1 write, 2 set, 3 clear
    const volatile = 'volatile' in rule && rule.volatile
    let bits = row.match | (rule.csr << 20)
    const encode = (rd: number, source: number): void => {
      bits = (bits | (rd << 7) | (source << 15)) >>> 0
      this.emit(4, bits, row.name)
    }
    if (!writable) {
      // Only the set and clear forms with source 0 do not write. The write form is left to where it traps: S reaches the
      // hypervisor's CSRs, too.
      const needed = (rule.csr >> 8) & 3
      if (form === 1 && (mode === 'M' || needed === 0 || (mode === 'S' && needed < 3))) return
      return encode(volatile ? 0 : this.#destination(), form === 1 ? r.below(32) : 0)
    }
    const rd = this.#destination()
    if (rule.write === 'any') return encode(rd, r.below(32))
    const mask = rule.write as bigint
    if (form === 1) return
    if (immediate) return encode(rd, r.below(32) & Number(mask & 31n))
    const source = this.#free()
    const value = integerValue(r) & mask
    this.#assembled((asm) => asm.li(source, value))
    encode(rd, source)
  }
}
