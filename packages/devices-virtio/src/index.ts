/** virtio devices (block, entropy), virtqueues, and the virtio-mmio slots of the `virt` board. */
export { DmaOnLoadError } from './dma-on-load-error.ts'
export { memoryBlock } from './memory-block.ts'
export { type VirtioBlkOptions, virtioBlk } from './virtio-blk.ts'
export { VirtioDevice, type VirtioModel } from './virtio-device.ts'
export { type VirtioMmioOptions, virtioMmio } from './virtio-mmio.ts'
export { type VirtioRngOptions, virtioRng } from './virtio-rng.ts'
export { registerVirtioSection } from './virtio-section.ts'
export { gather, type Segment, scatter, segmentBytes, Virtqueue, type VirtqueueElement } from './virtqueue.ts'
