import type { AddressSpace } from '../memory/address-space.ts'
import type { Vmstate } from '../vmstate/table.ts'
import type { IrqLine, MmioRegion } from './mmio.ts'

/** The read-only identification of a PCI function. Spec: PCI Local Bus Specification 3.0, section 6.2.1. */
export interface PciIdentity {
  readonly vendorId: number
  readonly deviceId: number
  readonly revision?: number
  /** 16 bits: base class and subclass, for example 0x0100 for a SCSI controller. */
  readonly classCode: number
  readonly progIf?: number
  readonly subsystemVendorId?: number
  readonly subsystemId?: number
  /** 1 = INTA ... 4 = INTD; 0 or absent: the function has no interrupt pin. */
  readonly interruptPin?: 0 | 1 | 2 | 3 | 4
}

export interface PciBarOptions {
  /** `memory64` takes this BAR and the next one. */
  readonly kind: 'io' | 'memory' | 'memory64'
  /** A power of two; at least 4 (io) or 16 (memory). */
  readonly sizeBytes: number
  readonly prefetchable?: boolean
  /** Offsets count from the start of the BAR. Called only while the guest has the BAR decoded. */
  readonly region: MmioRegion
}

export interface PciCapabilityOptions {
  /** Offset in configuration space. Default: the first free place from 0x40 on. */
  readonly at?: number
  /** Which bits of which bytes a guest may change, as long as the capability. Default: none. */
  readonly writable?: Uint8Array
}

export interface PciMsixOptions {
  readonly vectorCount: number
  /** BAR for table and pending bits; 4 KiB, table at 0, PBA at 0x800. */
  readonly bar: number
  readonly at?: number
}

/** Message-signalled interrupts of one function. Spec: PCI Local Bus Specification 3.0, section 6.8.2. */
export interface PciMsix {
  readonly vectorCount: number
  /** The guest set the enable bit: messages go out and INTx stays low. */
  readonly enabled: boolean
  /** Sends the message, or sets the pending bit while the vector or the function is masked. */
  notify(vector: number): void
  /** What migrates of it: table and pending bits, in device memory order. */
  readonly stateBytes: number
  save(into: Uint8Array): void
  load(from: Uint8Array): void
}

/** Rows of the `PCIDevice` block. Spec: virt-vmstate.md section 8. */
export interface PciFunctionState {
  version_id: number
  'config[0]': Uint8Array
  irq_state: Uint32Array
}

/** One function, after its device said what it is. */
export interface PciFunction {
  /** Configuration space as the guest sees it (256 bytes). Writing here is for the device: no masks apply. */
  readonly config: Uint8Array
  addBar(index: number, options: PciBarOptions): void
  /** The expansion ROM: readable memory, a power of two and at least 2 KiB. */
  addRom(sizeBytes: number, region: MmioRegion): void
  /**
   * @param body bytes after the id and the next pointer
   * @returns offset in configuration space
   * @throws DeviceConfigError it does not fit
   */
  addCapability(id: number, body: Uint8Array, options?: PciCapabilityOptions): number
  addMsix(options: PciMsixOptions): PciMsix
  /** The function's INTx pin. */
  readonly irq: IrqLine
  /** Guest memory through the IOMMU, if there is one; every access fails while bus mastering is off. */
  readonly dma: AddressSpace
  readonly busMaster: boolean
  /** After the guest or a load changed configuration space. For a guest's write: the bytes written. */
  onConfigChange(listener: (change: { readonly offset: number; readonly length: number } | 'load') => void): void
  /** Replaces what configuration space answers at these bytes (a window into something else). */
  interceptConfig(offset: number, length: number, handler: MmioRegion): void
  /** Power-on configuration space, BARs unmapped, interrupt low. The bus calls it too. */
  reset(): void
  /** For the first row of the device's table: `parent_obj: struct(fn.vmstate)` with `parent_obj: fn.state`. */
  readonly vmstate: Vmstate<PciFunctionState>
  readonly state: PciFunctionState
}

/** What a device of bus kind `pci` gets as `ctx.bus`. */
export interface PciSlot {
  /** As in `0000:00:01.0`. */
  readonly address: string
  /** Requester id: bus << 8 | device << 3 | function. */
  readonly sourceId: number
  /** Call it once, in `realize`. */
  define(identity: PciIdentity): PciFunction
}
