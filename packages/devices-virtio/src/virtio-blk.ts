/**
 * virtio block device on any {@link BlockBackend}.
 * Spec: virtio 1.2, section 5.2; virt-machine.md section 6.9 for what is offered. Requests run concurrently; those
 * that fail on the host are answered with S_IOERR.
 */
import {
  type BlockBackend,
  defineDevice,
  type OutputGate,
  pageMissingIn,
  registersItself,
  type StandardSchema,
  type VirtioTransport,
  VmstateRangeError,
} from '@ferryvm/core'
import { QUEUE_SIZE, type VirtioBlkState, virtioBlkTable } from './virtio-blk-vmstate.ts'
import { feature, VirtioDevice, type VirtioModel, type VirtioModelState } from './virtio-device.ts'
import { registerVirtioSection } from './virtio-section.ts'
import { gather, scatter, segmentBytes, type Virtqueue, type VirtqueueElement } from './virtqueue.ts'

const DEVICE_ID = 2
const CONFIG_BYTES = 57
const SECTOR = 512
const SEG_MAX = QUEUE_SIZE - 2
const MAX_QUEUES = 64

const F_RO = feature(5)
const F_SCSI = feature(7)
const F_FLUSH = feature(9)
const F_CONFIG_WCE = feature(11)
const F_MQ = feature(12)
const F_ANY_LAYOUT = feature(27)
/** SEG_MAX, GEOMETRY, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, DISCARD, WRITE_ZEROES. */
const F_ALWAYS = feature(2, 4, 6, 9, 10, 11, 13, 14)

const T_IN = 0
const T_OUT = 1
const T_FLUSH = 4
const T_GET_ID = 8
const T_DISCARD = 11
const T_WRITE_ZEROES = 13
const S_OK = 0
const S_IOERR = 1
const S_UNSUPP = 2
const HEADER_BYTES = 16
const ID_BYTES = 20
/** One range of a discard or write-zeroes request: sector, count, flags. */
const RANGE_BYTES = 16
const RANGE_UNMAP = 1
const MAX_RANGE_SECTORS = 0x3f_ffff

/** Requests that are on their way to the host at a time, and how much of one is held in memory at a time. */
const MAX_IN_FLIGHT = 64
const CHUNK_BYTES = 256 * 1024
/** After so many the event loop gets a turn. */
const COMPLETIONS_PER_TURN = 256

const CONFIG_WCE_AT = 32

export interface VirtioBlkOptions {
  readonly drive: BlockBackend
  /** At most 20 bytes, shown to the guest as the serial number. */
  readonly serial?: string
  /** Default: one per hart on PCI, else 1. */
  readonly numQueues?: number
}

interface Request {
  readonly element: VirtqueueElement
  readonly queue: Virtqueue
}

export const virtioBlk = defineDevice({
  type: 'virtio-blk',
  props: blkOptions(),
  bus: 'virtio',
  migration: registersItself,
  realize(ctx, { drive, serial, numQueues }) {
    const transport = ctx.bus as VirtioTransport
    const queueCount = numQueues ?? (transport.kind === 'pci' ? Math.max(1, ctx.machine.harts.length) : 1)
    const blk = new VirtioBlk(drive, serial ?? '', queueCount, transport)
    const device = new VirtioDevice(ctx, blk)
    blk.device = device
    blk.output = ctx.machine.output
    // What a checkpoint goes back to is loaded with the device's section, so there is nothing to do for `discard`.
    const decisions = blk.output.onDecision((what) => {
      if (what === 'release') blk.restartParked(true)
    })
    registerVirtioSection(ctx, device, 2)
    return {
      reset: () => device.reset(),
      resume: () => {
        blk.restartParked(!blk.output.closed)
        device.resume()
      },
      quiesce: () => {
        device.quiesce()
        return blk.drain()
      },
      unrealize: async () => {
        device.quiesce()
        await blk.drain()
        decisions[Symbol.dispose]()
        await drive.close?.()
      },
      describe: () => `${drive.capacityBytes} bytes${drive.readOnly ? ', read-only' : ''}`,
    }
  },
})

class VirtioBlk implements VirtioModel {
  readonly name = 'virtio-blk'
  readonly deviceId = DEVICE_ID
  readonly configBytes = CONFIG_BYTES
  readonly queueSizes: readonly number[]
  readonly features: bigint
  readonly withoutFeatures: bigint
  readonly state: VirtioModelState<VirtioBlkState> = {
    table: virtioBlkTable,
    collect: () => ({ requests: this.#parked.map(({ element, queue }) => ({ queue: queue.index, element })) }),
    accept: ({ requests }) => {
      this.#parked = requests.map(({ queue: index, element }) => {
        const queue = this.device.queues[index]
        if (!queue) throw new VmstateRangeError('', `a request in flight of queue ${index}, which does not exist`)
        return { queue, element }
      })
    },
  }
  device!: VirtioDevice
  output!: OutputGate
  readonly #drive: BlockBackend
  readonly #serial: Uint8Array
  #writeCache = true
  /** Loaded as in flight, or held back from the world; they start on resume, or when let out. */
  #parked: Request[] = []
  readonly #inFlight = new Set<Promise<void>>()
  /** A reset came while requests were on their way: nothing new starts before they are over. */
  #settling = false
  #sinceTurn = 0

  constructor(drive: BlockBackend, serial: string, queueCount: number, transport: VirtioTransport) {
    this.#drive = drive
    this.#serial = new TextEncoder().encode(serial).subarray(0, ID_BYTES)
    this.queueSizes = Array<number>(queueCount).fill(QUEUE_SIZE)
    this.features =
      F_ALWAYS | (drive.readOnly ? F_RO : 0n) | (queueCount > 1 ? F_MQ : 0n) | (transport.legacyOnly ? F_SCSI : 0n)
    this.withoutFeatures = transport.legacyOnly ? F_ANY_LAYOUT : 0n
  }

  /** Spec: virtio 1.2, section 5.2.4. */
  readConfig(into: Uint8Array): void {
    const view = new DataView(into.buffer, into.byteOffset, into.length)
    const sectors = Math.floor(this.#drive.capacityBytes / SECTOR)
    const heads = 16
    const sectorsPerTrack = 63
    into.fill(0)
    view.setBigUint64(0, BigInt(sectors), true)
    view.setUint32(12, SEG_MAX, true)
    view.setUint16(16, Math.min(16383, Math.max(2, Math.floor(sectors / (heads * sectorsPerTrack)))), true)
    view.setUint8(18, heads)
    view.setUint8(19, sectorsPerTrack)
    view.setUint32(20, SECTOR, true)
    view.setUint8(CONFIG_WCE_AT, this.#writeCache ? 1 : 0)
    view.setUint16(34, this.queueSizes.length, true)
    view.setUint32(36, MAX_RANGE_SECTORS, true)
    view.setUint32(40, 1, true)
    view.setUint32(44, 1, true)
    view.setUint32(48, MAX_RANGE_SECTORS, true)
    view.setUint32(52, 1, true)
    view.setUint8(56, 1)
  }

  writeConfig(config: Uint8Array): void {
    this.#writeCache = config[CONFIG_WCE_AT] !== 0
  }

  /** A driver that cannot ask for a flush wants every write to be stable. */
  statusChanged(): void {
    if (this.device.started && !this.device.has(F_CONFIG_WCE)) this.#writeCache = this.device.has(F_FLUSH)
  }

  reset(): void {
    this.#writeCache = true
    this.#parked = []
    if (this.#inFlight.size === 0) return
    this.#settling = true
    void this.drain().then(() => {
      this.#settling = false
      this.device.kickAll()
    })
  }

  process(queue: Virtqueue): void {
    if (this.#settling) return
    queue.setNotification(false)
    for (;;) {
      while (this.#inFlight.size < MAX_IN_FLIGHT) {
        const element = queue.pop()
        if (!element) break
        const request = { element, queue }
        if (this.#mustWait(request)) this.#parked.push(request)
        else this.#start(request)
      }
      // With all places taken the driver need not tell us of more: we come back when one is free.
      if (this.#inFlight.size >= MAX_IN_FLIGHT) return
      queue.setNotification(true)
      if (!queue.pending) return
      queue.setNotification(false)
    }
  }

  async drain(): Promise<void> {
    while (this.#inFlight.size > 0) await Promise.all(this.#inFlight)
  }

  /**
   * Those whose memory is there; the others follow when it is.
   * @param all also what changes the disk, which otherwise stays parked while output is held
   */
  restartParked(all: boolean): void {
    const { epoch } = this.device
    for (let at = 0; at < this.#parked.length; ) {
      const request = this.#parked[at]!
      try {
        request.queue.demand(request.element)
      } catch (error) {
        const missing = pageMissingIn(error)
        if (!missing) throw error
        void missing.arrived.then(() => this.device.epoch === epoch && this.device.running && this.restartParked(all))
        return
      }
      if (!all && this.#mustWait(request)) at++
      else {
        this.#parked.splice(at, 1)
        this.#start(request)
      }
    }
  }

  /** Writes wait until they may be seen; being in flight, they are part of what is saved meanwhile. */
  #mustWait({ element }: Request): boolean {
    if (!this.output.closed) return false
    const type = new Uint8Array(4)
    if (!gather(this.device.dma, element.out, 0, type)) return false // it is refused anyway
    const number = new DataView(type.buffer).getUint32(0, true)
    return number === T_OUT || number === T_FLUSH || number === T_DISCARD || number === T_WRITE_ZEROES
  }

  loaded(config: Uint8Array): void {
    this.statusChanged()
    // The sender's write cache mode is only known where its driver has read the configuration.
    const capacityKnown = config.subarray(0, 8).some((byte) => byte !== 0)
    if (this.device.has(F_CONFIG_WCE) && capacityKnown) this.#writeCache = config[CONFIG_WCE_AT] !== 0
  }

  #start(request: Request): void {
    const { epoch } = this.device
    const done = this.#serve(request, epoch).then(
      () => {
        this.#inFlight.delete(done)
        if (this.#settling || this.device.epoch !== epoch) return
        // A disk in memory answers without giving way; a guest that is as fast would keep the device thread to itself.
        if (++this.#sinceTurn < COMPLETIONS_PER_TURN) this.device.process(request.queue.index)
        else if (this.#sinceTurn === COMPLETIONS_PER_TURN) {
          setTimeout(() => {
            this.#sinceTurn = 0
            this.device.kickAll()
          }, 0)
        }
      },
      (error: unknown) => {
        this.#inFlight.delete(done)
        this.device.fail(`request ${request.element.index}: ${String(error)}`)
      },
    )
    this.#inFlight.add(done)
  }

  async #serve({ element, queue }: Request, epoch: number): Promise<void> {
    const { dma } = this.device
    const header = new Uint8Array(HEADER_BYTES)
    const inBytes = segmentBytes(element.in)
    if (inBytes < 1 || !gather(dma, element.out, 0, header)) {
      this.device.fail(
        `queue ${queue.index}: request ${element.index} has no readable header or no room for its status`,
      )
      return
    }
    const status = await this.#execute(element, new DataView(header.buffer), inBytes - 1, epoch).catch(
      (error: unknown) => {
        this.device.reportIoError(error)
        return S_IOERR
      },
    )
    if (this.device.epoch !== epoch) return
    if (!scatter(dma, element.in, inBytes - 1, Uint8Array.of(status))) {
      this.device.fail(`queue ${queue.index}: the status of request ${element.index} cannot be written`)
      return
    }
    queue.push(element, inBytes)
  }

  async #execute(element: VirtqueueElement, header: DataView, inBytes: number, epoch: number): Promise<number> {
    const sector = header.getBigUint64(8, true)
    const outBytes = segmentBytes(element.out) - HEADER_BYTES
    switch (header.getUint32(0, true)) {
      case T_IN:
        return this.#read(element, sector, inBytes, epoch)
      case T_OUT:
        return this.#write(element, sector, outBytes, epoch)
      case T_FLUSH:
        await this.#drive.flush()
        return S_OK
      case T_GET_ID: {
        const id = new Uint8Array(Math.min(ID_BYTES, inBytes))
        id.set(this.#serial.subarray(0, id.length))
        return scatter(this.device.dma, element.in, 0, id) ? S_OK : S_IOERR
      }
      case T_DISCARD:
        return this.#eraseRange(element, outBytes, true)
      case T_WRITE_ZEROES:
        return this.#eraseRange(element, outBytes, false)
      default:
        return S_UNSUPP
    }
  }

  async #read(element: VirtqueueElement, sector: bigint, bytes: number, epoch: number): Promise<number> {
    const offset = this.#offset(sector, bytes)
    if (offset === undefined) return S_IOERR
    const buffer = new Uint8Array(Math.min(bytes, CHUNK_BYTES))
    for (let done = 0; done < bytes; done += buffer.length) {
      const chunk = buffer.subarray(0, Math.min(buffer.length, bytes - done))
      await this.#drive.read(offset + done, chunk)
      if (this.device.epoch !== epoch) return S_IOERR
      if (!scatter(this.device.dma, element.in, done, chunk)) return S_IOERR
    }
    return S_OK
  }

  async #write(element: VirtqueueElement, sector: bigint, bytes: number, epoch: number): Promise<number> {
    const offset = this.#offset(sector, bytes)
    if (offset === undefined || this.#drive.readOnly) return S_IOERR
    const buffer = new Uint8Array(Math.min(bytes, CHUNK_BYTES))
    for (let done = 0; done < bytes; done += buffer.length) {
      if (this.device.epoch !== epoch) return S_IOERR
      const chunk = buffer.subarray(0, Math.min(buffer.length, bytes - done))
      if (!gather(this.device.dma, element.out, HEADER_BYTES + done, chunk)) return S_IOERR
      await this.#drive.write(offset + done, chunk)
    }
    if (!this.#writeCache) await this.#drive.flush()
    return S_OK
  }

  async #eraseRange(element: VirtqueueElement, bytes: number, discard: boolean): Promise<number> {
    if (this.#drive.readOnly) return S_IOERR
    if (bytes !== RANGE_BYTES) return S_UNSUPP // max_discard_seg and max_write_zeroes_seg are 1
    const range = new Uint8Array(RANGE_BYTES)
    if (!gather(this.device.dma, element.out, HEADER_BYTES, range)) return S_IOERR
    const view = new DataView(range.buffer)
    const sectors = view.getUint32(8, true)
    const flags = view.getUint32(12, true)
    if (flags & ~RANGE_UNMAP || (discard && flags !== 0)) return S_UNSUPP
    const length = sectors * SECTOR
    const offset = sectors > MAX_RANGE_SECTORS ? undefined : this.#offset(view.getBigUint64(0, true), length)
    if (offset === undefined) return S_IOERR
    if (discard) await this.#drive.discard?.(offset, length)
    else if (this.#drive.writeZeroes) await this.#drive.writeZeroes(offset, length)
    else {
      const zeros = new Uint8Array(Math.min(length, CHUNK_BYTES))
      for (let done = 0; done < length; done += zeros.length) {
        await this.#drive.write(offset + done, zeros.subarray(0, Math.min(zeros.length, length - done)))
      }
    }
    if (!this.#writeCache) await this.#drive.flush()
    return S_OK
  }

  /** Byte offset of a range, if it is made of whole sectors that exist. */
  #offset(sector: bigint, bytes: number): number | undefined {
    const start = sector * BigInt(SECTOR)
    return bytes % SECTOR === 0 && start + BigInt(bytes) <= BigInt(this.#drive.capacityBytes)
      ? Number(start)
      : undefined
  }
}

function blkOptions(): StandardSchema<VirtioBlkOptions, VirtioBlkOptions> {
  return {
    '~standard': {
      version: 1,
      vendor: 'ferryvm',
      validate(value) {
        const given = (value ?? {}) as Record<string, unknown>
        // `-device` strings spell it with a hyphen.
        const { drive, serial, 'num-queues': spelled, numQueues = spelled, ...rest } = given
        const issues: { message: string; path: string[] }[] = []
        const bad = (path: string, message: string) => issues.push({ message, path: [path] })
        for (const key of Object.keys(rest)) bad(key, 'is not an option of virtio-blk')
        if (!isBackend(drive)) bad('drive', 'must be a disk, as rawFile() or memoryBlock() make')
        if (serial !== undefined && typeof serial !== 'string') bad('serial', 'must be a text')
        const count = numQueues === undefined ? undefined : Number(numQueues)
        if (count !== undefined && !(Number.isInteger(count) && count >= 1 && count <= MAX_QUEUES)) {
          bad('numQueues', `must be 1 to ${MAX_QUEUES}`)
        }
        if (issues.length > 0) return { issues }
        return { value: { drive: drive as BlockBackend, serial: serial as string | undefined, numQueues: count } }
      },
    },
  }
}

function isBackend(value: unknown): value is BlockBackend {
  const v = value as Partial<BlockBackend> | undefined
  return typeof v?.read === 'function' && typeof v.write === 'function' && typeof v.flush === 'function'
}
