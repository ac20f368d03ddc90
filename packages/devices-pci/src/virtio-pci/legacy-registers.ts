/** The I/O BAR of a transitional function. Spec: virtio 1.2, section 4.1.4.10. */
import type { MmioRegion } from '@ferryvm/core'
import type { VirtioPciRegisters } from './registers.ts'

const DEVICE_FEATURES = 0
const DRIVER_FEATURES = 4
const QUEUE_PFN = 8
const QUEUE_SIZE = 12
const QUEUE_SELECT = 14
const QUEUE_NOTIFY = 16
const DEVICE_STATUS = 18
const ISR_STATUS = 19
const CONFIG_VECTOR = 20
const QUEUE_VECTOR = 22
const HEADER_BYTES = 20
const HEADER_BYTES_MSIX = 24
const PFN_SHIFT = 12n
/** A driver that takes it does not mask features at all, so it gets none. */
const BAD_FEATURE = 1n << 30n
const VERSION_1 = 1n << 32n

/** I/O BAR size for that much device configuration. */
export function legacyBarBytes(configBytes: number, msix: boolean): number {
  const needed = (msix ? HEADER_BYTES_MSIX : HEADER_BYTES) + configBytes
  return 2 ** Math.ceil(Math.log2(needed))
}

export function legacyRegisters(regs: VirtioPciRegisters): MmioRegion {
  const { backend } = regs
  const selected = () => backend.queues[backend.queueSelect]
  const configStart = () => (regs.msixEnabled ? HEADER_BYTES_MSIX : HEADER_BYTES)

  function read(offset: number, bytes: 1 | 2 | 4): number {
    const start = configStart()
    if (offset >= start) return backend.readConfig(offset - start, bytes)
    switch (offset) {
      case DEVICE_FEATURES:
        return Number(backend.offeredFeatures & 0xffff_ffffn)
      case DRIVER_FEATURES:
        return Number(backend.guestFeatures & 0xffff_ffffn)
      case QUEUE_PFN:
        return Number(((selected()?.desc ?? 0n) >> PFN_SHIFT) & 0xffff_ffffn)
      case QUEUE_SIZE:
        return selected()?.size ?? 0
      case QUEUE_SELECT:
        return backend.queueSelect
      case DEVICE_STATUS:
        return backend.status
      case ISR_STATUS:
        return regs.takeIsr()
      case CONFIG_VECTOR:
        return regs.configVector
      case QUEUE_VECTOR:
        return selected()?.vector ?? 0xffff
      default:
        return 0xffff_ffff
    }
  }

  function write(offset: number, bytes: 1 | 2 | 4, value: number): void {
    const start = configStart()
    if (offset >= start) {
      backend.writeConfig(offset - start, bytes, value)
      return
    }
    switch (offset) {
      case DRIVER_FEATURES: {
        const bits = BigInt(value >>> 0)
        backend.setGuestFeatures(bits & BAD_FEATURE ? 0n : bits & (VERSION_1 - 1n))
        return
      }
      case QUEUE_PFN:
        if (value === 0) regs.reset()
        else selected()?.setLegacyBase(BigInt(value >>> 0) << PFN_SHIFT)
        return
      case QUEUE_SELECT:
        if (value < 1024) backend.queueSelect = value
        return
      case QUEUE_NOTIFY:
        regs.kick(value & 0xffff)
        return
      case DEVICE_STATUS:
        regs.writeStatus(value & 0xff)
        return
      case CONFIG_VECTOR:
        regs.configVector = regs.validVector(value & 0xffff)
        return
      case QUEUE_VECTOR: {
        const queue = selected()
        if (queue) queue.vector = regs.validVector(value & 0xffff)
        return
      }
      default:
        regs.guestError(`a legacy register at ${offset} is read-only`, value)
    }
  }

  return { read: (offset, bytes) => read(offset, bytes) >>> 0, write }
}
