import type { AddressSpace } from '../memory/address-space.ts'
import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import type { MmioRegion } from './mmio.ts'

/** No MSI-X vector. Spec: virtio 1.2, section 4.1.5.1.2. */
export const VIRTIO_NO_VECTOR = 0xffff
/** Queues that a virtio section has room for. Spec: virt-vmstate.md section 9 E. */
export const VIRTIO_QUEUE_MAX = 1024
/** Largest size that a queue can have on our transports, and length of an indirect table. */
export const VIRTQUEUE_MAX_SIZE = 1024

/** One virtqueue as a transport programs it. Addresses are what the driver wrote (IOVAs behind an IOMMU). */
export interface VirtioQueuePort {
  readonly index: number
  /** What the device offers; what {@link size} is after a reset. */
  readonly defaultSize: number
  /** Ring entries. @see VIRTQUEUE_MAX_SIZE */
  size: number
  readonly desc: bigint
  readonly avail: bigint
  readonly used: bigint
  readonly lastAvailIdx: number
  /** MSI-X vector; only PCI uses it. */
  vector: number
  /** Used ring alignment of a legacy driver. */
  align: number
  setRings(desc: bigint, avail: bigint, used: bigint): void
  /** Legacy layout: avail and used follow from the size and {@link align}. 0 resets the queue. */
  setLegacyBase(desc: bigint): void
  /** Back to its state after a device reset. Spec: virtio 1.2, section 2.6.1. */
  reset(): void
}

/** A virtio device as the transport in front of it drives it. Independent of the bus. */
export interface VirtioBackend {
  /** vmstate name and the second half of the idstr: `virtio-blk`. */
  readonly name: string
  /** Spec: virtio 1.2, section 5. */
  readonly deviceId: number
  readonly configBytes: number
  /** As many as the device has, in order of index. */
  readonly queues: readonly VirtioQueuePort[]
  /** MSI-X vectors on PCI, where nobody says another number; 0: no MSI-X. Default: one per queue, and one for configuration. */
  readonly msixVectors?: number
  /** What the device and the transport offer together. */
  readonly offeredFeatures: bigint
  /** The same without what only a legacy driver is shown. */
  readonly modernFeatures: bigint
  readonly guestFeatures: bigint
  /** Bits that are not offered are dropped; false says that some were. */
  setGuestFeatures(bits: bigint): boolean
  /** Device status. Writing 0 is not a reset; use {@link reset}. */
  readonly status: number
  setStatus(status: number): void
  /** Interrupt status: 1 a queue, 2 configuration. */
  isr: number
  queueSelect: number
  readonly configGeneration: number
  readConfig(offset: number, bytes: 1 | 2 | 4): number
  writeConfig(offset: number, bytes: 1 | 2 | 4, value: number): void
  /** The driver says that it put something into the queue. */
  kick(queue: number): void
  /** The driver broke a rule that leaves no way to go on: the device stops until it is reset. */
  fail(message: string): void
  /** While true nothing is processed: bus mastering is off. */
  disabled: boolean
  reset(): void
}

/** How the transport's part of the section is saved. Spec: virt-vmstate.md section 9, parts A, C and E. */
export interface VirtioTransportState {
  /** Part A. */
  save(out: QEMUFileWriter): void
  load(input: QEMUFileReader, version: number): Generator<number, void>
  /** Part C has the ring alignment of every queue (mmio). */
  readonly savesAlign: boolean
  /** Part C has the vector of every queue (PCI with MSI-X). */
  readonly savesVector: boolean
  /** What `virtio/extra_state` carries, one nested section body with its header; absent: none. */
  readonly extra?: {
    save(out: QEMUFileWriter): void
    load(input: QEMUFileReader): Generator<number, void>
  }
  /** The whole section is loaded and the device's state is consistent: put interrupt lines and mappings right. */
  loaded(): void
}

/** What a device of bus kind `virtio` gets as `ctx.bus`. */
export interface VirtioTransport {
  readonly kind: 'pci' | 'mmio' | (string & {})
  /** The driver can only be a legacy one (`force-legacy` of virtio-mmio). */
  readonly legacyOnly: boolean
  /** Bits the transport adds to what the device offers, for example VERSION_1. */
  readonly features: bigint
  readonly state: VirtioTransportState
  /** Guest memory as the device sees it. */
  readonly dma: AddressSpace
  /** False while every access must fail: bus mastering is off. */
  readonly dmaEnabled: boolean
  /** Call it once, in `realize`, when the queues are known. */
  connect(backend: VirtioBackend): void
  /** Sets bit 0 of isr and interrupts, or sends the queue's message. */
  notifyQueue(queue: VirtioQueuePort): void
  /** Sets bit 1 of isr and interrupts, or sends the configuration message. */
  notifyConfig(): void
  /** After {@link connect}: an expansion ROM, where the bus has such a thing. See `PciFunction`. */
  addRom?(sizeBytes: number, region: MmioRegion): void
}
