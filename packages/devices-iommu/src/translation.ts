/**
 * The tables of VT-d in guest memory, legacy mode: root entry, context entry, second-level page tables.
 * Spec: iommu.md sections a.5 and a.6. Nothing is cached here.
 */
import type { AddressSpace } from '@ferryvm/core'

/** Fault reasons as FRCD reports them. */
export const FaultReason = {
  rootNotPresent: 0x1,
  contextNotPresent: 0x2,
  contextInvalid: 0x3,
  beyondWidth: 0x4,
  writeDenied: 0x5,
  readDenied: 0x6,
  pagingUnreadable: 0x7,
  rootUnreadable: 0x8,
  contextUnreadable: 0x9,
  rootReserved: 0xa,
  contextReserved: 0xb,
  pagingReserved: 0xc,
  interruptWindow: 0xe,
} as const
export type FaultReason = (typeof FaultReason)[keyof typeof FaultReason]

export interface Fault {
  readonly reason: FaultReason
  /** The context entry asks not to report faults (FPD). Never true for reasons that it does not cover. */
  readonly suppressed: boolean
}
export const isFault = (value: object): value is Fault => 'reason' in value

/** What one requester's accesses go through. */
export interface Context {
  readonly passThrough: boolean
  readonly domain: number
  /** 3 (39 bits) or 4 (48 bits). */
  readonly levels: number
  /** Top-level table. */
  readonly table: number
  readonly faultsDisabled: boolean
}

export interface TableFeatures {
  readonly addressWidth: 39 | 48
  readonly deviceIotlb: boolean
  readonly passThrough: boolean
}

/** A translation; it covers `sizeBytes` from `iova`, both aligned to the size. */
export interface Mapping {
  readonly iova: number
  readonly address: number
  readonly sizeBytes: number
  readonly readable: boolean
  readonly writable: boolean
}

/** Interrupt messages are written here; neither source nor target of remapped DMA. */
export const INTERRUPT_WINDOW = { start: 0xfee0_0000, end: 0xfef0_0000 } as const
export const inInterruptWindow = (address: number): boolean =>
  address >= INTERRUPT_WINDOW.start && address < INTERRUPT_WINDOW.end

const ENTRY_BYTES = 16
const PRESENT = 1
const FPD = 2
const READ = 1
const WRITE = 2
const PAGE_SIZE = 0x80
const TRANSLATE = 0
const TRANSLATE_DEVICE_IOTLB = 1
const PASS_THROUGH = 2

const scratch = new Uint8Array(ENTRY_BYTES)
const words = new DataView(scratch.buffer)
const TWO_32 = 2 ** 32

/** Bits of the high 32 at or above the address width, which root and context entries reserve. */
const highReserved = (addressWidth: number): number => -1 << (addressWidth - 32)
/** Paging entries leave bits 61:52 and 63 to software. */
const PAGING_IGNORED = 0xbff0_0000 | 0
const TRANSIENT_MAPPING = 1 << 30
const addressOf = (low: number, high: number): number => (high >>> 0) * TWO_32 + ((low & ~0xfff) >>> 0)

/** @returns the context of a requester, or why there is none. `memory` is guest-physical. */
export function lookUpContext(
  memory: AddressSpace,
  root: number,
  sourceId: number,
  features: TableFeatures,
): Context | Fault {
  const beyond = highReserved(features.addressWidth)
  if (!memory.read(root + (sourceId >> 8) * ENTRY_BYTES, scratch)) return fault(FaultReason.rootUnreadable)
  const rootLow = words.getInt32(0, true)
  const rootHigh = words.getInt32(4, true)
  if (!(rootLow & PRESENT)) return fault(FaultReason.rootNotPresent)
  if (rootLow & 0xffe || rootHigh & beyond || words.getInt32(8, true) || words.getInt32(12, true)) {
    return fault(FaultReason.rootReserved)
  }

  const at = addressOf(rootLow, rootHigh) + (sourceId & 0xff) * ENTRY_BYTES
  if (!memory.read(at, scratch)) return fault(FaultReason.contextUnreadable)
  const low = words.getInt32(0, true)
  const high = words.getInt32(4, true)
  const info = words.getInt32(8, true)
  const faultsDisabled = (low & FPD) !== 0
  if (!(low & PRESENT)) return fault(FaultReason.contextNotPresent, faultsDisabled)
  if (low & 0xff0 || high & beyond || info & 0xff00_0080 || words.getInt32(12, true)) {
    return fault(FaultReason.contextReserved)
  }
  const type = (low >> 2) & 3
  const levels = (info & 7) + 2
  const typeOk =
    type === TRANSLATE ||
    (type === TRANSLATE_DEVICE_IOTLB && features.deviceIotlb) ||
    (type === PASS_THROUGH && features.passThrough)
  const levelsOk = levels === 3 || (levels === 4 && features.addressWidth === 48)
  if (!typeOk || (type !== PASS_THROUGH && !levelsOk)) return fault(FaultReason.contextInvalid, faultsDisabled)
  return {
    passThrough: type === PASS_THROUGH,
    domain: (info >> 8) & 0xffff,
    levels,
    table: addressOf(low, high),
    faultsDisabled,
  }
}

/** Second-level walk. @param write the access that is about to happen; the mapping also says what else is allowed */
export function walk(
  memory: AddressSpace,
  context: Context,
  iova: number,
  write: boolean,
  features: TableFeatures,
): Mapping | Fault {
  const failed = (reason: FaultReason) => fault(reason, context.faultsDisabled)
  if (iova >= 2 ** (12 + 9 * context.levels)) return failed(FaultReason.beyondWidth)
  const beyond = highReserved(features.addressWidth)
  const entryBytes = scratch.subarray(0, 8)
  let table = context.table
  let permissions = READ | WRITE
  for (let level = context.levels; ; level--) {
    const sizeBytes = 2 ** (12 + 9 * (level - 1))
    const index = Math.floor(iova / sizeBytes) % 512
    if (!memory.read(table + 8 * index, entryBytes)) {
      // The pointer to the top table is the context entry's.
      return failed(level === context.levels ? FaultReason.contextInvalid : FaultReason.pagingUnreadable)
    }
    const low = words.getInt32(0, true)
    const high = words.getInt32(4, true)
    permissions &= low
    if (!(permissions & (write ? WRITE : READ))) {
      return failed(write ? FaultReason.writeDenied : FaultReason.readDenied)
    }
    const leaf = level === 1 || (level <= 3 && (low & PAGE_SIZE) !== 0)
    // A transient mapping means something only to device IOTLBs.
    const allowed = PAGING_IGNORED | (leaf && features.deviceIotlb ? TRANSIENT_MAPPING : 0)
    if (low & lowReserved(level, leaf) || high & beyond & ~allowed) return failed(FaultReason.pagingReserved)
    const address = addressOf(low, high & ~beyond)
    if (!leaf) {
      table = address
      continue
    }
    const offset = iova % sizeBytes
    if (inInterruptWindow(address + offset)) return failed(FaultReason.interruptWindow)
    return {
      iova: iova - offset,
      address,
      sizeBytes,
      readable: (permissions & READ) !== 0,
      writable: (permissions & WRITE) !== 0,
    }
  }
}

/** Without snoop control bit 11 is reserved everywhere; large pages also reserve the address bits below their size. */
function lowReserved(level: number, leaf: boolean): number {
  if (level === 4) return 0x880
  if (!leaf || level === 1) return 0x800
  return level === 2 ? 0x1f_f800 : 0x3fff_f800
}

const fault = (reason: FaultReason, suppressed = false): Fault => ({ reason, suppressed })
