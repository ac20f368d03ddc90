/**
 * Where a lockstep image keeps things. Blocks run in M, S or U mode; the lower modes see everything identity mapped with
 * 2 MiB leaves, the sandbox with 4 KiB ones.
 */
export const RAM_BASE = 0x8000_0000
export const RAM_BYTES = 0x0800_0000
/** Driver, trap handlers and their context; never writable or executable from U. */
export const DRIVER = RAM_BASE
export const CONTEXT = RAM_BASE + 0x10000
/** Generated blocks, two 2 MiB pages. */
export const CODE = RAM_BASE + 0x20_0000
export const CODE_BYTES = 0x40_0000
/** What loads and stores touch. */
export const SANDBOX = RAM_BASE + 0x60_0000
export const SANDBOX_PAGES = 16
export const SANDBOX_BYTES = SANDBOX_PAGES * 4096
export const TABLES = RAM_BASE + 0x80_0000
export const INTEGER_POOL = TABLES
export const FLOAT_POOL = TABLES + 0x3_0000
export const POOL_VALUES = 16384
/** f0 to f15 usually hold singles, f16 to f31 doubles: the float pool alternates by this many, and offsets are multiples. */
export const FLOAT_ALIGN = 8 * 32
/** Values read past a wrapped start. */
export const POOL_SLACK = 64
export const PAGE_TABLES = TABLES + 0x6_0000
/** The entries of the sandbox pages for S and for U, as every block finds them: translation sets bits in the live ones. */
export const FRESH_ENTRIES = PAGE_TABLES + 10 * 4096
/** Tables for S, then for U: roots of Sv57, Sv48, Sv39, 2 MiB leaves, sandbox. */
export const TABLES_PER_MODE = 5
export const BLOCK_TABLE = TABLES + 0x10_0000
export const LOG = RAM_BASE + 0x100_0000
/** Stock QEMU keeps the device tree in the last 2 MiB. */
export const LOG_MAX_BYTES = RAM_BYTES - 0x100_0000 - 0x20_0000
export const TEST_FINISHER = 0x10_0000
/** Of hart 0. Our machine has nothing there that listens. */
export const MTIMECMP = 0x200_4000

/** One entry of the block table; offsets in bytes. */
export const ENTRY = {
  code: 0,
  end: 8,
  mstatus: 16,
  satp: 24,
  medeleg: 32,
  window: 40,
  integers: 48,
  floats: 56,
  /** One byte for each pass. */
  fcsr: 64,
  /** Bits of menvcfg and senvcfg below ENVCFG_MASK. */
  menvcfg: 72,
  senvcfg: 80,
  counteren: 88,
  pmpcfg: 96,
  /** pmpaddr0 to pmpaddr3; pmpaddr7 is everything. */
  pmpaddr: 104,
  bytes: 136,
} as const
/** FIOM, CBIE, CBCFE, CBZE. */
export const ENVCFG_MASK = 0xf1
export const MAX_PASSES = 8
/** How far each pass moves the block's window on the pools. */
export const PASS_STRIDE = FLOAT_ALIGN * 31

export const MAX_TRAPS = 8
export const WINDOW_WORDS = 16
/** One record of the log, in 64-bit words. */
export const RECORD = {
  x: 0, // x1 .. x31
  f: 31,
  fcsr: 63,
  mstatus: 64,
  trapCount: 65,
  /** Over all traps, also those past MAX_TRAPS. */
  trapHash: 66,
  entry: 67,
  /** Of the sandbox's page table entries. */
  entries: 68,
  window: 69,
  /** cause, epc, tval, status each. */
  traps: 69 + WINDOW_WORDS,
  words: 69 + WINDOW_WORDS + 4 * MAX_TRAPS,
} as const
export const RECORD_BYTES = RECORD.words * 8

/** Compared at the end of a run: what stores left behind, and the page tables with the bits that translation set. */
export const COMPARED_MEMORY = [
  { address: SANDBOX, bytes: SANDBOX_BYTES },
  { address: PAGE_TABLES, bytes: 10 * 4096 },
] as const
