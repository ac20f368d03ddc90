/**
 * What all virtio devices have in common, whatever bus they are on: features, status, configuration, queues, migration.
 * Spec: virtio 1.2, section 2; virt-vmstate.md section 9.
 */
import {
  type DeviceContext,
  pageMissingIn,
  type VirtioBackend,
  type VirtioTransport,
  type Vmstate,
  VmstateMismatchError,
} from '@ferryvm/core'
import { DmaOnLoadError } from './dma-on-load-error.ts'
import { Virtqueue, type VirtqueueHost } from './virtqueue.ts'

export const STATUS_DRIVER_OK = 4
export const STATUS_FEATURES_OK = 8
export const STATUS_NEEDS_RESET = 0x40
const VERSION_1 = 1n << 32n
const ACCESS_PLATFORM = 1n << 33n

/** The value with these bits set. */
export const feature = (...bits: number[]): bigint => bits.reduce((sum, bit) => sum | (1n << BigInt(bit)), 0n)
/** NOTIFY_ON_EMPTY, ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX, RING_RESET: every device. Spec: virt-machine.md section 6.9. */
const COMMON_FEATURES = feature(24, 27, 28, 29, 40)
/** NOTIFY_ON_EMPTY, ANY_LAYOUT and PCI's BAD_FEATURE mean nothing to a modern driver. */
const LEGACY_FEATURES = feature(24, 27, 30)
/** Used ring alignment before a legacy driver says otherwise. */
const LEGACY_ALIGN = 4096

/** What the layout of a device's own data depends on. Both are read before it. */
export interface VirtioLayoutFacts {
  readonly queues: number
  /** Bits 0 to 31 of what the driver accepted. */
  readonly guestFeatures: number
}

/** Part D of the section. Spec: virt-vmstate.md section 9. */
export interface VirtioModelState<S = any> {
  /** The same facts give the same table. */
  table(facts: VirtioLayoutFacts): Vmstate<S>
  /** What is saved. */
  collect(): S
  /** What was loaded. The rings are not known yet. @throws VmstateMismatchError it does not fit this device */
  accept(state: S): void
}

/** One kind of virtio device. */
export interface VirtioModel {
  /** vmstate name. */
  readonly name: string
  readonly deviceId: number
  readonly queueSizes: readonly number[]
  readonly features: bigint
  /** Offered by every device, but not by this one. */
  readonly withoutFeatures?: bigint
  /** Offered to legacy drivers only, besides those that always are. */
  readonly legacyFeatures?: bigint
  readonly configBytes: number
  /** See `VirtioBackend`. */
  readonly msixVectors?: number
  /** The driver notified, or processing may go on: pop until `pop` says undefined. */
  process(queue: Virtqueue): void
  /** Current configuration, little-endian, `configBytes` long. */
  readConfig?(into: Uint8Array): void
  /** The guest changed configuration; `config` is what it looks like now. */
  writeConfig?(config: Uint8Array): void
  /** The driver accepted other features; not after a reset or a load. */
  featuresChanged?(): void
  /** After status changed, not after a reset. */
  statusChanged?(status: number): void
  reset?(): void
  /** Absent: the device has no data of its own. */
  readonly state?: VirtioModelState
  /** Everything is loaded. @param config as the sender's driver last read it; zeros when it never did */
  loaded?(config: Uint8Array): void
}

export class VirtioDevice implements VirtioBackend, VirtqueueHost {
  readonly name: string
  readonly deviceId: number
  readonly configBytes: number
  readonly queues: readonly Virtqueue[]
  readonly msixVectors: number | undefined
  readonly offeredFeatures: bigint
  readonly modernFeatures: bigint
  readonly transport: VirtioTransport
  readonly model: VirtioModel
  /** idstr of the section, for messages. */
  readonly idstr: string
  /** As the guest last read it. */
  readonly config: Uint8Array
  guestFeatures = 0n
  status = 0
  isr = 0
  queueSelect = 0
  configGeneration = 0
  broken = false
  disabled = false
  /** DRIVER_OK was set, or a legacy driver notified before it. */
  started = false
  /** Counts resets: what was begun before one must not touch the guest after it. */
  epoch = 0
  readonly #log: DeviceContext<unknown>['log']
  #running = false
  #processing = false
  #again = new Set<number>()

  constructor(ctx: Pick<DeviceContext<unknown>, 'bus' | 'path' | 'log'>, model: VirtioModel) {
    this.transport = ctx.bus as VirtioTransport
    this.model = model
    this.name = model.name
    this.deviceId = model.deviceId
    this.configBytes = model.configBytes
    this.msixVectors = model.msixVectors
    this.config = new Uint8Array(model.configBytes)
    this.idstr = ctx.path ? `${ctx.path}/${model.name}` : model.name
    this.#log = ctx.log
    this.offeredFeatures = (COMMON_FEATURES & ~(model.withoutFeatures ?? 0n)) | model.features | this.transport.features
    this.modernFeatures = this.offeredFeatures & ~(LEGACY_FEATURES | (model.legacyFeatures ?? 0n))
    this.queues = model.queueSizes.map((size, index) => new Virtqueue(index, size, LEGACY_ALIGN, this))
    this.transport.connect(this)
  }

  get dma() {
    return this.transport.dma
  }

  get modern(): boolean {
    return (this.guestFeatures & VERSION_1) !== 0n
  }

  has(bits: bigint): boolean {
    return (this.guestFeatures & bits) === bits
  }

  get usable(): boolean {
    return !this.broken && !this.disabled
  }

  /** Between `resume` and `quiesce`. */
  get running(): boolean {
    return this.#running
  }

  setGuestFeatures(bits: bigint): boolean {
    if (this.status & STATUS_FEATURES_OK) return false
    this.guestFeatures = bits & this.offeredFeatures
    this.model.featuresChanged?.()
    return this.guestFeatures === bits
  }

  setStatus(status: number): void {
    const fresh = status & ~this.status
    if (
      fresh & STATUS_FEATURES_OK &&
      this.modern &&
      this.offeredFeatures & ACCESS_PLATFORM &&
      !this.has(ACCESS_PLATFORM)
    ) {
      this.#log.guestError('the driver must accept ACCESS_PLATFORM', { device: this.idstr })
      status &= ~STATUS_FEATURES_OK
    }
    this.status = status
    this.started = (status & STATUS_DRIVER_OK) !== 0
    this.model.statusChanged?.(status)
    // A driver must not notify before DRIVER_OK, but may have filled its queues.
    if (fresh & STATUS_DRIVER_OK) this.kickAll()
  }

  readConfig(offset: number, bytes: 1 | 2 | 4): number {
    if (offset + bytes > this.configBytes) return bytes === 4 ? 0xffff_ffff : bytes === 2 ? 0xffff : 0xff
    this.model.readConfig?.(this.config)
    let value = 0
    for (let i = bytes - 1; i >= 0; i--) value = (value << 8) | this.config[offset + i]!
    return value >>> 0
  }

  writeConfig(offset: number, bytes: 1 | 2 | 4, value: number): void {
    if (offset + bytes > this.configBytes) return
    for (let i = 0; i < bytes; i++) this.config[offset + i] = (value >>> (8 * i)) & 0xff
    this.model.writeConfig?.(this.config)
  }

  kick(queue: number): void {
    const vq = this.queues[queue]
    if (!vq?.ready) {
      this.#log.guestError('a queue that does not exist or has no rings was notified', { device: this.idstr, queue })
      return
    }
    if (!this.started && !this.modern && this.status !== 0) this.started = true
    this.process(queue)
  }

  kickAll(): void {
    for (const queue of this.queues) if (queue.ready) this.process(queue.index)
  }

  /**
   * Lets the model work on a queue. A kick from inside (the guest aimed a buffer at our own registers) is done after
   * the current one instead of inside of it.
   */
  process(queue: number): void {
    if (!this.#running || !this.started || !this.usable) return
    this.#again.add(queue)
    if (this.#processing) return
    this.#processing = true
    try {
      // Each queue once more at most: a guest that keeps kicking from inside would never let go of us.
      for (let budget = 2 * this.queues.length; budget > 0 && this.#again.size > 0; budget--) {
        const [next] = this.#again
        this.#again.delete(next!)
        const vq = this.queues[next!]
        if (vq?.ready && this.usable && this.started) this.#serve(vq)
      }
    } finally {
      this.#again.clear()
      this.#processing = false
    }
  }

  /** A queue whose next request needs memory that has not arrived waits for it; nothing of that request has begun. */
  #serve(queue: Virtqueue): void {
    try {
      this.model.process(queue)
    } catch (error) {
      const missing = pageMissingIn(error)
      if (!missing) throw error
      const { epoch } = this
      void missing.arrived.then(() => this.epoch === epoch && this.process(queue.index))
    }
  }

  fail(message: string): void {
    this.#log.guestError(`device broken: ${message}`, { device: this.idstr })
    this.broken = true
    if (!this.modern || this.status & STATUS_NEEDS_RESET) return
    this.status |= STATUS_NEEDS_RESET
    this.configChanged()
  }

  /** The host refused; the guest is told with the status of its request. */
  reportIoError(error: unknown): void {
    this.#log.warn('I/O error', { device: this.idstr, error: String(error) })
  }

  interrupt(queue: Virtqueue): void {
    this.transport.notifyQueue(queue)
  }

  configChanged(): void {
    if (!(this.status & STATUS_DRIVER_OK)) return
    this.configGeneration++
    this.transport.notifyConfig()
  }

  reset(): void {
    this.epoch++
    this.guestFeatures = 0n
    this.status = this.isr = this.queueSelect = this.configGeneration = 0
    this.broken = this.disabled = this.started = false
    for (const queue of this.queues) queue.reset()
    this.model.reset?.()
  }

  resume(): void {
    this.#running = true
    this.kickAll()
  }

  quiesce(): void {
    this.#running = false
  }

  /** Spec: virt-vmstate.md section 9, "Receiver work". @throws VmstateMismatchError @throws DmaOnLoadError */
  finishLoad(features: bigint, hasRings: boolean): void {
    const foreign = features & ~this.offeredFeatures
    if (foreign !== 0n) {
      throw new VmstateMismatchError(
        '',
        `the driver uses features 0x${features.toString(16)}, of which this device does not offer 0x${foreign.toString(16)}`,
      )
    }
    this.guestFeatures = features
    for (const queue of this.queues) {
      if (!queue.ready) {
        if (queue.lastAvailIdx === 0) continue
        throw new VmstateMismatchError(
          '',
          `queue ${queue.index} has no rings but stands at index ${queue.lastAvailIdx}`,
        )
      }
      if (!this.modern || !hasRings) queue.layOutLegacy()
      this.#checkRing(queue)
    }
    this.model.loaded?.(this.config)
    this.transport.state.loaded()
  }

  #checkRing(queue: Virtqueue): void {
    queue.usedIdx = queue.lastAvailIdx
    queue.inUse = 0
    if (!this.transport.dmaEnabled) return
    const indices = queue.readIndices()
    if ('failed' in indices) throw new DmaOnLoadError(this.idstr, queue.index, indices.failed)
    queue.usedIdx = indices.used
    queue.inUse = (queue.lastAvailIdx - indices.used) & 0xffff
    if (queue.inUse > queue.size) {
      throw new VmstateMismatchError(
        '',
        `queue ${queue.index} of ${this.idstr} has ${queue.size} entries but ${queue.inUse} in use (taken up to ` +
          `${queue.lastAvailIdx}, used index in memory ${indices.used}): guest memory, or the IOMMU through which it was ` +
          'read, is not what the sender had',
      )
    }
    if (((indices.avail - queue.lastAvailIdx) & 0xffff) > queue.size) {
      this.fail(`queue ${queue.index}: avail index ${indices.avail} is too far ahead of ${queue.lastAvailIdx}`)
    }
  }
}
