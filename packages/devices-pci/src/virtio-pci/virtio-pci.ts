/**
 * virtio over PCI: transitional by default, modern only with `disable-legacy=on`.
 * Spec: virtio 1.2, section 4.1; virt-machine.md section 6.8 and virt-vmstate.md sections 8 and 9 for places and bytes.
 */
import {
  type AddressSpace,
  type BusRequest,
  compileVmstate,
  DeviceConfigError,
  type Logger,
  type MmioRegion,
  type PciFunction,
  type PciMsix,
  type PciSlot,
  VIRTIO_NO_VECTOR,
  type VirtioBackend,
  type VirtioQueuePort,
  type VirtioTransport,
  type VirtioTransportState,
} from '@ferryvm/core'
import { pciFunctionVmstate } from '../pci-function-vmstate.ts'
import { hasTransitionalId, virtioIdentity } from './identity.ts'
import { legacyBarBytes, legacyRegisters } from './legacy-registers.ts'
import { commonConfiguration, resetModernQueues } from './modern-registers.ts'
import { virtioPciVmstate } from './modern-state.ts'
import type { VirtioPciRegisters } from './registers.ts'

const VERSION_1 = 1n << 32n
/** Shown to legacy drivers: one that takes it does not mask features at all. */
const BAD_FEATURE = 1n << 30n
const ACCESS_PLATFORM = 1n << 33n
const STATUS_DRIVER_OK = 4
const ISR_QUEUE = 1
const ISR_QUEUE_AND_CONFIG = 3
const COMMAND_REGISTER = 4

const BAR_LEGACY = 0
const BAR_MSIX = 1
const BAR_MODERN = 4
const MODERN_BAR_BYTES = 0x4000
const REGION_BYTES = 0x1000
const COMMON = 0x0000
const ISR = 0x1000
const DEVICE = 0x2000
const NOTIFY = 0x3000
const NOTIFY_MULTIPLIER = 4

/** Vendor-specific capability and its `cfg_type`. Spec: virtio 1.2, section 4.1.4. */
const CAP_VENDOR = 0x09
const CAP_AT = { common: 0x40, isr: 0x50, device: 0x60, notify: 0x70, pciCfg: 0x84, msix: 0x98 }
const CFG_COMMON = 1
const CFG_NOTIFY = 2
const CFG_ISR = 3
const CFG_DEVICE = 4
const CFG_PCI = 5
/** In the PCI_CFG capability: BAR number, offset, length, and the window itself. */
const PCI_CFG_BAR = 4
const PCI_CFG_OFFSET = 8
const PCI_CFG_LENGTH = 12
const PCI_CFG_DATA = 16

const pciCodec = compileVmstate(pciFunctionVmstate)
const modernCodec = compileVmstate(virtioPciVmstate)

export class VirtioPciTransport implements VirtioTransport {
  readonly kind = 'pci'
  readonly legacyOnly = false
  readonly features: bigint
  readonly dma: AddressSpace
  readonly state: VirtioTransportState
  readonly #slot: PciSlot
  readonly #deviceId: string
  readonly #log: Logger
  readonly #disableLegacy: boolean
  readonly #vectors: number | undefined
  readonly #translated: boolean
  readonly #modern = virtioPciVmstate.createState()
  #configVector = VIRTIO_NO_VECTOR
  #fn: PciFunction | undefined
  #msix: PciMsix | undefined
  #backend: VirtioBackend | undefined

  /**
   * @param physical guest memory without translation: a device that does not offer ACCESS_PLATFORM is given physical
   * addresses by its driver, whatever IOMMU is in front. Spec: iommu.md section b; virtio 1.2, section 6
   * @throws DeviceConfigError an option is unknown, or two contradict each other
   */
  constructor(slot: PciSlot, request: BusRequest, physical: AddressSpace, log: Logger) {
    this.#slot = slot
    this.#deviceId = request.deviceId
    this.#log = log
    const {
      'disable-legacy': disableLegacy,
      'disable-modern': disableModern,
      ats,
      iommu_platform,
      vectors,
      ...unknown
    } = request.options ?? {}
    const stranger = Object.keys(unknown)[0]
    if (stranger)
      throw new DeviceConfigError(request.deviceId, `'${stranger}' is not an option of a virtio-pci function`)
    for (const [name, value] of Object.entries({ 'disable-modern': disableModern, ats })) {
      if (onOff(request.deviceId, name, value))
        throw new DeviceConfigError(request.deviceId, `${name}=on is not supported`)
    }
    this.#disableLegacy = onOff(request.deviceId, 'disable-legacy', disableLegacy)
    const platform = onOff(request.deviceId, 'iommu_platform', iommu_platform)
    if (platform && !this.#disableLegacy) {
      throw new DeviceConfigError(
        request.deviceId,
        'iommu_platform=on needs disable-legacy=on: legacy drivers cannot know of it',
      )
    }
    this.#vectors = vectors === undefined ? undefined : Number(vectors)
    if (
      this.#vectors !== undefined &&
      !(Number.isInteger(this.#vectors) && this.#vectors >= 0 && this.#vectors <= 128)
    ) {
      throw new DeviceConfigError(request.deviceId, `vectors=${String(vectors)} is not a number from 0 to 128`)
    }
    this.features = VERSION_1 | BAD_FEATURE | (platform ? ACCESS_PLATFORM : 0n)
    this.#translated = platform
    this.dma = !platform
      ? physical
      : {
          read: (address, into) => this.#function.dma.read(address, into),
          write: (address, from) => this.#function.dma.write(address, from),
          demand: (address, bytes, write) => this.#function.dma.demand?.(address, bytes, write),
        }
    this.state = this.#transportState()
  }

  get dmaEnabled(): boolean {
    return !this.#translated || this.#function.busMaster
  }

  connect(backend: VirtioBackend): void {
    this.#backend = backend
    const transitional = !this.#disableLegacy && hasTransitionalId(backend.deviceId)
    const fn = this.#slot.define(virtioIdentity(backend.deviceId, transitional))
    this.#fn = fn
    const vectors = this.#vectors ?? backend.msixVectors ?? backend.queues.length + 1
    const regs = this.#registers(backend)
    if (transitional) {
      const sizeBytes = legacyBarBytes(backend.configBytes, vectors > 0)
      fn.addBar(BAR_LEGACY, { kind: 'io', sizeBytes, region: legacyRegisters(regs) })
    }
    const modern = this.#modernBar(regs)
    fn.addBar(BAR_MODERN, { kind: 'memory64', sizeBytes: MODERN_BAR_BYTES, prefetchable: true, region: modern })
    this.#addCapabilities(fn, modern)
    if (vectors > 0) this.#msix = fn.addMsix({ vectorCount: vectors, bar: BAR_MSIX, at: CAP_AT.msix })
    fn.onConfigChange((change) => {
      if (change === 'load') return
      if (change.offset <= COMMAND_REGISTER && change.offset + change.length > COMMAND_REGISTER)
        this.#busMasterWritten()
      this.#driveLine()
    })
  }

  addRom(sizeBytes: number, region: MmioRegion): void {
    this.#function.addRom(sizeBytes, region)
  }

  notifyQueue(queue: VirtioQueuePort): void {
    this.#attached.isr |= ISR_QUEUE
    this.#interrupt(queue.vector)
  }

  notifyConfig(): void {
    this.#attached.isr |= ISR_QUEUE_AND_CONFIG
    this.#interrupt(this.#configVector)
  }

  /** Power-on. The function itself is reset by the bus. */
  reset(): void {
    virtioPciVmstate.resetState(this.#modern)
    this.#softReset()
  }

  /** What a driver does with status 0. */
  #softReset(): void {
    this.#backend?.reset()
    this.#configVector = VIRTIO_NO_VECTOR
    resetModernQueues(this.#modern)
    this.#driveLine()
  }

  get #function(): PciFunction {
    if (!this.#fn) throw new DeviceConfigError(this.#deviceId, 'the device never connected itself to its transport')
    return this.#fn
  }

  get #attached(): VirtioBackend {
    if (!this.#backend)
      throw new DeviceConfigError(this.#deviceId, 'the device never connected itself to its transport')
    return this.#backend
  }

  #interrupt(vector: number): void {
    if (!this.#msix?.enabled) this.#driveLine()
    else if (vector !== VIRTIO_NO_VECTOR) this.#msix.notify(vector)
  }

  #driveLine(): void {
    this.#fn?.irq.set(!this.#msix?.enabled && ((this.#backend?.isr ?? 0) & ISR_QUEUE) !== 0)
  }

  /** Without bus mastering the device has no memory: it stops until the driver turns it on again. */
  #busMasterWritten(): void {
    const backend = this.#attached
    if (this.#function.busMaster) backend.disabled = false
    else {
      backend.disabled = true
      backend.setStatus(backend.status & ~STATUS_DRIVER_OK)
    }
  }

  #registers(backend: VirtioBackend): VirtioPciRegisters {
    const transport = this
    return {
      backend,
      get configVector() {
        return transport.#configVector
      },
      set configVector(vector) {
        transport.#configVector = vector
      },
      get msixEnabled() {
        return transport.#msix?.enabled ?? false
      },
      validVector: (vector) => (vector < (transport.#msix?.vectorCount ?? 0) ? vector : VIRTIO_NO_VECTOR),
      writeStatus(status) {
        if (status === 0) transport.#softReset()
        else backend.setStatus(status)
      },
      takeIsr() {
        const { isr } = backend
        backend.isr = 0
        transport.#driveLine()
        return isr
      },
      kick: (queue) => {
        if (transport.dmaEnabled) backend.kick(queue)
        else
          this.#log.guestError('a queue was notified while bus mastering is off', { device: this.#slot.address, queue })
      },
      reset: () => transport.#softReset(),
      guestError: (message, value) => this.#log.guestError(message, { device: this.#slot.address, value }),
    }
  }

  #modernBar(regs: VirtioPciRegisters): MmioRegion {
    const { backend } = regs
    const common = commonConfiguration(regs, this.#modern)
    return {
      read(offset, bytes) {
        const within = offset % REGION_BYTES
        switch (offset - within) {
          case COMMON:
            return common.read(within, bytes)
          case ISR:
            return within === 0 ? regs.takeIsr() : 0
          case DEVICE:
            return backend.readConfig(within, bytes)
          default:
            return 0
        }
      },
      write(offset, bytes, value) {
        const within = offset % REGION_BYTES
        switch (offset - within) {
          case COMMON:
            common.write(within, bytes, value)
            return
          case DEVICE:
            backend.writeConfig(within, bytes, value)
            return
          case NOTIFY:
            regs.kick(Math.floor(within / NOTIFY_MULTIPLIER))
        }
      },
    }
  }

  #addCapabilities(fn: PciFunction, modern: MmioRegion): void {
    fn.addCapability(CAP_VENDOR, capability(CFG_COMMON, COMMON), { at: CAP_AT.common })
    fn.addCapability(CAP_VENDOR, capability(CFG_ISR, ISR), { at: CAP_AT.isr })
    fn.addCapability(CAP_VENDOR, capability(CFG_DEVICE, DEVICE), { at: CAP_AT.device })
    fn.addCapability(CAP_VENDOR, capability(CFG_NOTIFY, NOTIFY, NOTIFY_MULTIPLIER), { at: CAP_AT.notify })

    const body = new Uint8Array(PCI_CFG_DATA + 4 - 2)
    body[0] = body.length + 2
    body[1] = CFG_PCI
    const writable = new Uint8Array(body.length).fill(0xff, PCI_CFG_OFFSET - 2)
    writable[PCI_CFG_BAR - 2] = 0xff
    const at = fn.addCapability(CAP_VENDOR, body, { at: CAP_AT.pciCfg, writable })
    const view = new DataView(fn.config.buffer, fn.config.byteOffset + at)
    const target = (): { offset: number; bytes: 1 | 2 | 4 } | undefined => {
      const bytes = view.getUint32(PCI_CFG_LENGTH, true)
      const offset = view.getUint32(PCI_CFG_OFFSET, true)
      if ((bytes !== 1 && bytes !== 2 && bytes !== 4) || offset % bytes !== 0) return undefined
      return view.getUint8(PCI_CFG_BAR) === BAR_MODERN && offset + bytes <= MODERN_BAR_BYTES
        ? { offset, bytes }
        : undefined
    }
    fn.interceptConfig(at + PCI_CFG_DATA, 4, {
      read(within, bytes) {
        const to = target()
        if (to) view.setUint32(PCI_CFG_DATA, modern.read(to.offset, to.bytes), true)
        let value = 0
        for (let i = bytes - 1; i >= 0; i--) value = (value << 8) | view.getUint8(PCI_CFG_DATA + within + i)
        return value >>> 0
      },
      write() {
        const to = target()
        if (to)
          modern.write(to.offset, to.bytes, (view.getUint32(PCI_CFG_DATA, true) & (2 ** (8 * to.bytes) - 1)) >>> 0)
      },
    })
  }

  #transportState(): VirtioTransportState {
    const transport = this
    return {
      savesAlign: false,
      get savesVector() {
        return transport.#msix !== undefined
      },
      save: (out) => {
        pciCodec.save(this.#function.state, out)
        if (!this.#msix) return
        const bytes = new Uint8Array(this.#msix.stateBytes)
        this.#msix.save(bytes)
        out.putBuffer(bytes)
        out.putBe16(this.#configVector)
      },
      load: function* (input) {
        yield* pciCodec.load(transport.#function.state, input, pciFunctionVmstate.version)
        if (!transport.#msix) return
        const bytes = new Uint8Array(transport.#msix.stateBytes)
        yield bytes.length + 2
        input.getBuffer(bytes)
        transport.#msix.load(bytes)
        transport.#configVector = input.getBe16()
      },
      extra: {
        save: (out) => modernCodec.save(this.#modern, out),
        load: (input) => modernCodec.load(this.#modern, input, virtioPciVmstate.version),
      },
      loaded: () => this.#driveLine(),
    }
  }
}

/** A vendor capability after id and next pointer: length, type, BAR, three reserved, offset, length [, multiplier]. */
function capability(type: number, offset: number, multiplier?: number): Uint8Array {
  const body = new Uint8Array(multiplier === undefined ? 14 : 18)
  const view = new DataView(body.buffer)
  view.setUint8(0, body.length + 2)
  view.setUint8(1, type)
  view.setUint8(2, BAR_MODERN)
  view.setUint32(6, offset, true)
  view.setUint32(10, REGION_BYTES, true)
  if (multiplier !== undefined) view.setUint32(14, multiplier, true)
  return body
}

function onOff(device: string, name: string, value: unknown): boolean {
  if (value === undefined || value === false || value === 'off') return false
  if (value === true || value === 'on') return true
  throw new DeviceConfigError(device, `${name}=${String(value)} is neither on nor off`)
}
