/** Which CSRs a generated block may touch, and how, so that both sides must agree. */

export type Mode = 'M' | 'S' | 'U'

export interface CsrRule {
  readonly csr: number
  /**
   * none: reads only. any: every source value. A mask: sources are ANDed with it and only the set and clear forms are
   * used, so that other fields stay what the block needs.
   */
  readonly write: 'none' | 'any' | bigint
  /** Writes only where this holds: elsewhere they would take away what the driver stands on. */
  readonly writeIn?: (mode: Mode, delegated: boolean) => boolean
  /** The value depends on time: rd is x0. */
  readonly volatile?: boolean
}

const inM = (mode: Mode): boolean => mode === 'M'
const undelegated = (_: Mode, delegated: boolean): boolean => !delegated
const rule = (csr: number, write: CsrRule['write'], writeIn?: CsrRule['writeIn']): CsrRule => ({ csr, write, writeIn })
const range = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i)

/** SIE SPIE SPP FS SUM MXR */
const SSTATUS = 0x2n | 0x20n | 0x100n | 0x6000n | 0xc0000n
/**
 * The same and MIE, MPIE, TVM, TW, TSR, MPRV and the low bit of MPP (release 7.2 keeps the reserved 2). M alone can write it; a trap puts MPP back, so that the driver does not
 * suffer from MPRV.
 */
const MSTATUS = SSTATUS | 0x70_0088n | 0x2_0800n
/** Without L; without W, since R=0 W=1 is reserved and stock QEMU keeps it; without the two reserved bits, which 7.2 keeps. */
const PMPCFG_UNLOCKED = 0x1d1d_1d1d_1d1d_1d1dn
/** Stock QEMU keeps bit 0 of an xepc until it returns there. */
const EVEN = ~1n
/** Without LCOFIP and local interrupts, which stock QEMU lets software set although nothing ever raises them. */
const STANDARD_INTERRUPTS = 0x1fffn
/** Release 7.2 keeps 64 bits of counter enables. */
const LOW_HALF = 0xffff_ffffn

export const CSR_RULES: readonly CsrRule[] = [
  rule(0x001, 'any'),
  rule(0x002, 'any'),
  rule(0x003, 'any'),
  rule(0x001, 'any'),
  rule(0x002, 'any'),
  rule(0x003, 'any'),
  rule(0x100, SSTATUS),
  rule(0x104, 'any', inM), // sie
  rule(0x105, 'any', undelegated), // stvec
  rule(0x106, LOW_HALF), // scounteren
  rule(0x10a, 0xf1n), // senvcfg
  rule(0x140, 'any', undelegated), // sscratch
  rule(0x141, EVEN), // sepc
  rule(0x142, 'any'), // scause
  rule(0x143, 'any'), // stval
  rule(0x144, 'any', inM), // sip
  rule(0x14d, 'none'), // stimecmp
  rule(0x180, 'any', inM), // satp
  rule(0x300, MSTATUS),
  rule(0x301, 'any'), // misa
  rule(0x302, 'any', inM), // medeleg
  rule(0x303, STANDARD_INTERRUPTS, inM), // mideleg
  rule(0x304, STANDARD_INTERRUPTS, inM), // mie
  rule(0x305, 'none'), // mtvec leads to the driver
  rule(0x306, LOW_HALF), // mcounteren
  rule(0x30a, 0xf1n), // menvcfg
  rule(0x320, 5n), // mcountinhibit: CY and IR, the others depend on how many counters there are
  rule(0x340, 'none'), // mscratch leads to the driver's context
  rule(0x341, EVEN), // mepc
  rule(0x342, 'any'), // mcause
  rule(0x343, 'any'), // mtval
  rule(0x344, STANDARD_INTERRUPTS, inM), // mip
  // mtinst and htinst are left out: stock QEMU transforms the instruction into them, where ours says nothing (0).
  rule(0x34b, 'any'), // mtval2
  ...[0x3a0, 0x3a2].map((csr) => rule(csr, PMPCFG_UNLOCKED, inM)),
  ...[0x3a1, 0x3a3, 0x3a4].map((csr) => rule(csr, 'none')),
  // The block has its own ones here, and 7 allows everything. Release 7.2 does not move a TOR region with its lower end.
  ...range(0x3b0, 8).map((csr) => rule(csr, 'none')),
  ...range(0x3b8, 8).map((csr) => rule(csr, 'any', inM)),
  ...range(0x323, 4).map((csr) => rule(csr, 'none')), // mhpmevent
  ...range(0x7a0, 4).map((csr) => rule(csr, 'none')), // triggers
  rule(0x747, 'none'), // mseccfg
  ...range(0xf11, 5).map((csr) => rule(csr, 'none')),
  ...[0xb00, 0xb02, 0xc00, 0xc01, 0xc02, 0xb03, 0xc03].map((csr) => ({ csr, write: 'none' as const, volatile: true })),
  ...[0x7b0, 0x7c0, 0x5a8, 0x9c0, 0xcc0, 0xfc0, 0x008, 0x009, 0xc20, 0x015].map((csr) => rule(csr, 'none')), // nothing there
]

/**
 * The hypervisor's CSRs exist; what is not written here could lead into VS mode, which is refused. Left out: hgatp (release
 * 7.2 lets S read it under TVM) and hvip (release 10.0 shows SSIP in it).
 */
export const HYPERVISOR_CSR_RULES: readonly CsrRule[] = [
  ...[0x600, 0x605, 0x604, 0x644, 0x60a, 0xe12, 0x200, 0x204, 0x244, 0x280].map((csr) => rule(csr, 'none')),
  rule(0x606, LOW_HALF, inM), // hcounteren
  rule(0x205, ~2n, inM), // vstvec: release 7.2 keeps a reserved mode
  rule(0x241, EVEN, inM), // vsepc
  rule(0x603, 0x444n, inM), // hideleg: release 10.0 has local interrupts, too
  ...[0x602, 0x607, 0x643, 0x240, 0x242, 0x243].map((csr) => rule(csr, 'any', inM)),
]
