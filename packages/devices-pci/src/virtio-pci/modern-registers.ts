/** Common configuration of a modern virtio function. Spec: virtio 1.2, section 4.1.4.3. */
import { type MmioRegion, VIRTIO_NO_VECTOR } from '@ferryvm/core'
import type { ModernQueueState, VirtioPciState } from './modern-state.ts'
import type { VirtioPciRegisters } from './registers.ts'

const DEVICE_FEATURE_SELECT = 0
const DEVICE_FEATURE = 4
const DRIVER_FEATURE_SELECT = 8
const DRIVER_FEATURE = 12
const CONFIG_MSIX_VECTOR = 16
const NUM_QUEUES = 18
const DEVICE_STATUS = 20
const CONFIG_GENERATION = 21
const QUEUE_SELECT = 22
const QUEUE_SIZE = 24
const QUEUE_MSIX_VECTOR = 26
const QUEUE_ENABLE = 28
const QUEUE_NOTIFY_OFF = 30
const QUEUE_DESC = 32
const QUEUE_DRIVER = 40
const QUEUE_DEVICE = 48
const QUEUE_RESET = 58

type AddressKey = 'descLow' | 'descHigh' | 'availLow' | 'availHigh' | 'usedLow' | 'usedHigh'
const ADDRESSES: Readonly<Record<number, AddressKey>> = {
  [QUEUE_DESC]: 'descLow',
  [QUEUE_DESC + 4]: 'descHigh',
  [QUEUE_DRIVER]: 'availLow',
  [QUEUE_DRIVER + 4]: 'availHigh',
  [QUEUE_DEVICE]: 'usedLow',
  [QUEUE_DEVICE + 4]: 'usedHigh',
}

export function commonConfiguration(regs: VirtioPciRegisters, state: VirtioPciState): MmioRegion {
  const { backend } = regs
  const selected = () => backend.queues[backend.queueSelect]
  const written = (): ModernQueueState => state.vqs[backend.queueSelect]!

  function read(offset: number): number {
    switch (offset) {
      case DEVICE_FEATURE_SELECT:
        return state.dfselect
      case DEVICE_FEATURE:
        return word(backend.modernFeatures, state.dfselect)
      case DRIVER_FEATURE_SELECT:
        return state.gfselect
      case DRIVER_FEATURE:
        return state.guest_features[state.gfselect] ?? 0
      case CONFIG_MSIX_VECTOR:
        return regs.configVector
      case NUM_QUEUES:
        return backend.queues.length
      case DEVICE_STATUS:
        return backend.status
      case CONFIG_GENERATION:
        return backend.configGeneration & 0xff
      case QUEUE_SELECT:
        return backend.queueSelect
      case QUEUE_NOTIFY_OFF:
        return backend.queueSelect
    }
    switch (offset) {
      case QUEUE_SIZE:
        return selected()?.size ?? 0
      case QUEUE_MSIX_VECTOR:
        return selected()?.vector ?? VIRTIO_NO_VECTOR
      case QUEUE_ENABLE:
        return written().enabled ? 1 : 0
      case QUEUE_RESET:
        return 0 // a reset is over when the write returns
    }
    const key = ADDRESSES[offset]
    return key ? written()[key] : 0
  }

  function write(offset: number, value: number): void {
    switch (offset) {
      case DEVICE_FEATURE_SELECT:
        state.dfselect = value
        return
      case DRIVER_FEATURE_SELECT:
        state.gfselect = value
        return
      case DRIVER_FEATURE:
        if (state.gfselect >= state.guest_features.length) return
        state.guest_features[state.gfselect] = value
        backend.setGuestFeatures(BigInt(state.guest_features[0]!) | (BigInt(state.guest_features[1]!) << 32n))
        return
      case CONFIG_MSIX_VECTOR:
        regs.configVector = regs.validVector(value)
        return
      case DEVICE_STATUS:
        regs.writeStatus(value & 0xff)
        return
      case QUEUE_SELECT:
        if (value < state.vqs.length) backend.queueSelect = value
        return
    }
    // What is written is kept also for a queue that does not exist: it can be read back, and it migrates.
    const queue = selected()
    const mine = written()
    switch (offset) {
      case QUEUE_SIZE:
        mine.num = value
        if (queue) queue.size = value
        return
      case QUEUE_MSIX_VECTOR:
        if (queue) queue.vector = regs.validVector(value)
        return
      case QUEUE_ENABLE:
        if (value !== 1) {
          backend.fail(`queue_enable was written with ${value}; a queue is never disabled by a write`)
          return
        }
        mine.enabled = true
        if (!queue) return
        queue.size = mine.num
        queue.setRings(
          join(mine.descLow, mine.descHigh),
          join(mine.availLow, mine.availHigh),
          join(mine.usedLow, mine.usedHigh),
        )
        return
      case QUEUE_RESET:
        if (value !== 1) return
        queue?.reset()
        mine.enabled = false
        return
    }
    const key = ADDRESSES[offset]
    if (key) mine[key] = value
  }

  return { read: (offset) => read(offset) >>> 0, write: (offset, _bytes, value) => write(offset, value) }
}

/** After a device reset: what the driver said of queues is forgotten, what it selected is not. */
export function resetModernQueues(state: VirtioPciState): void {
  for (const q of state.vqs) {
    q.num = q.descLow = q.descHigh = q.availLow = q.availHigh = q.usedLow = q.usedHigh = 0
    q.enabled = false
  }
}

const word = (bits: bigint, select: number): number =>
  select > 1 ? 0 : Number((bits >> BigInt(32 * select)) & 0xffff_ffffn)
const join = (low: number, high: number): bigint => BigInt(low) | (BigInt(high) << 32n)
