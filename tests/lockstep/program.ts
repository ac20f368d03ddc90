/** A whole lockstep image: driver, blocks, pools, page tables, all from one seed. */
import type { EmittedInsn } from './block.ts'
import { BlockBuilder } from './block.ts'
import type { CsrRule, Mode } from './csrs.ts'
import { driverCode } from './driver.ts'
import {
  BLOCK_TABLE,
  CODE,
  CODE_BYTES,
  DRIVER,
  ENTRY,
  FLOAT_ALIGN,
  FLOAT_POOL,
  FRESH_ENTRIES,
  INTEGER_POOL,
  LOG_MAX_BYTES,
  MAX_PASSES,
  PAGE_TABLES,
  POOL_SLACK,
  POOL_VALUES,
  RAM_BASE,
  RECORD_BYTES,
  SANDBOX,
  SANDBOX_BYTES,
  SANDBOX_PAGES,
  TABLES_PER_MODE,
} from './layout.ts'
import { Random } from './random.ts'
import type { RowTable } from './rows.ts'
import { floatValue, integerValue } from './values.ts'

export interface Block {
  readonly index: number
  readonly mode: Mode
  readonly satpMode: number
  readonly medeleg: number
  readonly mstatus: bigint
  readonly start: number
  readonly end: number
  readonly insns: readonly EmittedInsn[]
}

export interface LockstepProgram {
  readonly seed: number
  readonly passes: number
  readonly blocks: readonly Block[]
  /** To be put at RAM_BASE. */
  readonly image: Uint8Array
  /** Of the log. */
  readonly records: number
  readonly logBytes: number
}

export interface ProgramOptions {
  readonly seed: number
  readonly blocks: number
  readonly passes: number
  readonly table: RowTable
  readonly csrs: readonly CsrRule[]
  /** Instructions of the table that every block holds before it is closed, about. */
  readonly blockLength?: number
}

/** Page table entry bits. */
const V = 1
const R = 2
const W = 4
const X = 8
const U = 16
const AD = 0xc0
const ACCESSED = 0x40
/** PMM of satp.MODE -> levels above Sv39. */
const SATP_MODES = { 8: 0, 9: 1, 10: 2 } as const

/** Sandbox pages as the lower modes see them: every other one is plain, the rest refuse something. */
function sandboxPage(page: number, user: number): number {
  const other = user ^ U
  return [
    V | R | W | AD | user,
    V | R | AD | user,
    V | R | W | AD | user,
    V | X | AD | user, // readable with MXR
    V | R | W | AD | user,
    0,
    V | R | W | AD | user,
    V | R | W | AD | other, // SUM decides, or nothing helps
    V | R | W | AD | user,
    V | W | AD | user, // reserved
    V | R | W | AD | user,
    V | AD | user, // a pointer at the last level
    V | R | W | AD | user,
    V | R | W | X | ACCESSED | user, // a store makes it dirty
    V | R | W | AD | user,
    V | R | W | user, // any access sets bits
  ][page]!
}

/**
 * Identity maps for S (first) and U (second): four tables each (root of Sv57, Sv48, Sv39, level of 2 MiB leaves) and one
 * for the sandbox.
 */
function pageTables(view: DataView): void {
  const table = (user: number, n: number): number => PAGE_TABLES + ((user ? TABLES_PER_MODE : 0) + n) * 4096
  const put = (at: number, index: number, address: number, flags: number): void =>
    view.setBigUint64(at - RAM_BASE + index * 8, BigInt(address / 4) | BigInt(flags), true)
  for (const user of [0, U]) {
    put(table(user, 0), 0, table(user, 1), V)
    put(table(user, 1), 0, table(user, 2), V)
    put(table(user, 2), RAM_BASE / 2 ** 30, table(user, 3), V)
    for (let i = 0; i < 64; i++) {
      const address = RAM_BASE + i * 2 ** 21
      if (address === SANDBOX) put(table(user, 3), i, table(user, 4), V)
      else if (address >= CODE && address < CODE + CODE_BYTES) put(table(user, 3), i, address, V | R | X | AD | user)
      else put(table(user, 3), i, address, V | R | W | X | AD)
    }
    for (let page = 0; page < SANDBOX_PAGES; page++) {
      put(FRESH_ENTRIES, page + (user ? SANDBOX_PAGES : 0), SANDBOX + page * 4096, sandboxPage(page, user))
    }
  }
}

const rootTable = (user: boolean, levelsAbove: number): number =>
  PAGE_TABLES + ((user ? TABLES_PER_MODE : 0) + 2 - levelsAbove) * 4096

export function generateProgram(options: ProgramOptions): LockstepProgram {
  const { seed, blocks: blockCount, passes, table, csrs, blockLength = 22 } = options
  if (passes > MAX_PASSES) throw new RangeError(`at most ${MAX_PASSES} passes`)
  if (blockCount * passes * RECORD_BYTES > LOG_MAX_BYTES)
    throw new RangeError(`the log of ${blockCount} blocks does not fit`)
  const random = new Random(seed)
  const image = new Uint8Array(BLOCK_TABLE - RAM_BASE + blockCount * ENTRY.bytes)
  const view = new DataView(image.buffer)
  const blocks: Block[] = []

  // Every row gets its turn: a shuffled deck, dealt again when it is empty.
  const deck: (() => void)[] = []
  let builder!: BlockBuilder
  const deal = (): (() => void) => {
    if (deck.length === 0) {
      for (const row of table.rows) deck.push(() => builder.row(row))
      for (const row of table.compressed) deck.push(() => builder.compressed(row))
      for (let i = 0; i < 8; i++) deck.push(() => builder.illegal())
      for (let i = deck.length - 1; i > 0; i--) {
        const j = random.below(i + 1)
        ;[deck[i], deck[j]] = [deck[j]!, deck[i]!]
      }
    }
    return deck.pop()!
  }

  let here = CODE
  for (let index = 0; index < blockCount; index++) {
    const mode = random.pick(['M', 'M', 'M', 'S', 'S', 'U', 'U'] as const)
    const lower = mode !== 'M'
    // In M it is for MPRV.
    const satpMode = random.chance(0.7) ? random.pick([8, 8, 8, 9, 10] as const) : 0
    // Misaligned fetch, fetch, illegal, breakpoint, load, store and page faults: never ecall, which ends the block.
    const medeleg = lower && random.chance(0.4) ? random.pick([0xb0ff, 0xb0ff, random.u32() & 0xb0ff, 0x4]) : 0
    const delegated = medeleg !== 0
    const fs = random.chance(0.9) ? 3n : BigInt(random.below(4))
    const mpp = { M: 3n, S: 1n, U: 0n }[mode]
    let mstatus = 0xa_0000_0000n | (mpp << 11n) | (fs << 13n)
    for (const bit of [18n, 19n, 20n, 21n, 22n]) if (random.chance(0.25)) mstatus |= 1n << bit // SUM MXR TVM TW TSR
    if (delegated) mstatus &= ~(1n << 22n) // the S handler returns by sret
    // Around the start of a plain page, at its end, or anywhere.
    const page = SANDBOX + random.below(SANDBOX_PAGES - 2) * 4096 + 4096
    // With PMP entries, away from the edge: in which order the parts of an access that crosses it are checked is free.
    const withPmp = random.chance(0.3)
    const window = withPmp ? page + 1984 : random.chance(0.5) ? page : page + 8 * random.below(64)
    if (random.chance(0.5)) here += 2
    builder = new BlockBuilder(random, table, { mode, delegated, mstatus, window, csrs }, here)
    const length = blockLength - 6 + random.below(13)
    for (let n = 0; n < length; n++) {
      if (random.chance(0.75)) deal()()
      else builder.any()
    }
    const end = builder.here
    builder.emit(4, 0x73, 'ecall')
    here = builder.here
    if (here > CODE + CODE_BYTES - 4096) throw new RangeError(`${blockCount} blocks do not fit ${CODE_BYTES} bytes`)

    const block: Block = { index, mode, satpMode, medeleg, mstatus, start: builder.start, end, insns: builder.insns }
    blocks.push(block)
    for (const { address, bytes, bits } of block.insns) {
      if (bytes === 2) view.setUint16(address - RAM_BASE, bits, true)
      else view.setUint32(address - RAM_BASE, bits, true)
    }
    const at = BLOCK_TABLE - RAM_BASE + index * ENTRY.bytes
    const set = (offset: number, value: bigint | number): void => view.setBigUint64(at + offset, BigInt(value), true)
    set(ENTRY.code, block.start)
    set(ENTRY.end, end)
    set(ENTRY.mstatus, mstatus)
    if (satpMode) {
      const root = rootTable(lower ? mode === 'U' : random.chance(0.5), SATP_MODES[satpMode])
      set(ENTRY.satp, (BigInt(satpMode) << 60n) | (BigInt(random.below(4)) << 44n) | BigInt(root / 4096))
    }
    set(ENTRY.medeleg, medeleg)
    set(ENTRY.window, window)
    set(ENTRY.integers, 8 * random.below(POOL_VALUES))
    set(ENTRY.floats, FLOAT_ALIGN * random.below((8 * POOL_VALUES) / FLOAT_ALIGN))
    for (let pass = 0; pass < MAX_PASSES; pass++) {
      const frm = random.chance(0.06) ? random.below(8) : random.below(5)
      image[at + ENTRY.fcsr + pass] = (frm << 5) | (random.chance(0.5) ? 0 : random.below(32))
    }
    const pmp = physicalProtection(random, withPmp ? window : undefined)
    set(ENTRY.pmpcfg, pmp.cfg)
    for (const [i, address] of pmp.addresses.entries()) set(ENTRY.pmpaddr + 8 * i, address)
    set(ENTRY.menvcfg, envcfg(random))
    set(ENTRY.senvcfg, envcfg(random))
    set(ENTRY.counteren, random.pick([0, 7, 0xffff_ffff, random.u32()]))
  }

  image.set(driverCode(blockCount, passes, table.illegalTval), DRIVER - RAM_BASE)
  for (let i = 0, float = 0n; i < POOL_VALUES + POOL_SLACK; i++) {
    float = floatValue(random, i, float)
    view.setBigUint64(INTEGER_POOL - RAM_BASE + 8 * i, integerValue(random), true)
    view.setBigUint64(FLOAT_POOL - RAM_BASE + 8 * i, float, true)
  }
  for (let at = 0; at < SANDBOX_BYTES; at += 4) view.setUint32(SANDBOX - RAM_BASE + at, random.u32(), true)
  pageTables(view)
  const records = blockCount * passes
  return { seed, passes, blocks, image, records, logBytes: records * RECORD_BYTES }
}

/** Four PMP entries near the window, if there is one, then entry 7: everything, RWX. */
function physicalProtection(random: Random, window: number | undefined): { cfg: bigint; addresses: bigint[] } {
  let cfg = 0x1fn << 56n
  const addresses = [0n, 0n, 0n, 0n]
  if (window !== undefined) {
    for (let i = 0; i < 4; i++) {
      const permissions = random.pick([0, 1, 3, 4, 5, 7])
      const matching = random.pick(i === 0 ? [0, 2, 3] : [0, 1, 2, 3]) // OFF TOR NA4 NAPOT; a first TOR would begin at 0
      // An empty TOR region is, to stock QEMU, the byte at address 0.
      const from = matching === 1 ? Number(addresses[i - 1]) + 1 : (window - 256) / 4
      const near = from + random.below(128)
      // Trailing ones say how large a NAPOT region is: 8 bytes to 4 KiB.
      addresses[i] = BigInt(matching === 3 ? near | ((1 << random.below(10)) - 1) : near)
      cfg |= BigInt((matching << 3) | permissions) << BigInt(8 * i)
    }
  }
  return { cfg, addresses }
}

/** FIOM, CBIE (01 flush, 11 invalidate, 00 trap), CBCFE, CBZE: mostly on. */
const envcfg = (random: Random): number => random.pick([0xf1, 0xf0, 0xd0, 0, 0x30, 0x40, 0x80, 0x90])
