import { type CsrName, csrOffset, LAYOUT } from './layout.ts'

/** Word indices (Int32Array) and double word indices (BigUint64Array) of what the TypeScript side touches by itself. */
const w = (bytes: number): number => bytes >> 2
export const WORD = {
  x: w(LAYOUT.x),
  pc: w(LAYOUT.pc),
  instret: w(LAYOUT.instret),
  fflags: w(LAYOUT.fflags32),
  frm: w(LAYOUT.frm32),
  priv: w(LAYOUT.priv32),
  halted: w(LAYOUT.halted32),
  loadRes: w(LAYOUT.loadRes),
  request: w(LAYOUT.request32),
  externalIrq: w(LAYOUT.externalIrq32),
  trapPending: w(LAYOUT.trapPending32),
  trapCause: w(LAYOUT.trapCause),
  trapValue: w(LAYOUT.trapValue),
  readTlb: w(LAYOUT.readTlb32),
  writeTlb: w(LAYOUT.writeTlb32),
  fetchTlb: w(LAYOUT.fetchTlb32),
  pageVaddr: w(LAYOUT.pageVaddr),
  pageSlots: w(LAYOUT.pageSlots32),
  pageMem: w(LAYOUT.pageMem32),
  fpOff: w(LAYOUT.fpOff32),
  runState: w(LAYOUT.runState32),
  flushWanted: w(LAYOUT.flushWanted32),
  flushDone: w(LAYOUT.flushDone32),
  staleChunks: w(LAYOUT.staleChunks32),
  quiet: w(LAYOUT.quiet32),
  regionsEnded: w(LAYOUT.regionsEnded32),
  groupSlot: w(LAYOUT.groupSlot32),
  fatal: w(LAYOUT.fatal32),
  fatalValue: w(LAYOUT.fatalValue),
  mailbox: w(LAYOUT.mailbox),
  sample: w(LAYOUT.sample32),
  samplePc: w(LAYOUT.samplePc),
  mstatus: w(csrOffset('mstatus')),
  mip: w(csrOffset('mip')),
  mie: w(csrOffset('mie')),
  mideleg: w(csrOffset('mideleg')),
  medeleg: w(csrOffset('medeleg')),
  satp: w(csrOffset('satp')),
  menvcfg: w(csrOffset('menvcfg')),
} as const

/** mstatus and sstatus, low word. Spec: privileged ISA, "Machine Status Registers". */
export const MSTATUS = {
  SIE: 1 << 1,
  MIE: 1 << 3,
  SPIE: 1 << 5,
  MPIE: 1 << 7,
  SPP: 1 << 8,
  MPP_SHIFT: 11,
  MPP: 3 << 11,
  FS: 3 << 13,
  MPRV: 1 << 17,
  SUM: 1 << 18,
  MXR: 1 << 19,
  TVM: 1 << 20,
  TW: 1 << 21,
  TSR: 1 << 22,
} as const
/** mstatus, high word. */
export const MSTATUSH = { UXL: 3, SXL: 3 << 2, GVA: 1 << 6, MPV: 1 << 7 } as const

export const PRIV = { U: 0, S: 1, M: 3 } as const

/** Bits of mip and mie. */
export const IRQ = {
  SSIP: 1 << 1,
  VSSIP: 1 << 2,
  MSIP: 1 << 3,
  STIP: 1 << 5,
  VSTIP: 1 << 6,
  MTIP: 1 << 7,
  SEIP: 1 << 9,
  VSEIP: 1 << 10,
  MEIP: 1 << 11,
  SGEIP: 1 << 12,
} as const

/** What a hart has counted, for tuning. Indices into LAYOUT.counters, which are doubles: adding to a u64 allocates. */
export const COUNTER = {
  loads: 0,
  stores: 1,
  fetches: 2,
  csrs: 3,
  traps: 4,
  interrupts: 5,
  mmio: 6,
  polls: 7,
  waits: 8,
  flushes: 9,
  decodedPages: 10,
  recycledPages: 11,
  codeWrites: 12,
  systems: 13,
  amos: 14,
  /** Compiled code: regions made, instructions in them, modules, bytes of WebAssembly, milliseconds for all of it. */
  regions: 15,
  regionInstructions: 16,
  modules: 17,
  moduleBytes: 18,
  compileMs: 19,
  /** Regions that exist now; that ended because their code was written or its page given up; refusals; our own mistakes. */
  regionsLive: 20,
  regionsStale: 21,
  regionsRefused: 22,
  regionsFailed: 23,
  /** How often everything was dropped to make room. */
  evictions: 24,
} as const

/**
 * One hart's registers as views of the shared memory. Made on both sides: the hart's own thread, and the device thread,
 * which may touch it only while the hart is parked (atomically used words excepted).
 */
export class HartState {
  readonly index: number
  /** Byte offset of the hart's area in guest memory. */
  readonly base: number
  readonly i32: Int32Array<SharedArrayBuffer>
  readonly u64: BigUint64Array<SharedArrayBuffer>
  readonly f64: Float64Array<SharedArrayBuffer>
  readonly u8: Uint8Array<SharedArrayBuffer>

  constructor(buffer: SharedArrayBuffer, base: number, index: number) {
    this.index = index
    this.base = base
    this.i32 = new Int32Array(buffer, base, LAYOUT.sizeBytes / 4)
    this.u64 = new BigUint64Array(buffer, base, LAYOUT.sizeBytes / 8)
    this.f64 = new Float64Array(buffer, base, LAYOUT.sizeBytes / 8)
    this.u8 = new Uint8Array(buffer, base, LAYOUT.sizeBytes)
  }

  csr(name: CsrName): bigint {
    return this.u64[csrOffset(name) >> 3]
  }

  setCsr(name: CsrName, value: bigint): void {
    this.u64[csrOffset(name) >> 3] = value
  }

  /** @param at one of LAYOUT's u64 members */
  get(at: number): bigint {
    return this.u64[at >> 3]
  }

  set(at: number, value: bigint): void {
    this.u64[at >> 3] = value
  }

  x(index: number): bigint {
    return this.u64[(LAYOUT.x >> 3) + index]
  }

  setX(index: number, value: bigint): void {
    if (index !== 0) this.u64[(LAYOUT.x >> 3) + index] = value
  }

  get pc(): bigint {
    return this.u64[LAYOUT.pc >> 3]
  }

  set pc(value: bigint) {
    this.u64[LAYOUT.pc >> 3] = value
  }

  /** 0 U, 1 S, 3 M. */
  get priv(): number {
    return this.i32[WORD.priv]
  }

  set priv(value: number) {
    this.i32[WORD.priv] = value
  }

  get halted(): boolean {
    return this.i32[WORD.halted] !== 0
  }

  set halted(value: boolean) {
    this.i32[WORD.halted] = value ? 1 : 0
  }

  /** pc += bytes, and one more instruction retired. */
  retire(bytes: number): void {
    add(this.i32, WORD.pc, bytes)
    add(this.i32, WORD.instret, 1)
  }

  count(index: number): void {
    this.f64[(LAYOUT.counters >> 3) + index]++
  }

  add(index: number, amount: number): void {
    this.f64[(LAYOUT.counters >> 3) + index] += amount
  }

  counter(index: number): number {
    return this.f64[(LAYOUT.counters >> 3) + index]
  }
}

/** A 64-bit word as two halves: no BigInt. */
function add(i32: Int32Array, at: number, amount: number): void {
  const low = (i32[at] + amount) | 0
  i32[at] = low
  if (low >>> 0 < amount) i32[at + 1]++
}
