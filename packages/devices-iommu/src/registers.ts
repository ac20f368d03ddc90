/**
 * Register file of Intel VT-d: offsets, fields, and the masks that every guest write goes through.
 * Spec: Intel VT-d architecture specification, chapter "Register Descriptions"; iommu.md section a.2.
 */

export const REGISTER_BYTES = 0x230

export const VER = 0x00
export const CAP = 0x08
export const ECAP = 0x10
export const GCMD = 0x18
export const GSTS = 0x1c
export const RTADDR = 0x20
export const CCMD = 0x28
export const FSTS = 0x34
export const FECTL = 0x38
export const FEDATA = 0x3c
export const FEADDR = 0x40
export const FEUADDR = 0x44
export const IQH = 0x80
export const IQT = 0x88
export const IQA = 0x90
export const ICS = 0x9c
export const IECTL = 0xa0
export const IEDATA = 0xa4
export const IEADDR = 0xa8
export const IEUADDR = 0xac
export const IRTA = 0xb8
export const IVA = 0xf0
export const IOTLB = 0xf8
/** The only fault recording register: low and high quadword. */
export const FRCD = 0x220

/** GCMD and GSTS have the same bit for a command and what it reports. */
export const COMMAND = { te: 1 << 31, srtp: 1 << 30, qie: 1 << 26, ire: 1 << 25, sirtp: 1 << 24 } as const

export const FSTS_PFO = 0x01
export const FSTS_PPF = 0x02
export const FSTS_IQE = 0x10
export const EVENT_MASKED = 1 << 31
export const EVENT_PENDING = 1 << 30
export const ICS_IWC = 1
export const FRCD_F = 1n << 63n

export interface VtdFeatures {
  /** 39 or 48: width of host addresses and of the widest domain. */
  readonly addressWidth: 39 | 48
  readonly cachingMode: boolean
  readonly deviceIotlb: boolean
  readonly passThrough: boolean
  readonly interruptRemapping: boolean
}

/** Spec: iommu.md section a.3. */
export function capability({ addressWidth, cachingMode }: VtdFeatures): bigint {
  const domains = 6n // 65536
  const sagaw = addressWidth === 48 ? 0b00110n : 0b00010n // 3-level, and 4-level tables
  const largePages = 0b11n << 34n // 2 MiB and 1 GiB
  const pageSelective = 1n << 39n
  const maxAddressMask = 18n << 48n
  const drain = 0b11n << 54n
  return (
    domains |
    (cachingMode ? 1n << 7n : 0n) |
    (sagaw << 8n) |
    (BigInt(addressWidth - 1) << 16n) |
    (BigInt(FRCD >> 4) << 24n) |
    largePages |
    pageSelective |
    maxAddressMask |
    drain
  )
}

/** Spec: iommu.md section a.3. */
export function extendedCapability({ deviceIotlb, passThrough, interruptRemapping }: VtdFeatures): bigint {
  const queuedInvalidation = 1n << 1n
  const iotlbRegisters = BigInt(IVA >> 4) << 8n
  const handleMask = 15n << 20n
  return (
    queuedInvalidation |
    iotlbRegisters |
    (deviceIotlb ? 1n << 2n : 0n) |
    (interruptRemapping ? (1n << 3n) | handleMask : 0n) |
    (passThrough ? 1n << 6n : 0n)
  )
}

interface Masks {
  /** Bits a guest can write. */
  readonly writable?: bigint
  /** Bits that writing 1 clears. */
  readonly w1c?: bigint
  /** Bits that read as 0. */
  readonly writeOnly?: bigint
}

/** Registers that have writable bits, by offset and width in bytes. Spec: iommu.md section a.2. */
const MASKS: readonly (readonly [offset: number, bytes: 4 | 8, masks: Masks])[] = [
  [GCMD, 4, { writable: 0xff80_0000n, writeOnly: 0xff80_0000n }],
  [RTADDR, 8, { writable: 0xffff_ffff_ffff_fc00n }],
  [CCMD, 8, { writable: 0xe000_0003_ffff_ffffn, writeOnly: 0x3_ffff_0000n }],
  [FSTS, 4, { w1c: 0x11n }],
  [FECTL, 4, { writable: 0x8000_0000n }],
  [FEDATA, 4, { writable: 0xffffn }],
  [FEADDR, 4, { writable: 0xffff_fffcn }],
  [IQT, 8, { writable: 0x7fff0n }],
  [IQA, 8, { writable: 0xffff_ffff_ffff_f807n }],
  [ICS, 4, { w1c: 0x1n }],
  [IECTL, 4, { writable: 0x8000_0000n }],
  [IEDATA, 4, { writable: 0xffff_ffffn }],
  [IEADDR, 4, { writable: 0xffff_fffcn }],
  [IRTA, 8, { writable: 0xffff_ffff_ffff_f80fn }],
  [IVA, 8, { writable: 0xffff_ffff_ffff_f07fn, writeOnly: 0xffff_ffff_ffff_f07fn }],
  [IOTLB, 8, { writable: 0xb003_ffff_0000_0000n }],
  [FRCD + 8, 8, { w1c: FRCD_F }],
]

const RESET: readonly (readonly [offset: number, value: number])[] = [
  [VER, 0x10],
  [FECTL, EVENT_MASKED],
  [IECTL, EVENT_MASKED],
]

/** The registers over the bytes that migrate, little-endian. Masks are constants and do not migrate. */
export class RegisterFile {
  readonly bytes: Uint8Array
  readonly #view: DataView
  readonly #writable = new Uint8Array(REGISTER_BYTES)
  readonly #w1c = new Uint8Array(REGISTER_BYTES)
  readonly #writeOnly = new Uint8Array(REGISTER_BYTES)

  /** @param bytes {@link REGISTER_BYTES} of them; used in place */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, REGISTER_BYTES)
    for (const [offset, width, { writable = 0n, w1c = 0n, writeOnly = 0n }] of MASKS) {
      for (let i = 0; i < width; i++) {
        const byteOf = (mask: bigint) => Number((mask >> BigInt(8 * i)) & 0xffn)
        this.#writable[offset + i] = byteOf(writable)
        this.#w1c[offset + i] = byteOf(w1c)
        this.#writeOnly[offset + i] = byteOf(writeOnly)
      }
    }
  }

  reset(features: VtdFeatures): void {
    this.bytes.fill(0)
    for (const [offset, value] of RESET) this.set32(offset, value)
    this.set64(CAP, capability(features))
    this.set64(ECAP, extendedCapability(features))
  }

  /** As the guest sees it. */
  guestRead(offset: number, bytes: 4 | 8): bigint {
    let value = 0n
    for (let i = bytes - 1; i >= 0; i--) {
      value = (value << 8n) | BigInt(this.bytes[offset + i]! & ~this.#writeOnly[offset + i]!)
    }
    return value
  }

  guestWrite(offset: number, bytes: 4 | 8, value: bigint): void {
    for (let i = 0; i < bytes; i++) {
      const at = offset + i
      const written = Number((value >> BigInt(8 * i)) & 0xffn)
      const writable = this.#writable[at]!
      this.bytes[at] = ((this.bytes[at]! & ~writable) | (written & writable)) & ~(this.#w1c[at]! & written)
    }
  }

  /** Raw, signed so that bit operations compare as they look. */
  get32(offset: number): number {
    return this.#view.getInt32(offset, true)
  }

  set32(offset: number, value: number): void {
    this.#view.setInt32(offset, value, true)
  }

  /** Sets the bits of `set` after clearing those of `clear`. @returns the new value */
  change32(offset: number, clear: number, set: number): number {
    const value = (this.get32(offset) & ~clear) | set
    this.set32(offset, value)
    return value
  }

  get64(offset: number): bigint {
    return this.#view.getBigUint64(offset, true)
  }

  set64(offset: number, value: bigint): void {
    this.#view.setBigUint64(offset, value, true)
  }
}
