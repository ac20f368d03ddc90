import type { AddressSpace } from '../memory/address-space.ts'

/** What a device needs from below: `system` = memory-mapped, the others are buses that some device provides. */
export type BusKind = 'system' | 'pci' | 'virtio' | 'virtio-serial'

export interface BusRequest {
  readonly deviceId: string
  readonly deviceType: string
  /** What the device itself speaks. A PCI bus takes `pci` and, by putting virtio-pci in between, `virtio`. */
  readonly kind: BusKind
  /** As in `addr=3` or `addr=3.1`; bus specific. Absent: the next free place. */
  readonly addr?: string
  /** Options of the place and not of the device, as `disable-legacy=on` or `vectors=2` on a virtio-pci function. */
  readonly options?: Readonly<Record<string, unknown>>
}
export interface BusAttachment {
  /** Prefix of the idstr of the device's sections (`0000:00:01.0`), or empty. Spec: stream.md section 2. */
  readonly path: string
  /** What the device gets as `ctx.bus`: a `PciSlot` for kind `pci`, a `VirtioTransport` for kind `virtio`, else the bus's own. */
  readonly context: unknown
  /** Guest memory as the device sees it: through an IOMMU when one is in front. */
  readonly dma: AddressSpace
  reset?(): void
  /** Everything on the bus is there; runs before the first reset. */
  ready?(): void
}
export interface Bus {
  /** As in `bus=pcie.0`. */
  readonly name: string
  readonly accepts: readonly BusKind[]
  /** @throws DeviceConfigError the place is taken or does not exist */
  attach(request: BusRequest): BusAttachment
}
