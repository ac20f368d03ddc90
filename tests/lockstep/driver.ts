/**
 * The fixed part of a lockstep image. For every pass and every block it loads all registers from the pools, enters the
 * block by mret, and gets control back by the ecall that ends the block; then it logs every register and goes on. Traps
 * inside a block are logged by the handler of M or (delegated) S mode, and the instruction is skipped.
 */
import { Assembler } from './assembler.ts'
import {
  BLOCK_TABLE,
  CONTEXT,
  DRIVER,
  ENTRY,
  ENVCFG_MASK,
  FLOAT_POOL,
  FRESH_ENTRIES,
  INTEGER_POOL,
  LOG,
  MAX_TRAPS,
  MTIMECMP,
  PAGE_TABLES,
  PASS_STRIDE,
  POOL_VALUES,
  RECORD,
  RECORD_BYTES,
  SANDBOX_PAGES,
  TABLES_PER_MODE,
  TEST_FINISHER,
  WINDOW_WORDS,
} from './layout.ts'

export const CSR = {
  fcsr: 0x003,
  sstatus: 0x100,
  sie: 0x104,
  stvec: 0x105,
  scounteren: 0x106,
  senvcfg: 0x10a,
  sscratch: 0x140,
  sepc: 0x141,
  scause: 0x142,
  stval: 0x143,
  satp: 0x180,
  mstatus: 0x300,
  medeleg: 0x302,
  mideleg: 0x303,
  mie: 0x304,
  mtvec: 0x305,
  mcounteren: 0x306,
  menvcfg: 0x30a,
  mscratch: 0x340,
  mepc: 0x341,
  mcause: 0x342,
  mtval: 0x343,
  mip: 0x344,
  pmpcfg0: 0x3a0,
  pmpcfg2: 0x3a2,
  pmpaddr0: 0x3b0,
  mhartid: 0xf14,
} as const

/** Offsets in CONTEXT, which mscratch and sscratch hold while a block runs. */
const SAVE = 0 // x28, x29, x30
const END = 24
const RECORD_AT = 32
const TRAPS = 40
const HASH = 48
const ENTRY_AT = 56
const PASS = 64

/** To the test finisher: reset. Release 7.2 answers a power-off by leaving on the spot, with its memory. */
export const FINISHER_RESET = 0x7777
const FS_DIRTY = 0x6000
const SUM = 1 << 18

const sandboxTable = (user: number): number => PAGE_TABLES + (user * TABLES_PER_MODE + 4) * 4096

/** Sets x to zero when the cause is an illegal instruction. */
function keepUnlessIllegal(asm: Assembler, cause: number, x: number, scratch: number): void {
  asm.csrr(scratch, cause)
  asm.addi(scratch, scratch, -2)
  asm.sltu(scratch, 0, scratch)
  asm.sub(scratch, 0, scratch)
  asm.and(x, x, scratch)
}

/** The same handler for M and for S: save, log, skip the instruction. */
function trapHandler(asm: Assembler, mode: 'm' | 's', illegalTval: boolean): void {
  const [scratch, epc, cause, tval, status] =
    mode === 'm'
      ? [CSR.mscratch, CSR.mepc, CSR.mcause, CSR.mtval, CSR.mstatus]
      : [CSR.sscratch, CSR.sepc, CSR.scause, CSR.stval, CSR.sstatus]
  const at = (name: string): string => `${mode}.${name}`
  asm.label(at('handler'))
  asm.csrrw(31, scratch, 31)
  for (const [i, x] of [28, 29, 30].entries()) asm.sd(x, SAVE + 8 * i, 31)
  if (mode === 'm') {
    // The only ecall that ends a block is the one at its end.
    asm.csrr(30, epc)
    asm.ld(29, END, 31)
    asm.beq(30, 29, 'finish')
  }
  asm.ld(30, TRAPS, 31)
  asm.addi(29, 30, 1)
  asm.sd(29, TRAPS, 31)
  asm.addi(29, 0, MAX_TRAPS)
  asm.bltu(30, 29, at('record'))
  asm.j(at('hash'))
  asm.label(at('record'))
  asm.slli(30, 30, 5)
  asm.ld(29, RECORD_AT, 31)
  asm.add(30, 30, 29)
  for (const [i, csr] of [cause, epc, tval, status].entries()) {
    asm.csrr(29, csr)
    if (csr === tval && !illegalTval) keepUnlessIllegal(asm, cause, 29, 28)
    asm.sd(29, (RECORD.traps + i) * 8, 30)
  }
  asm.label(at('hash'))
  asm.ld(29, HASH, 31)
  for (const csr of [cause, epc, tval, status]) {
    asm.slli(28, 29, 5)
    asm.add(29, 29, 28)
    asm.csrr(28, csr)
    if (csr === tval && !illegalTval) keepUnlessIllegal(asm, cause, 28, 30)
    asm.add(29, 29, 28)
  }
  asm.sd(29, HASH, 31)
  if (!illegalTval) asm.csrw(tval, 0) // a block may read it
  // An interrupt skips nothing, and is not to come again.
  asm.csrr(30, cause)
  asm.bge(30, 0, at('exception'))
  asm.csrw(mode === 'm' ? CSR.mie : CSR.sie, 0)
  asm.csrr(29, epc)
  asm.j(at('return'))
  asm.label(at('exception'))
  // A fetch that trapped has no instruction to skip: give up on the block.
  asm.addi(28, 0, 2)
  asm.ld(29, END, 31)
  asm.bltu(30, 28, at('return'))
  asm.addi(28, 0, 12)
  asm.beq(30, 28, at('return'))
  if (mode === 's') {
    // Block code may lie in a user page.
    asm.li(28, SUM)
    asm.csrrs(28, CSR.sstatus, 28)
  }
  asm.csrr(29, epc)
  asm.lhu(30, 0, 29)
  if (mode === 's') asm.csrw(CSR.sstatus, 28)
  asm.andi(30, 30, 3)
  asm.addi(29, 29, 2)
  asm.addi(28, 0, 3)
  asm.bne(30, 28, at('return'))
  asm.addi(29, 29, 2)
  asm.label(at('return'))
  asm.csrw(epc, 29)
  for (const [i, x] of [28, 29, 30].entries()) asm.ld(x, SAVE + 8 * i, 31)
  asm.csrrw(31, scratch, 31)
  if (mode === 'm') asm.mret()
  else asm.sret()
}

/**
 * @param illegalTval log xtval of illegal instructions, too
 * @returns machine code for DRIVER
 */
export function driverCode(blocks: number, passes: number, illegalTval: boolean): Uint8Array {
  const asm = new Assembler(DRIVER)
  // Only the first hart works; see runInQemu for why there is another.
  asm.csrr(5, CSR.mhartid)
  asm.beq(5, 0, 'first')
  asm.csrw(CSR.mie, 0)
  asm.label('park')
  asm.wfi()
  asm.j('park')
  asm.label('first')
  // No timer: in stock QEMU it has expired from the start.
  asm.li(5, MTIMECMP)
  asm.li(6, -1)
  asm.sd(6, 0, 5)
  asm.li(5, (1n << 54n) - 1n)
  asm.csrw(CSR.pmpaddr0 + 7, 5)
  asm.li(31, CONTEXT)
  asm.li(5, BLOCK_TABLE)
  asm.sd(5, ENTRY_AT, 31)
  asm.li(5, LOG)
  asm.sd(5, RECORD_AT, 31)
  asm.sd(0, PASS, 31)

  asm.label('launch')
  asm.ld(30, ENTRY_AT, 31)
  // PMP: what the block has before the last entry, which allows everything.
  asm.csrw(CSR.pmpcfg0, 0)
  for (let i = 0; i < 4; i++) {
    asm.ld(29, ENTRY.pmpaddr + 8 * i, 30)
    asm.csrw(CSR.pmpaddr0 + i, 29)
  }
  asm.ld(29, ENTRY.pmpcfg, 30)
  asm.csrw(CSR.pmpcfg0, 29)
  asm.li(28, FRESH_ENTRIES)
  for (const user of [0, 1]) {
    asm.li(27, sandboxTable(user))
    for (let i = 0; i < SANDBOX_PAGES; i++) {
      asm.ld(26, 8 * (user * SANDBOX_PAGES + i), 28)
      asm.sd(26, 8 * i, 27)
    }
  }
  for (const csr of [CSR.pmpcfg2, CSR.mideleg, CSR.mie, CSR.mip]) asm.csrw(csr, 0)
  for (const [csr, offset] of [
    [CSR.satp, ENTRY.satp],
    [CSR.medeleg, ENTRY.medeleg],
    [CSR.mepc, ENTRY.code],
    [CSR.mcounteren, ENTRY.counteren],
    [CSR.scounteren, ENTRY.counteren],
  ] as const) {
    asm.ld(29, offset, 30)
    asm.csrw(csr, 29)
  }
  asm.sfenceVma()
  asm.addi(28, 0, ENVCFG_MASK)
  for (const [csr, offset] of [
    [CSR.menvcfg, ENTRY.menvcfg],
    [CSR.senvcfg, ENTRY.senvcfg],
  ] as const) {
    asm.csrrc(0, csr, 28)
    asm.ld(29, offset, 30)
    asm.csrrs(0, csr, 29)
  }
  asm.ld(29, ENTRY.end, 30)
  asm.sd(29, END, 31)
  asm.sd(0, TRAPS, 31)
  asm.sd(0, HASH, 31)
  asm.csrw(CSR.mscratch, 31)
  asm.csrw(CSR.sscratch, 31)
  asm.j('vectors') // their addresses are known only at the end
  asm.label('vectors.done')
  asm.li(29, FS_DIRTY)
  asm.csrrs(0, CSR.mstatus, 29)
  asm.ld(28, PASS, 31)
  asm.add(29, 30, 28)
  asm.lbu(29, ENTRY.fcsr, 29)
  asm.csrw(CSR.fcsr, 29)
  // x28 = what the pass adds to both pool offsets
  asm.li(29, PASS_STRIDE)
  asm.mul(28, 28, 29)
  asm.li(27, (POOL_VALUES - 1) * 8)
  asm.ld(29, ENTRY.floats, 30)
  asm.add(29, 29, 28)
  asm.and(29, 29, 27)
  asm.li(26, FLOAT_POOL)
  asm.add(29, 29, 26)
  for (let f = 0; f < 32; f++) asm.fld(f, 8 * f, 29)
  asm.ld(29, ENTRY.integers, 30)
  asm.add(29, 29, 28)
  asm.and(29, 29, 27)
  asm.li(26, INTEGER_POOL)
  asm.add(29, 29, 26)
  asm.ld(3, ENTRY.window, 30)
  asm.ld(28, ENTRY.mstatus, 30)
  asm.csrw(CSR.mstatus, 28)
  asm.addi(30, 29, 0)
  for (let x = 1; x < 32; x++) if (x !== 3 && x !== 30) asm.ld(x, 8 * x, 30)
  asm.ld(30, 240, 30)
  asm.mret()

  asm.label('finish')
  asm.csrw(CSR.pmpcfg0, 0) // an access that an entry covers in part fails in M, too
  asm.ld(30, RECORD_AT, 31)
  for (let x = 1; x < 28; x++) asm.sd(x, (RECORD.x + x - 1) * 8, 30)
  for (const [i, x] of [28, 29, 30].entries()) {
    asm.ld(29, SAVE + 8 * i, 31)
    asm.sd(29, (RECORD.x + x - 1) * 8, 30)
  }
  asm.csrr(29, CSR.mscratch)
  asm.sd(29, (RECORD.x + 30) * 8, 30)
  asm.csrr(29, CSR.mstatus)
  asm.sd(29, RECORD.mstatus * 8, 30)
  asm.li(29, FS_DIRTY)
  asm.csrrs(0, CSR.mstatus, 29)
  for (let f = 0; f < 32; f++) asm.fsd(f, (RECORD.f + f) * 8, 30)
  asm.csrr(29, CSR.fcsr)
  asm.sd(29, RECORD.fcsr * 8, 30)
  asm.ld(29, TRAPS, 31)
  asm.sd(29, RECORD.trapCount * 8, 30)
  asm.ld(29, HASH, 31)
  asm.sd(29, RECORD.trapHash * 8, 30)
  asm.ld(28, ENTRY_AT, 31)
  asm.sd(28, RECORD.entry * 8, 30)
  asm.ld(29, ENTRY.window, 28)
  for (let i = 0; i < WINDOW_WORDS; i++) {
    asm.ld(27, 8 * i - 4 * WINDOW_WORDS, 29)
    asm.sd(27, (RECORD.window + i) * 8, 30)
  }
  asm.addi(29, 0, 0)
  for (const user of [0, 1]) {
    asm.li(27, sandboxTable(user))
    for (let i = 0; i < SANDBOX_PAGES; i++) {
      asm.slli(26, 29, 5)
      asm.add(29, 29, 26)
      asm.ld(26, 8 * i, 27)
      asm.add(29, 29, 26)
    }
  }
  asm.sd(29, RECORD.entries * 8, 30)
  asm.li(29, RECORD_BYTES)
  asm.add(30, 30, 29)
  asm.sd(30, RECORD_AT, 31)
  asm.addi(28, 28, ENTRY.bytes)
  asm.sd(28, ENTRY_AT, 31)
  asm.li(29, BLOCK_TABLE + blocks * ENTRY.bytes)
  asm.bne(28, 29, 'again')
  asm.li(28, BLOCK_TABLE)
  asm.sd(28, ENTRY_AT, 31)
  asm.ld(28, PASS, 31)
  asm.addi(28, 28, 1)
  asm.sd(28, PASS, 31)
  asm.addi(29, 0, passes)
  asm.bne(28, 29, 'again')
  asm.li(5, TEST_FINISHER)
  asm.li(6, FINISHER_RESET)
  asm.sw(6, 0, 5)
  asm.label('spin')
  asm.j('spin')
  asm.label('again')
  asm.j('launch')

  for (const mode of ['m', 's'] as const) {
    while (asm.here % 4 !== 0) asm.half(1)
    trapHandler(asm, mode, illegalTval)
  }
  asm.label('vectors')
  for (const [csr, handler] of [
    [0x305, 'm.handler'],
    [CSR.stvec, 's.handler'],
  ] as const) {
    asm.li(29, asm.addressOf(handler))
    asm.csrw(csr, 29)
  }
  asm.j('vectors.done')
  return asm.finish()
}
