import { VmstateError } from '@ferryvm/core'

/** While it was loaded, a device could not read one of its rings through the translation in front of it. */
export class DmaOnLoadError extends VmstateError {
  override readonly code = 'FERRY_VMSTATE_DMA_ON_LOAD'
  /** idstr of the device's section, `0000:00:01.0/virtio-blk`. */
  readonly device: string
  readonly queue: number
  /** What the device put on the bus. */
  readonly iova: number

  constructor(device: string, queue: number, iova: number) {
    super(
      '',
      `${device} cannot read queue ${queue} at IOVA 0x${iova.toString(16)} while it is loaded: nothing translates or answers ` +
        'that address. Most likely the state of its IOMMU has not been loaded yet: an IOMMU must be saved, hence loaded, ' +
        'before the PCI devices behind it (MigrationPriority.IOMMU)',
    )
    this.device = device
    this.queue = queue
    this.iova = iova
  }
}
