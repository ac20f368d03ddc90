import type { CpuSpec, DeviceSpec, Logger, RamBacking, StreamSettings } from '@ferryvm/core'

/** Bytes that are put into guest memory at power-on and again at every reset (firmware, kernel, boot ROM, device tree). */
export interface BootImage {
  readonly name: string
  /** Guest-physical address; must lie in RAM or ROM. */
  readonly at: number
  /** A function is asked anew at every reset (a device tree with a fresh random seed). */
  readonly bytes: Uint8Array | (() => Uint8Array) | ImageSource
}

/** Bytes that nothing holds between two resets: a kernel is tens of megabytes, and is in a file anyway. */
export interface ImageSource {
  readonly sizeBytes: number
  /** @param target guest memory, `sizeBytes` of it @throws what keeps the machine from being reset */
  readInto(target: Uint8Array): void
}

export interface RamConfig {
  /** Block name on the wire. */
  readonly idstr: string
  /** Guest-physical base. */
  readonly base: number
  readonly sizeBytes: number
  /** What it holds at the start; a shared one is what `x-ignore-shared` leaves out of a migration. */
  readonly backing?: RamBacking
}

export interface MachineConfig {
  /** Machine type on the wire, `virt`. */
  readonly name: string
  readonly cpu: CpuSpec
  readonly ram: readonly RamConfig[]
  /** Realized in this order, which is also the order of their sections within one priority. */
  readonly devices: readonly DeviceSpec[]
  /** Where system-bus devices without an address land, and which interrupt lines they get. */
  readonly platformBus?: {
    readonly base: number
    readonly sizeBytes: number
    readonly firstIrq: number
    readonly irqCount: number
  }
  /** For its streams; a migration's own settings come first. */
  readonly stream?: Partial<StreamSettings>
  /** Debug mode: a device whose load path uses another one that loads later is an error. */
  readonly checkLoadOrder?: boolean
  readonly images?: readonly BootImage[]
  readonly log?: Logger
}
