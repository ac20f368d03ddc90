/**
 * Where a hart's state lies in guest memory (the shared WebAssembly memory). One table: the generated wasm bakes these
 * offsets in, the worker's TypeScript reads and writes them through typed arrays, and the device thread does the same
 * while the hart is paused. All offsets are bytes from the hart's base, 8-byte aligned; every member is a u64 unless its
 * name ends in 32 (then an i32 in the low half).
 */

const CSR_NAMES = [
  'mstatus',
  'misa',
  'medeleg',
  'mideleg',
  'mie',
  'mip',
  'mtvec',
  'mcounteren',
  'mscratch',
  'mepc',
  'mcause',
  'mtval',
  'menvcfg',
  'mcountinhibit',
  'mseccfg',
  'stvec',
  'scounteren',
  'sscratch',
  'sepc',
  'scause',
  'stval',
  'satp',
  'senvcfg',
  'stimecmp',
  'hstatus',
  'hedeleg',
  'hideleg',
  'hcounteren',
  'htval',
  'htinst',
  'hgatp',
  'hgeie',
  'hgeip',
  'hvip',
  'htimedelta',
  'henvcfg',
  'vstimecmp',
  'vsstatus',
  'vstvec',
  'vsscratch',
  'vsepc',
  'vscause',
  'vstval',
  'vsatp',
  'mtval2',
  'mtinst',
  'tselect',
  'miselect',
  'siselect',
  'vsiselect',
  'mvien',
  'mvip',
  'sie',
  'hvien',
  'hvictl',
] as const

/** i32 words of an interrupt file, see interrupt-file.ts. */
export const INTERRUPT_FILE_WORDS = 32
/** Guests of a hart that can have a file of their own. */
export const MAX_GUEST_FILES = 7
const INTERRUPT_FILES = 2 + MAX_GUEST_FILES

let top = 0
const take = (words: number): number => {
  const at = top
  top += words * 8
  return at
}

export const LAYOUT = {
  /** x0..x31. x0 stays zero: instructions whose rd is x0 are decoded with rd = `sink`. */
  x: take(32),
  sink: take(1),
  /** f0..f31, raw 64 bits, singles NaN-boxed. */
  f: take(32),
  pc: take(1),
  /** Accrued exception flags (5 bits: NX 1, UF 2, OF 4, DZ 8, NV 16) and rounding mode, as in fcsr. */
  fflags32: take(1),
  frm32: take(1),
  /** 0 U, 1 S, 3 M. */
  priv32: take(1),
  /** 1 after a WFI until an enabled interrupt is pending. */
  halted32: take(1),
  /** LR reservation: virtual address (all ones: none) and the value that was loaded. */
  loadRes: take(1),
  loadVal: take(1),
  /** Instructions retired up to the last exit of the interpreter. */
  instret: take(1),
  csr: take(CSR_NAMES.length),
  pmpaddr: take(16),
  /** 16 bytes, one per entry. */
  pmpcfg: take(2),
  /**
   * Counters by number (0 mcycle, 2 minstret). A counter that runs reads `instret - mhpmprev + mhpmcounter`, one that is
   * inhibited reads `mhpmcounter`. Numbers 3 and up never count.
   */
  mhpmcounter: take(32),
  mhpmprev: take(32),
  mhpmevent: take(32),
  /** tdata1[2], tdata2[2], tdata3[2]. */
  tdata: take(6),

  /**
   * Written by any thread, atomically; the interpreter leaves its loop at the next branch, jump or page end when it is not
   * zero. Bits are named in worker/requests.ts.
   */
  request32: take(1),
  /** Interrupt inputs as mip bits, driven by devices (Atomics.or / Atomics.and on the low word). */
  externalIrq32: take(1),
  mtimecmp: take(1),
  /**
   * Not 0: a slow path wants the interpreter to leave its loop with Exit.trap at this instruction. 1: an exception, cause
   * and value below. 2: illegal instruction (the value is found from pc). 3: a CSR instruction that is done except for
   * its rd and pc; trapValue is what rd gets.
   */
  trapPending32: take(1),
  trapCause: take(1),
  trapValue: take(1),

  /** Byte offsets in memory (not from the hart's base) of the TLB banks in force; change with privilege, SUM, MPRV. */
  readTlb32: take(1),
  writeTlb32: take(1),
  fetchTlb32: take(1),
  /** The page that is being executed: virtual address of its start, and where its decoded slots begin. */
  pageVaddr: take(1),
  pageSlots32: take(1),
  /**
   * What an FP instruction has to do about mstatus.FS. 0: FS is Dirty, nothing. 1: FS is Off, it traps as illegal.
   * 2: FS is Initial or Clean: an instruction that writes an f register or the flags ORs 0x6000 into the low word of
   * csr `mstatus` and stores 0 here, then goes on. Written by the CSR code and by such instructions.
   */
  fpOff32: take(1),
  /** Memory offset of the bytes of the page that is being executed (what `pageSlots32` is decoded from). */
  pageMem32: take(1),
  /** The instruction that last ran across the end of a page: its second half does not follow `pageMem32`. */
  straddleInsn32: take(1),

  /** Is the hart's thread in its loop? See worker/requests.ts: HartState. */
  runState32: take(1),
  /** Sequence numbers: the write-TLB flush last asked for, and the one last done. */
  flushWanted32: take(1),
  flushDone32: take(1),
  /** Pages whose decoded code is stale: one bit per 1024-word chunk of the bitmap that follows the TLB banks. */
  staleChunks32: take(1),
  /** Why the hart cannot go on (worker/requests.ts: Fatal), and the pc or number that goes with it. */
  fatal32: take(1),
  fatalValue: take(1),
  /** 1: when interrupts were last looked at, none was both pending and enabled in mie, so that mstatus alone starts none. */
  quiet32: take(1),
  /** Counts for `describe` and tuning. */
  counters: take(40),
  /** Counts regions of compiled code that ended: code that is on the stack must not go on in one. */
  regionsEnded32: take(1),
  /** Slot of the region that was last left because a group of accesses was not in one page, see compiler/access-groups.ts. */
  groupSlot32: take(1),
  /** What made compiled code give up last: a TLB's tag or a request. Nobody reads it; see compiler/region-code.ts. */
  gaveUpAt: take(1),
  /** How often compiled code was left, by compiler/leave.ts: u64 each. */
  leaves: take(16),

  /** One MMIO access at a time, see worker/mailbox.ts: state, op, size, address, value. */
  mailbox: take(8),
  /** 64 bytes each, by interrupt number: priorities at machine, supervisor and guest level. */
  miprio: take(8),
  siprio: take(8),
  hviprio: take(8),
  /** Only where the machine has an IMSIC: the hart's interrupt files. */
  interruptFiles: take((INTERRUPT_FILES * INTERRUPT_FILE_WORDS) / 2),

  /** Answer to a profiler, see worker/sampler.ts: 0 none, else 4 + privilege mode + 8 when halted; and where. */
  sample32: take(1),
  samplePc: take(1),
  sizeBytes: 0,
}
LAYOUT.sizeBytes = Math.ceil(top / 4096) * 4096

export type CsrName = (typeof CSR_NAMES)[number]
/** Offset of a CSR that is stored as a plain word. */
export const csrOffset = (name: CsrName): number => LAYOUT.csr + CSR_NAMES.indexOf(name) * 8
export const CSR_STORAGE: readonly CsrName[] = CSR_NAMES

/** TLB: direct mapped, {tag i64, addend i32, pad}. tag = page's virtual address, or -1n. host = (i32) va + addend. */
export const TLB_ENTRIES = 1024
export const TLB_ENTRY_BYTES = 16
export const TLB_BANK_BYTES = TLB_ENTRIES * TLB_ENTRY_BYTES
/** Banks: what an access is checked as. S_SUM is S-mode with mstatus.SUM set (and MXR changes flush). */
export const MMU_BANK = { U: 0, S: 1, S_SUM: 2, M: 3 } as const
export const MMU_BANKS = 4
/**
 * Fetch TLB: direct mapped, {tag i64, slots i32, mem i32}; tag as above; slots = memory offset of the page's decoded
 * slots, mem = memory offset of its bytes (for pageMem32). One bank each for U, S and M: fetchTlb32 names the one in force.
 */
export const FETCH_TLB_ENTRIES = 1024
export const FETCH_BANK_BYTES = FETCH_TLB_ENTRIES * TLB_ENTRY_BYTES
export const FETCH_BANK = { U: 0, S: 1, M: 2 } as const
export const FETCH_BANKS = 3

/** Decoded instructions: one 16-byte slot per halfword of a page, plus two more that every page ends with. */
export const SLOT_BYTES = 16
export const SLOTS_PER_PAGE = 2048
export const PAGE_SLOT_BYTES = (SLOTS_PER_PAGE + 2) * SLOT_BYTES

/** Compiled regions that one hart can have at a time: slots of its table of functions. Number 0 is not used. */
export const MAX_REGIONS = 2 ** 14

/** One hart's area of guest memory, byte offsets from its base (which is also where LAYOUT counts from). */
const readTlb = LAYOUT.sizeBytes
const writeTlb = readTlb + MMU_BANKS * TLB_BANK_BYTES
const fetchTlb = writeTlb + MMU_BANKS * TLB_BANK_BYTES
const staleCode = fetchTlb + FETCH_BANKS * FETCH_BANK_BYTES
const entryHandlers = staleCode + 2 ** 20 / 8
const guarded = entryHandlers + MAX_REGIONS * 2
const pool = guarded + PAGE_SLOT_BYTES
export const HART_AREA = {
  readTlb,
  writeTlb,
  fetchTlb,
  /** One bit per page of the memory, set by other threads: this hart's decoded code of the page is stale. */
  staleCode,
  /** By region: a u16, the handler of the instruction that it begins with, which its slot no longer says. */
  entryHandlers,
  /** Slots for pages that PMP allows only in part, see mmu/guarded-page.ts. */
  guarded,
  /** Decoded pages, {@link PAGE_SLOT_BYTES} each. */
  pool,
}
export const DEFAULT_POOL_PAGES = 2048
export const hartAreaBytes = (poolPages: number): number => pool + poolPages * PAGE_SLOT_BYTES
