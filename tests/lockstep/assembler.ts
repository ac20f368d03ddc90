/**
 * Just enough of an assembler for the driver program: base instructions, labels, 64-bit constants.
 * Registers are numbers. Spec: RISC-V Unprivileged ISA, chapter "RV32/64G Instruction Set Listings".
 */
export class Assembler {
  readonly base: number
  #bytes: number[] = []
  #labels = new Map<string, number>()
  #fixups: { at: number; label: string; encode: (offset: number) => number }[] = []

  /** @param base address of the first byte */
  constructor(base: number) {
    this.base = base
  }

  get here(): number {
    return this.base + this.#bytes.length
  }

  word(insn: number): void {
    this.#bytes.push(insn & 0xff, (insn >>> 8) & 0xff, (insn >>> 16) & 0xff, insn >>> 24)
  }

  half(insn: number): void {
    this.#bytes.push(insn & 0xff, (insn >>> 8) & 0xff)
  }

  label(name: string): void {
    this.#labels.set(name, this.here)
  }

  addressOf(label: string): number {
    const at = this.#labels.get(label)
    if (at === undefined) throw new Error(`no label ${label}`)
    return at
  }

  #relative(label: string, encode: (offset: number) => number): void {
    this.#fixups.push({ at: this.here, label, encode })
    this.word(0)
  }

  r(opcode: number, funct3: number, funct7: number, rd: number, rs1: number, rs2: number): void {
    this.word((funct7 << 25) | (rs2 << 20) | (rs1 << 15) | (funct3 << 12) | (rd << 7) | opcode)
  }
  i(opcode: number, funct3: number, rd: number, rs1: number, imm: number): void {
    this.word((imm << 20) | (rs1 << 15) | (funct3 << 12) | (rd << 7) | opcode)
  }
  s(opcode: number, funct3: number, rs1: number, rs2: number, imm: number): void {
    this.word(((imm >> 5) << 25) | (rs2 << 20) | (rs1 << 15) | (funct3 << 12) | ((imm & 31) << 7) | opcode)
  }

  addi = (rd: number, rs1: number, imm: number): void => this.i(0x13, 0, rd, rs1, imm)
  andi = (rd: number, rs1: number, imm: number): void => this.i(0x13, 7, rd, rs1, imm)
  slli = (rd: number, rs1: number, shift: number): void => this.i(0x13, 1, rd, rs1, shift)
  srli = (rd: number, rs1: number, shift: number): void => this.i(0x13, 5, rd, rs1, shift)
  add = (rd: number, rs1: number, rs2: number): void => this.r(0x33, 0, 0, rd, rs1, rs2)
  and = (rd: number, rs1: number, rs2: number): void => this.r(0x33, 7, 0, rd, rs1, rs2)
  sub = (rd: number, rs1: number, rs2: number): void => this.r(0x33, 0, 0x20, rd, rs1, rs2)
  sltu = (rd: number, rs1: number, rs2: number): void => this.r(0x33, 3, 0, rd, rs1, rs2)
  mul = (rd: number, rs1: number, rs2: number): void => this.r(0x33, 0, 1, rd, rs1, rs2)
  ld = (rd: number, imm: number, rs1: number): void => this.i(0x03, 3, rd, rs1, imm)
  lbu = (rd: number, imm: number, rs1: number): void => this.i(0x03, 4, rd, rs1, imm)
  lhu = (rd: number, imm: number, rs1: number): void => this.i(0x03, 5, rd, rs1, imm)
  lwu = (rd: number, imm: number, rs1: number): void => this.i(0x03, 6, rd, rs1, imm)
  sw = (rs2: number, imm: number, rs1: number): void => this.s(0x23, 2, rs1, rs2, imm)
  sd = (rs2: number, imm: number, rs1: number): void => this.s(0x23, 3, rs1, rs2, imm)
  fld = (rd: number, imm: number, rs1: number): void => this.i(0x07, 3, rd, rs1, imm)
  fsd = (rs2: number, imm: number, rs1: number): void => this.s(0x27, 3, rs1, rs2, imm)
  csrw = (csr: number, rs1: number): void => this.i(0x73, 1, 0, rs1, csr)
  csrrw = (rd: number, csr: number, rs1: number): void => this.i(0x73, 1, rd, rs1, csr)
  csrrs = (rd: number, csr: number, rs1: number): void => this.i(0x73, 2, rd, rs1, csr)
  csrrc = (rd: number, csr: number, rs1: number): void => this.i(0x73, 3, rd, rs1, csr)
  csrr = (rd: number, csr: number): void => this.csrrs(rd, csr, 0)
  ecall = (): void => this.word(0x73)
  mret = (): void => this.word(0x30200073)
  wfi = (): void => this.word(0x10500073)
  sret = (): void => this.word(0x10200073)
  sfenceVma = (): void => this.word(0x12000073)

  branch(funct3: number, rs1: number, rs2: number, label: string): void {
    this.#relative(label, (o) => {
      const high = (((o >> 12) & 1) << 31) | (((o >> 5) & 0x3f) << 25)
      return high | (rs2 << 20) | (rs1 << 15) | (funct3 << 12) | (((o >> 1) & 15) << 8) | (((o >> 11) & 1) << 7) | 0x63
    })
  }
  beq = (rs1: number, rs2: number, label: string): void => this.branch(0, rs1, rs2, label)
  bne = (rs1: number, rs2: number, label: string): void => this.branch(1, rs1, rs2, label)
  bge = (rs1: number, rs2: number, label: string): void => this.branch(5, rs1, rs2, label)
  bltu = (rs1: number, rs2: number, label: string): void => this.branch(6, rs1, rs2, label)
  j(label: string): void {
    this.#relative(label, (o) => {
      return (((o >> 20) & 1) << 31) | (((o >> 1) & 0x3ff) << 21) | (((o >> 11) & 1) << 20) | (o & 0xff000) | 0x6f
    })
  }

  /** Any 64-bit constant, without a scratch register. */
  li(rd: number, value: number | bigint) {
    const v = BigInt.asIntN(64, BigInt(value))
    if (v >= -2048n && v < 2048n) return this.addi(rd, 0, Number(v))
    if (v >= -0x8000_0000n && v < 0x7fff_f800n) {
      const n = Number(v)
      this.word((((n + 0x800) & ~0xfff) | (rd << 7) | 0x37) >>> 0)
      if (n & 0xfff) this.i(0x1b, 0, rd, rd, n & 0xfff) // addiw
      return
    }
    const low = BigInt.asIntN(12, v)
    let rest = (v - low) >> 12n
    let shift = 12
    while ((rest & 1n) === 0n && rest !== 0n && shift < 63) {
      rest >>= 1n
      shift++
    }
    this.li(rd, rest)
    this.slli(rd, rd, shift)
    if (low !== 0n) this.addi(rd, rd, Number(low))
  }

  /** @throws Error a label is missing or a target is out of reach */
  finish(): Uint8Array {
    const bytes = Uint8Array.from(this.#bytes)
    const view = new DataView(bytes.buffer)
    for (const { at, label, encode } of this.#fixups) {
      const offset = this.addressOf(label) - at
      const insn = encode(offset)
      if ((insn & 0x7f) === 0x63 && (offset < -4096 || offset > 4094)) throw new Error(`branch to ${label}: ${offset}`)
      view.setUint32(at - this.base, insn >>> 0, true)
    }
    return bytes
  }
}
