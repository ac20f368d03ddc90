import type { GuestMemory } from '@ferryvm/core'

/** Byte offsets in guest memory of core's bitmaps: `GuestMemory.dirtyLog.offsets`. */
export type LogOffsets = GuestMemory['dirtyLog']['offsets']

/**
 * Guest memory as a hart's thread sees it. Growing the memory makes a longer buffer over the same bytes, so the views are
 * taken anew when the device thread says that mappings changed.
 */
export class GuestViews {
  readonly #memory: WebAssembly.Memory
  readonly #offsets: LogOffsets
  i8!: Int8Array<SharedArrayBuffer>
  u8!: Uint8Array<SharedArrayBuffer>
  i16!: Int16Array<SharedArrayBuffer>
  u16!: Uint16Array<SharedArrayBuffer>
  i32!: Int32Array<SharedArrayBuffer>
  u32!: Uint32Array<SharedArrayBuffer>
  i64!: BigInt64Array<SharedArrayBuffer>
  data!: DataView<SharedArrayBuffer>

  constructor(memory: WebAssembly.Memory, offsets: LogOffsets) {
    this.#memory = memory
    this.#offsets = offsets
    this.refresh()
  }

  get buffer(): SharedArrayBuffer {
    return this.#memory.buffer as unknown as SharedArrayBuffer
  }

  refresh(): void {
    const buffer = this.buffer
    this.i8 = new Int8Array(buffer)
    this.u8 = new Uint8Array(buffer)
    this.i16 = new Int16Array(buffer)
    this.u16 = new Uint16Array(buffer)
    this.i32 = new Int32Array(buffer)
    this.u32 = new Uint32Array(buffer)
    this.i64 = new BigInt64Array(buffer)
    this.data = new DataView(buffer)
  }

  /** Must come before the write, and before the page gets a write TLB entry. */
  markDirty(page: number): void {
    const i32 = this.i32
    if (Atomics.load(i32, this.#offsets.control >> 2) === 0) return
    const at = (this.#offsets.bitmap >>> 2) + (page >>> 5)
    const bit = 1 << (page & 31)
    if ((Atomics.load(i32, at) & bit) === 0) Atomics.or(i32, at, bit)
  }

  /** Is the page's bit set, or nobody asking for it? Then it may have a write TLB entry. */
  isDirty(page: number): boolean {
    const i32 = this.i32
    if (Atomics.load(i32, this.#offsets.control >> 2) === 0) return true
    return (Atomics.load(i32, (this.#offsets.bitmap >>> 2) + (page >>> 5)) & (1 << (page & 31))) !== 0
  }

  /** Is the page still with the sender of a migration? Looked at before it gets into a TLB. */
  isMissing(page: number): boolean {
    const i32 = this.i32
    if (Atomics.load(i32, this.#offsets.missingActive >>> 2) === 0) return false
    return (Atomics.load(i32, (this.#offsets.missing >>> 2) + (page >>> 5)) & (1 << (page & 31))) !== 0
  }

  /** Does somebody want to see the page before it is written? Then it has no write TLB entry, and a write has to claim it. */
  isGuarded(page: number): boolean {
    const i32 = this.i32
    if (Atomics.load(i32, this.#offsets.guardsActive >>> 2) === 0) return false
    return (Atomics.load(i32, (this.#offsets.guarded >>> 2) + (page >>> 5)) & (1 << (page & 31))) !== 0
  }

  /** Does some hart hold decoded code of the page? */
  isCode(page: number): boolean {
    return (Atomics.load(this.i32, (this.#offsets.codePages >>> 2) + (page >>> 5)) & (1 << (page & 31))) !== 0
  }

  /** @returns whether the bit was set already */
  setCode(page: number): boolean {
    const bit = 1 << (page & 31)
    return (Atomics.or(this.i32, (this.#offsets.codePages >>> 2) + (page >>> 5), bit) & bit) !== 0
  }

  clearCode(page: number): void {
    Atomics.and(this.i32, (this.#offsets.codePages >>> 2) + (page >>> 5), ~(1 << (page & 31)))
  }
}
