/**
 * Configuration space of a conventional function (type 0 header).
 * Spec: PCI Local Bus Specification 3.0, section 6.1; virt-vmstate.md section 8 for what migration compares.
 */
import { DeviceConfigError, type MmioRegion, type PciCapabilityOptions, type PciIdentity } from '@ferryvm/core'
import { PciConfigMismatchError } from './pci-config-mismatch-error.ts'

export const CONFIG_BYTES = 256
export const COMMAND = 0x04
export const COMMAND_IO = 0x0001
export const COMMAND_MEMORY = 0x0002
export const COMMAND_BUS_MASTER = 0x0004
export const COMMAND_SERR = 0x0100
export const COMMAND_INTX_DISABLE = 0x0400
export const STATUS = 0x06
export const STATUS_INTERRUPT = 0x08
const STATUS_CAP_LIST = 0x10
const REVISION = 0x08
const CACHE_LINE = 0x0c
const HEADER_TYPE = 0x0e
export const BAR0 = 0x10
const SUBSYSTEM = 0x2c
const CAPABILITY_POINTER = 0x34
const INTERRUPT_LINE = 0x3c
const INTERRUPT_PIN = 0x3d
const FIRST_CAPABILITY = 0x40

interface Intercept {
  readonly offset: number
  readonly end: number
  readonly handler: MmioRegion
}

export class ConfigSpace {
  readonly bytes = new Uint8Array(CONFIG_BYTES)
  /** Bits a guest may write. */
  readonly wmask = new Uint8Array(CONFIG_BYTES)
  /** Bits a guest clears by writing 1. */
  readonly w1cmask = new Uint8Array(CONFIG_BYTES)
  /** Bits that must be the same on both sides of a migration, unless a guest can write them. */
  readonly cmask = new Uint8Array(CONFIG_BYTES)
  readonly #view = new DataView(this.bytes.buffer)
  readonly #powerOn = new Uint8Array(CONFIG_BYTES)
  readonly #taken = new Uint8Array(CONFIG_BYTES)
  #intercepts: Intercept[] = []

  constructor(id: PciIdentity) {
    const view = this.#view
    view.setUint16(0, id.vendorId, true)
    view.setUint16(2, id.deviceId, true)
    view.setUint8(REVISION, id.revision ?? 0)
    view.setUint8(REVISION + 1, id.progIf ?? 0)
    view.setUint16(REVISION + 2, id.classCode, true)
    view.setUint16(SUBSYSTEM, id.subsystemVendorId ?? 0, true)
    view.setUint16(SUBSYSTEM + 2, id.subsystemId ?? 0, true)
    view.setUint8(INTERRUPT_PIN, id.interruptPin ?? 0)

    const command = COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_SERR | COMMAND_INTX_DISABLE
    new DataView(this.wmask.buffer).setUint16(COMMAND, command, true)
    this.wmask.fill(0xff, FIRST_CAPABILITY) // device-specific bytes are scratch until a capability takes them
    this.wmask[CACHE_LINE] = 0xff
    this.wmask[INTERRUPT_LINE] = 0xff
    this.w1cmask[STATUS + 1] = 0xf9
    this.cmask.fill(0xff, 0, 4)
    this.cmask.fill(0xff, REVISION, REVISION + 4)
    this.cmask[STATUS] = STATUS_CAP_LIST
    this.cmask[HEADER_TYPE] = 0xff
    this.cmask[CAPABILITY_POINTER] = 0xff
    this.#taken.fill(1, 0, FIRST_CAPABILITY)
    this.#powerOn.set(this.bytes)
  }

  get command(): number {
    return this.#view.getUint16(COMMAND, true)
  }

  /** Little-endian read for the device's own code; no intercepts. */
  u32(offset: number): number {
    return this.#view.getUint32(offset, true)
  }

  /** Registers the dword of a BAR. @param typeBits what its low bits always read */
  defineBar(offset: number, addressMask: number, typeBits: number): void {
    new DataView(this.wmask.buffer).setUint32(offset, addressMask >>> 0, true)
    this.cmask.fill(0xff, offset, offset + 4)
    this.#view.setUint32(offset, typeBits, true)
    this.#powerOn.set(this.bytes.subarray(offset, offset + 4), offset)
  }

  /** @see PciFunction.addCapability */
  addCapability(device: string, id: number, body: Uint8Array, options: PciCapabilityOptions): number {
    const length = 2 + body.length
    const at = options.at ?? this.#freePlace(length)
    if (
      at < FIRST_CAPABILITY ||
      at % 4 !== 0 ||
      at + length > CONFIG_BYTES ||
      this.#taken.subarray(at, at + length).some(Boolean)
    ) {
      throw new DeviceConfigError(
        device,
        `a capability of ${length} bytes does not fit at 0x${at.toString(16)} of configuration space`,
      )
    }
    this.bytes[at] = id
    this.bytes[at + 1] = this.bytes[CAPABILITY_POINTER]!
    this.bytes.set(body, at + 2)
    this.bytes[CAPABILITY_POINTER] = at
    this.bytes[STATUS]! |= STATUS_CAP_LIST
    this.cmask.fill(0xff, at, at + length)
    this.wmask.fill(0, at, at + length)
    if (options.writable) this.wmask.set(options.writable, at + 2)
    this.#taken.fill(1, at, at + length)
    this.#powerOn.set(this.bytes)
    return at
  }

  intercept(offset: number, length: number, handler: MmioRegion): void {
    this.#intercepts.push({ offset, end: offset + length, handler })
  }

  read(offset: number, size: 1 | 2 | 4): number {
    const window = this.#intercepts.find((w) => offset >= w.offset && offset + size <= w.end)
    if (window) return window.handler.read(offset - window.offset, size)
    if (size === 1) return this.bytes[offset]!
    return size === 2 ? this.#view.getUint16(offset, true) : this.#view.getUint32(offset, true)
  }

  /** A guest's write. */
  write(offset: number, size: 1 | 2 | 4, value: number): void {
    for (let i = 0; i < size; i++) {
      const at = offset + i
      const byte = (value >>> (8 * i)) & 0xff
      const w = this.wmask[at]!
      this.bytes[at] = ((this.bytes[at]! & ~w) | (byte & w)) & ~(byte & this.w1cmask[at]!)
    }
    const window = this.#intercepts.find((w) => offset >= w.offset && offset + size <= w.end)
    window?.handler.write(offset - window.offset, size, value)
  }

  reset(): void {
    for (let i = 0; i < CONFIG_BYTES; i++) {
      const changes = this.wmask[i]! | this.w1cmask[i]!
      this.bytes[i] = (this.bytes[i]! & ~changes) | (this.#powerOn[i]! & changes)
    }
  }

  /** @throws PciConfigMismatchError a byte that no guest can change differs. Spec: virt-vmstate.md section 8 */
  load(device: string, incoming: Uint8Array): void {
    for (let i = 0; i < CONFIG_BYTES; i++) {
      const fixed = this.cmask[i]! & ~this.wmask[i]! & ~this.w1cmask[i]!
      if ((incoming[i]! ^ this.bytes[i]!) & fixed) {
        throw new PciConfigMismatchError(device, i, incoming[i]!, this.bytes[i]!, fixed)
      }
    }
    this.bytes.set(incoming)
  }

  #freePlace(length: number): number {
    let at = FIRST_CAPABILITY
    while (at + length <= CONFIG_BYTES && this.#taken.subarray(at, at + length).some(Boolean)) at += 4
    return at
  }
}
