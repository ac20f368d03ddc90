/**
 * MSI-X: a table of messages and their pending bits in a 4 KiB BAR.
 * Spec: PCI Local Bus Specification 3.0, section 6.8.2; placement as virt-machine.md section 6.8.
 */
import type { MmioRegion, PciMsix } from '@ferryvm/core'

export const MSIX_CAPABILITY = 0x11
export const MSIX_BAR_BYTES = 0x1000
const PBA = 0x800
const ENTRY_BYTES = 16
const ENTRY_DATA = 8
const ENTRY_CONTROL = 12
const CONTROL_MASKED = 1
const ENABLE = 0x80
const FUNCTION_MASK = 0x40
export const MSIX_VECTORS_MAX = PBA / ENTRY_BYTES

/** The capability after id and next pointer. */
export function msixCapability(vectorCount: number, bar: number): { body: Uint8Array; writable: Uint8Array } {
  const body = new Uint8Array(10)
  const view = new DataView(body.buffer)
  view.setUint16(0, vectorCount - 1, true)
  view.setUint32(2, bar, true)
  view.setUint32(6, PBA | bar, true)
  const writable = new Uint8Array(10)
  writable[1] = ENABLE | FUNCTION_MASK
  return { body, writable }
}

export interface MsixHost {
  /** Message control, high byte, in configuration space. */
  control(): number
  /** The message itself: a 32-bit DMA write of the function. */
  send(address: bigint, data: number): void
}

export class Msix implements PciMsix {
  readonly vectorCount: number
  readonly #host: MsixHost
  readonly #table: Uint8Array
  readonly #view: DataView
  readonly #pending: Uint8Array
  readonly #pendingEnd: number
  readonly region: MmioRegion

  constructor(vectorCount: number, host: MsixHost) {
    this.vectorCount = vectorCount
    this.#host = host
    this.#table = new Uint8Array(vectorCount * ENTRY_BYTES)
    this.#view = new DataView(this.#table.buffer)
    this.#pending = new Uint8Array(Math.ceil(vectorCount / 8))
    this.#pendingEnd = PBA + 8 * Math.ceil(vectorCount / 64)
    this.region = {
      read: (offset, bytes) => this.#read(offset, bytes),
      write: (offset, bytes, value) => this.#write(offset, bytes, value),
    }
    this.reset()
  }

  get enabled(): boolean {
    return (this.#host.control() & ENABLE) !== 0
  }

  notify(vector: number): void {
    if (vector >= this.vectorCount || !this.enabled) return
    if (this.#masked(vector)) this.#pending[vector >> 3]! |= 1 << (vector & 7)
    else this.#send(vector)
  }

  /** The guest changed message control. */
  controlChanged(): void {
    for (let v = 0; v < this.vectorCount; v++) this.#sendIfPending(v)
  }

  reset(): void {
    this.#table.fill(0)
    this.#pending.fill(0)
    for (let v = 0; v < this.vectorCount; v++) this.#table[v * ENTRY_BYTES + ENTRY_CONTROL] = CONTROL_MASKED
  }

  get stateBytes(): number {
    return this.#table.length + this.#pending.length
  }

  save(into: Uint8Array): void {
    into.set(this.#table)
    into.set(this.#pending, this.#table.length)
  }

  load(from: Uint8Array): void {
    this.#table.set(from.subarray(0, this.#table.length))
    this.#pending.set(from.subarray(this.#table.length, this.stateBytes))
  }

  #masked(vector: number): boolean {
    if (this.#host.control() & FUNCTION_MASK) return true
    return (this.#table[vector * ENTRY_BYTES + ENTRY_CONTROL]! & CONTROL_MASKED) !== 0
  }

  #sendIfPending(vector: number): void {
    const bit = 1 << (vector & 7)
    if (!(this.#pending[vector >> 3]! & bit) || !this.enabled || this.#masked(vector)) return
    this.#pending[vector >> 3]! &= ~bit
    this.#send(vector)
  }

  #send(vector: number): void {
    const at = vector * ENTRY_BYTES
    this.#host.send(this.#view.getBigUint64(at, true), this.#view.getUint32(at + ENTRY_DATA, true))
  }

  #read(offset: number, bytes: 1 | 2 | 4): number {
    let value = 0
    for (let i = bytes - 1; i >= 0; i--) {
      const at = offset + i
      // Pending bits fill whole quadwords; what is neither table nor pending bits is not there.
      const byte = at < PBA ? this.#table[at] : (this.#pending[at - PBA] ?? (at < this.#pendingEnd ? 0 : undefined))
      value = (value << 8) | (byte ?? 0xff)
    }
    return value >>> 0
  }

  #write(offset: number, bytes: 1 | 2 | 4, value: number): void {
    // The table takes whole dwords (halves of a quadword come as two); pending bits are read-only.
    if (bytes !== 4 || offset % 4 !== 0 || offset + 4 > this.#table.length) return
    this.#view.setUint32(offset, value, true)
    this.#sendIfPending(offset >> 4)
  }
}
