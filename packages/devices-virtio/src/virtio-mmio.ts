/**
 * virtio over MMIO: eight slots that are always there. A device takes the last free one.
 * Spec: virtio 1.2, section 4.2 (4.2.4 for the legacy layout); virt-machine.md section 6.9.
 */
import {
  type AddressSpace,
  type Bus,
  type BusAttachment,
  type BusRequest,
  compileVmstate,
  DeviceConfigError,
  defineDevice,
  type IrqLine,
  type Logger,
  type MmioRegion,
  type StandardSchema,
  stateless,
  VIRTIO_QUEUE_MAX,
  VIRTQUEUE_MAX_SIZE,
  type VirtioBackend,
  type VirtioQueuePort,
  type VirtioTransport,
  type VirtioTransportState,
  VmstateRangeError,
} from '@ferryvm/core'
import { STATUS_FEATURES_OK } from './virtio-device.ts'
import { type VirtioMmioState, virtioMmioVmstate } from './virtio-mmio-state.ts'

const SLOTS = 8
const SLOT_STRIDE = 0x1000
const SLOT_BYTES = 0x200

const MAGIC = 0x7472_6976
const VENDOR = 0x554d_4551
const VERSION_LEGACY = 1
const VERSION_MODERN = 2
const F_VERSION_1 = 1n << 32n

const MAGIC_VALUE = 0x000
const VERSION = 0x004
const DEVICE_ID = 0x008
const VENDOR_ID = 0x00c
const DEVICE_FEATURES = 0x010
const DEVICE_FEATURES_SEL = 0x014
const DRIVER_FEATURES = 0x020
const DRIVER_FEATURES_SEL = 0x024
const GUEST_PAGE_SIZE = 0x028
const QUEUE_SEL = 0x030
const QUEUE_NUM_MAX = 0x034
const QUEUE_NUM = 0x038
const QUEUE_ALIGN = 0x03c
const QUEUE_PFN = 0x040
const QUEUE_READY = 0x044
const QUEUE_NOTIFY = 0x050
const INTERRUPT_STATUS = 0x060
const INTERRUPT_ACK = 0x064
const STATUS = 0x070
const QUEUE_DESC = 0x080
const QUEUE_DRIVER = 0x090
const QUEUE_DEVICE = 0x0a0
const SHM_LEN_LOW = 0x0b0
const SHM_LEN_HIGH = 0x0b4
const QUEUE_RESET = 0x0c0
const CONFIG_GENERATION = 0x0fc
const CONFIG = 0x100

const ISR_QUEUE = 1
const ISR_QUEUE_AND_CONFIG = 3

type QueueState = VirtioMmioState['vqs'][number]
type AddressKey = 'descLow' | 'descHigh' | 'availLow' | 'availHigh' | 'usedLow' | 'usedHigh'
const ADDRESSES: Readonly<Record<number, AddressKey>> = {
  [QUEUE_DESC]: 'descLow',
  [QUEUE_DESC + 4]: 'descHigh',
  [QUEUE_DRIVER]: 'availLow',
  [QUEUE_DRIVER + 4]: 'availHigh',
  [QUEUE_DEVICE]: 'usedLow',
  [QUEUE_DEVICE + 4]: 'usedHigh',
}

export interface VirtioMmioOptions {
  /** First slot. Default 0x1000_1000. */
  readonly base?: number
  /** Slots speak the legacy layout (version 1). Default true, as the reference board does. */
  readonly forceLegacy?: boolean
}

/** Placement: `irq` is the interrupt line of the first slot. */
export const virtioMmio = defineDevice({
  type: 'virtio-mmio',
  props: mmioOptions(),
  migration: stateless,
  realize(ctx, { base, forceLegacy }) {
    const slots = Array.from({ length: SLOTS }, (_, i) => {
      const slot = new Slot(base + i * SLOT_STRIDE, forceLegacy, ctx.irq(i), ctx.machine.physical, ctx.log)
      ctx.mmio(SLOT_BYTES, slot.region, { at: slot.base, name: 'virtio-mmio' })
      return slot
    })
    ctx.machine.provideBus(slotBus(slots))
    return {
      reset() {
        for (const slot of slots) slot.reset()
      },
    }
  },
})

function slotBus(slots: readonly Slot[]): Bus {
  return {
    name: 'virtio-mmio',
    accepts: ['virtio'],
    attach({ deviceId, addr, options }: BusRequest): BusAttachment {
      const stranger = Object.keys(options ?? {})[0]
      if (stranger) throw new DeviceConfigError(deviceId, `'${stranger}' is not an option of a virtio-mmio slot`)
      const slot = addr === undefined ? slots.findLast((s) => !s.taken) : slots[Number(addr)]
      if (!slot || slot.taken) {
        throw new DeviceConfigError(
          deviceId,
          addr === undefined ? 'all virtio-mmio slots are taken' : `addr=${addr} is not a free slot`,
        )
      }
      slot.taken = true
      return { path: slot.path, context: slot, dma: slot.dma, reset: () => slot.reset() }
    },
  }
}

const codec = compileVmstate(virtioMmioVmstate)

class Slot implements VirtioTransport {
  readonly kind = 'mmio'
  readonly legacyOnly: boolean
  readonly features: bigint
  readonly dma: AddressSpace
  readonly dmaEnabled = true
  readonly state: VirtioTransportState
  readonly base: number
  readonly path: string
  readonly region: MmioRegion
  taken = false
  readonly #irq: IrqLine
  readonly #log: Logger
  readonly #written = virtioMmioVmstate.createState()
  #backend: VirtioBackend | undefined
  #deviceFeaturesSel = 0
  #driverFeaturesSel = 0
  #pageShift = 0

  constructor(base: number, legacy: boolean, irq: IrqLine, memory: AddressSpace, log: Logger) {
    this.base = base
    this.path = `virtio-mmio@${base.toString(16).padStart(16, '0')}`
    this.legacyOnly = legacy
    this.features = legacy ? 0n : F_VERSION_1
    this.dma = memory
    this.#irq = irq
    this.#log = log
    this.state = this.#transportState()
    this.region = {
      read: (offset, bytes) => this.#read(offset, bytes) >>> 0,
      write: (offset, bytes, value) => this.#write(offset, bytes, value >>> 0),
    }
  }

  connect(backend: VirtioBackend): void {
    this.#backend = backend
  }

  notifyQueue(): void {
    if (this.#backend) this.#backend.isr |= ISR_QUEUE
    this.driveLine()
  }

  notifyConfig(): void {
    if (this.#backend) this.#backend.isr |= ISR_QUEUE_AND_CONFIG
    this.driveLine()
  }

  /** On every evaluation, also when nothing changes: a controller may count requests and not levels. */
  driveLine(): void {
    this.#irq.set((this.#backend?.isr ?? 0) !== 0)
  }

  reset(): void {
    if (!this.#backend) return // nothing was written to an empty slot, and its thousand queues take time
    this.#deviceFeaturesSel = this.#driverFeaturesSel = this.#pageShift = 0
    virtioMmioVmstate.resetState(this.#written)
    this.#softReset()
  }

  /** What the driver does with status 0: the legacy page size stays, and what it wrote about its queues. */
  #softReset(): void {
    this.#backend?.reset()
    for (const queue of this.#written.vqs) queue.enabled = false
    this.driveLine()
  }

  #read(offset: number, bytes: 1 | 2 | 4): number {
    const backend = this.#backend
    if (!backend) {
      // An empty slot says that it is one.
      if (offset === MAGIC_VALUE) return MAGIC
      if (offset === VERSION) return this.legacyOnly ? VERSION_LEGACY : VERSION_MODERN
      return offset === VENDOR_ID ? VENDOR : 0
    }
    if (offset >= CONFIG) return backend.readConfig(offset - CONFIG, bytes)
    if (bytes !== 4) return this.#guestError('registers are 32 bits wide', offset)
    const queue = backend.queues[backend.queueSelect]
    const written = this.#written.vqs[backend.queueSelect]!
    switch (offset) {
      case MAGIC_VALUE:
        return MAGIC
      case VERSION:
        return this.legacyOnly ? VERSION_LEGACY : VERSION_MODERN
      case DEVICE_ID:
        return backend.deviceId
      case VENDOR_ID:
        return VENDOR
      case DEVICE_FEATURES: {
        if (this.legacyOnly) return this.#deviceFeaturesSel === 0 ? Number(backend.offeredFeatures & 0xffff_ffffn) : 0
        return Number((backend.modernFeatures >> BigInt(32 * this.#deviceFeaturesSel)) & 0xffff_ffffn)
      }
      case QUEUE_NUM_MAX:
        return queue ? VIRTQUEUE_MAX_SIZE : 0
      case QUEUE_PFN:
        return this.legacyOnly && queue ? Number((queue.desc >> BigInt(this.#pageShift)) & 0xffff_ffffn) : 0
      case QUEUE_READY:
        return !this.legacyOnly && written.enabled ? 1 : 0
      case INTERRUPT_STATUS:
        return backend.isr
      case STATUS:
        return backend.status
      case CONFIG_GENERATION:
        return this.legacyOnly ? 0 : backend.configGeneration
    }
    // There is no shared memory: a length of all ones.
    return offset === SHM_LEN_LOW || offset === SHM_LEN_HIGH ? 0xffff_ffff : 0
  }

  #write(offset: number, bytes: 1 | 2 | 4, value: number): void {
    const backend = this.#backend
    if (!backend) return
    if (offset >= CONFIG) {
      backend.writeConfig(offset - CONFIG, bytes, value)
      return
    }
    if (bytes !== 4) {
      this.#guestError('registers are 32 bits wide', offset)
      return
    }
    switch (offset) {
      case DEVICE_FEATURES_SEL:
        this.#deviceFeaturesSel = value === 0 ? 0 : 1
        return
      case DRIVER_FEATURES_SEL:
        this.#driverFeaturesSel = value === 0 ? 0 : 1
        return
      case DRIVER_FEATURES:
        this.#writeFeatures(backend, value)
        return
      case QUEUE_SEL:
        if (value < VIRTIO_QUEUE_MAX) backend.queueSelect = value
        return
      case QUEUE_NOTIFY:
        backend.kick(value)
        return
      case INTERRUPT_ACK:
        backend.isr &= ~value
        this.driveLine()
        return
      case STATUS:
        this.#writeStatus(backend, value & 0xff)
        return
    }
    const queue = backend.queues[backend.queueSelect]
    if (this.legacyOnly) this.#writeLegacyQueue(queue, offset, value)
    else this.#writeModernQueue(queue, this.#written.vqs[backend.queueSelect]!, offset, value)
  }

  #writeFeatures(backend: VirtioBackend, value: number): void {
    const select = this.#driverFeaturesSel
    if (!this.legacyOnly) this.#written.guest_features[select] = value
    else if (select === 0) backend.setGuestFeatures(BigInt(value))
  }

  #writeStatus(backend: VirtioBackend, status: number): void {
    if (status === 0) {
      this.#softReset()
      return
    }
    if (!this.legacyOnly && status & ~backend.status & STATUS_FEATURES_OK) {
      const [low, high] = this.#written.guest_features
      backend.setGuestFeatures(BigInt(low!) | (BigInt(high!) << 32n))
    }
    backend.setStatus(status)
  }

  #writeLegacyQueue(queue: VirtioQueuePort | undefined, offset: number, value: number): void {
    switch (offset) {
      case GUEST_PAGE_SIZE:
        this.#pageShift = value === 0 ? 0 : 31 - Math.clz32(value & -value)
        return
      case QUEUE_NUM:
        if (queue) queue.size = value
        return
      case QUEUE_ALIGN:
        if (queue) queue.align = value
        return
      case QUEUE_PFN:
        if (value === 0) this.#softReset()
        else queue?.setLegacyBase(BigInt(value) << BigInt(this.#pageShift))
        return
      default:
        this.#guestError('a legacy slot has no such register', offset)
    }
  }

  /** What is written is kept also for a queue that does not exist: it can be read back, and it migrates. */
  #writeModernQueue(queue: VirtioQueuePort | undefined, written: QueueState, offset: number, value: number): void {
    switch (offset) {
      case QUEUE_NUM:
        written.num = value & 0xffff
        if (queue) queue.size = written.num
        return
      case QUEUE_READY:
        written.enabled = (value & 1) !== 0
        if (written.enabled && queue) {
          queue.size = written.num
          queue.setRings(
            join(written.descLow, written.descHigh),
            join(written.availLow, written.availHigh),
            join(written.usedLow, written.usedHigh),
          )
        }
        return
      case QUEUE_RESET:
        if (value !== 1) return
        queue?.reset()
        written.enabled = false
        return
    }
    const key = ADDRESSES[offset]
    if (key) written[key] = value
    else this.#guestError('no such register, or it is read-only', offset)
  }

  #guestError(message: string, offset: number): 0 {
    this.#log.guestError(message, { device: this.path, offset })
    return 0
  }

  #transportState(): VirtioTransportState {
    const slot = this
    return {
      savesAlign: true,
      savesVector: false,
      save: (out) => {
        out.putBe32(this.#deviceFeaturesSel)
        out.putBe32(this.#driverFeaturesSel)
        out.putBe32(this.#pageShift)
      },
      load: function* (input) {
        yield 12
        slot.#deviceFeaturesSel = input.getBe32()
        slot.#driverFeaturesSel = input.getBe32()
        const shift = input.getBe32()
        if (shift > 31) throw new VmstateRangeError('', `guest pages of 2^${shift} bytes`)
        slot.#pageShift = shift
      },
      extra: this.legacyOnly
        ? undefined
        : {
            save: (out) => codec.save(this.#written, out),
            load: (input) => codec.load(this.#written, input, virtioMmioVmstate.version),
          },
      loaded: () => this.driveLine(),
    }
  }
}

const join = (low: number, high: number): bigint => BigInt(low) | (BigInt(high) << 32n)

function mmioOptions(): StandardSchema<VirtioMmioOptions, Required<VirtioMmioOptions>> {
  return {
    '~standard': {
      version: 1,
      vendor: 'ferryvm',
      validate(value) {
        const { base = 0x1000_1000, forceLegacy = true, ...rest } = (value ?? {}) as Record<string, unknown>
        const unknown = Object.keys(rest)[0]
        if (unknown) return { issues: [{ message: 'is not an option of virtio-mmio', path: [unknown] }] }
        if (typeof base !== 'number') return { issues: [{ message: 'must be a number', path: ['base'] }] }
        if (typeof forceLegacy !== 'boolean')
          return { issues: [{ message: 'must be true or false', path: ['forceLegacy'] }] }
        return { value: { base, forceLegacy } }
      },
    },
  }
}
