import {
  type AddressSpace,
  DeviceConfigError,
  dma,
  type IrqLine,
  type Logger,
  type MmioRegion,
  nowOrWhenPagesArrive,
  type PciBarOptions,
  type PciCapabilityOptions,
  type PciFunction,
  type PciFunctionState,
  type PciIdentity,
  type PciMsix,
  type PciMsixOptions,
  type Vmstate,
} from '@ferryvm/core'
import type { WindowEntry } from './address-window.ts'
import {
  BAR0,
  COMMAND,
  COMMAND_BUS_MASTER,
  COMMAND_INTX_DISABLE,
  COMMAND_IO,
  COMMAND_MEMORY,
  ConfigSpace,
  STATUS,
  STATUS_INTERRUPT,
} from './config-space.ts'
import { MSIX_BAR_BYTES, MSIX_CAPABILITY, MSIX_VECTORS_MAX, Msix, msixCapability } from './msix.ts'
import { type LoadablePciState, pciFunctionVmstate } from './pci-function-vmstate.ts'

const BAR_COUNT = 6
const ROM_BAR = 0x30
const ROM_ENABLE = 1
const PORT_LIMIT = 0x1_0000
const HIGHEST_ADDRESS = 2 ** 48

/** What a function needs of its bus. */
export interface PciFunctionHost {
  readonly address: string
  readonly log: Logger
  /** Guest memory as the requester sees it now. */
  memory(): AddressSpace
  /** The effective level of a pin (0 = INTA) changed. */
  pinChanged(pin: number, level: boolean): void
  readonly ports: WindowEntry[]
  readonly memoryEntries: WindowEntry[]
}

interface Bar extends PciBarOptions {
  readonly index: number
  mapped?: WindowEntry
}

export class BusPciFunction implements PciFunction {
  readonly space: ConfigSpace
  readonly irq: IrqLine
  readonly dma: AddressSpace
  readonly vmstate: Vmstate<PciFunctionState> = pciFunctionVmstate
  readonly state: LoadablePciState
  readonly #host: PciFunctionHost
  readonly #pin: number
  readonly #irqState = new Uint32Array(4)
  readonly #bars: Bar[] = []
  #rom: Bar | undefined
  #msix: { msix: Msix; control: number } | undefined
  #listeners: Parameters<PciFunction['onConfigChange']>[0][] = []
  #intxDisabled = false

  constructor(host: PciFunctionHost, identity: PciIdentity) {
    this.#host = host
    this.space = new ConfigSpace(identity)
    this.#pin = (identity.interruptPin ?? 0) - 1
    this.irq = { set: (level) => this.#setPin(level) }
    this.dma = {
      read: (address, into) => this.busMaster && host.memory().read(address, into),
      write: (address, from) => this.busMaster && host.memory().write(address, from),
      demand: (address, bytes, write) => this.busMaster && host.memory().demand?.(address, bytes, write),
    }
    this.state = {
      version_id: 2,
      'config[0]': this.space.bytes,
      irq_state: this.#irqState,
      acceptConfig: (incoming) => this.space.load(host.address, incoming),
      afterLoad: () => this.#afterLoad(),
    }
  }

  #sendMessage(address: bigint, data: number): void {
    if (address < HIGHEST_ADDRESS && dma.store32(this.dma, Number(address), data)) return
    this.#host.log.guestError('a message-signalled interrupt went nowhere', { device: this.#host.address, address })
  }

  get address(): string {
    return this.#host.address
  }

  get config(): Uint8Array {
    return this.space.bytes
  }

  get busMaster(): boolean {
    return (this.space.command & COMMAND_BUS_MASTER) !== 0
  }

  /** The pin as the bus sees it, by pin number. */
  asserted(pin: number): boolean {
    return this.#irqState[pin] !== 0 && !this.#intxDisabled
  }

  addBar(index: number, options: PciBarOptions): void {
    const { kind, sizeBytes, prefetchable } = options
    const wide = kind === 'memory64'
    const smallest = kind === 'io' ? 4 : 16
    if (index < 0 || index + (wide ? 2 : 1) > BAR_COUNT || this.#bars.some((b) => overlaps(b, index, wide))) {
      throw new DeviceConfigError(this.#host.address, `BAR ${index} does not exist or is taken`)
    }
    if (sizeBytes < smallest || Math.log2(sizeBytes) % 1 !== 0 || (!wide && sizeBytes > 2 ** 31)) {
      throw new DeviceConfigError(this.#host.address, `BAR ${index}: ${sizeBytes} bytes is not a size a BAR can have`)
    }
    const type = kind === 'io' ? 1 : (wide ? 4 : 0) | (prefetchable ? 8 : 0)
    const mask = BigInt.asUintN(64, -BigInt(sizeBytes))
    this.space.defineBar(BAR0 + 4 * index, Number(mask & 0xffff_ffffn), type)
    if (wide) this.space.defineBar(BAR0 + 4 * index + 4, Number(mask >> 32n), 0)
    this.#bars.push({ ...options, index })
    this.#bars.sort((a, b) => a.index - b.index)
  }

  addRom(sizeBytes: number, region: MmioRegion): void {
    if (this.#rom || sizeBytes < 2048 || Math.log2(sizeBytes) % 1 !== 0 || sizeBytes > 2 ** 31) {
      throw new DeviceConfigError(this.#host.address, `an expansion ROM of ${sizeBytes} bytes, or a second one`)
    }
    this.space.defineBar(ROM_BAR, -sizeBytes | ROM_ENABLE, 0)
    const readOnly: MmioRegion = { ...region, write() {}, write64() {} }
    this.#rom = { index: (ROM_BAR - BAR0) / 4, kind: 'memory', sizeBytes, region: readOnly }
  }

  addCapability(id: number, body: Uint8Array, options: PciCapabilityOptions = {}): number {
    return this.space.addCapability(this.#host.address, id, body, options)
  }

  addMsix({ vectorCount, bar, at }: PciMsixOptions): PciMsix {
    if (vectorCount < 1 || vectorCount > MSIX_VECTORS_MAX) {
      throw new DeviceConfigError(
        this.#host.address,
        `${vectorCount} MSI-X vectors; 1 to ${MSIX_VECTORS_MAX} are possible`,
      )
    }
    const { body, writable } = msixCapability(vectorCount, bar)
    const control = this.addCapability(MSIX_CAPABILITY, body, { at, writable }) + 3
    const msix = new Msix(vectorCount, {
      control: () => this.space.bytes[control]!,
      send: (address, data) => nowOrWhenPagesArrive(() => this.#sendMessage(address, data)),
    })
    this.addBar(bar, { kind: 'memory', sizeBytes: MSIX_BAR_BYTES, region: msix.region })
    this.#msix = { msix, control }
    return msix
  }

  onConfigChange(listener: Parameters<PciFunction['onConfigChange']>[0]): void {
    this.#listeners.push(listener)
  }

  interceptConfig(offset: number, length: number, handler: MmioRegion): void {
    this.space.intercept(offset, length, handler)
  }

  readConfig(offset: number, size: 1 | 2 | 4): number {
    return this.space.read(offset, size)
  }

  writeConfig(offset: number, size: 1 | 2 | 4, value: number): void {
    this.space.write(offset, size, value)
    const touches = (at: number, length: number) => offset < at + length && offset + size > at
    if (touches(COMMAND, 2)) this.#commandChanged()
    if (touches(COMMAND, 2) || touches(BAR0, 4 * BAR_COUNT) || touches(ROM_BAR, 4)) this.#map()
    if (this.#msix && touches(this.#msix.control, 1)) this.#msix.msix.controlChanged()
    for (const listener of this.#listeners) listener({ offset, length: size })
  }

  reset(): void {
    this.space.reset()
    this.#msix?.msix.reset()
    this.#setPin(false)
    this.space.bytes[STATUS]! &= ~STATUS_INTERRUPT
    this.#commandChanged()
    this.#map()
  }

  #setPin(level: boolean): void {
    const pin = this.#pin
    if (pin < 0 || (this.#irqState[pin] !== 0) === level) return
    this.#irqState[pin] = level ? 1 : 0
    this.#showStatus()
    if (!this.#intxDisabled) this.#host.pinChanged(pin, level)
  }

  #showStatus(): void {
    const any = this.#irqState.some((l) => l !== 0)
    this.space.bytes[STATUS] = (this.space.bytes[STATUS]! & ~STATUS_INTERRUPT) | (any ? STATUS_INTERRUPT : 0)
  }

  #commandChanged(): void {
    const disabled = (this.space.command & COMMAND_INTX_DISABLE) !== 0
    if (disabled === this.#intxDisabled) return
    this.#intxDisabled = disabled
    this.#irqState.forEach((level, pin) => {
      if (level) this.#host.pinChanged(pin, !disabled)
    })
  }

  /** PCIBUS.irq_count travels on its own, so nothing is told to the bus here. */
  #afterLoad(): void {
    this.#intxDisabled = (this.space.command & COMMAND_INTX_DISABLE) !== 0
    this.#showStatus()
    this.#map()
    for (const listener of this.#listeners) listener('load')
  }

  #map(): void {
    const { command } = this.space
    for (const bar of this.#rom ? [...this.#bars, this.#rom] : this.#bars) {
      const io = bar.kind === 'io'
      const base = command & (io ? COMMAND_IO : COMMAND_MEMORY) ? this.#address(bar) : undefined
      if (base === bar.mapped?.base) continue
      const entries = io ? this.#host.ports : this.#host.memoryEntries
      if (bar.mapped) entries.splice(entries.indexOf(bar.mapped), 1)
      bar.mapped = base === undefined ? undefined : { base, end: base + bar.sizeBytes, region: bar.region }
      if (bar.mapped) entries.push(bar.mapped)
    }
  }

  /** Where the guest wants the BAR; undefined for an address that no window can show. Zero means unset. */
  #address(bar: Bar): number | undefined {
    const at = BAR0 + 4 * bar.index
    if (bar === this.#rom && !(this.space.u32(at) & ROM_ENABLE)) return undefined
    const low = (this.space.u32(at) & (bar.kind === 'io' ? ~3 : ~15)) >>> 0
    const base = bar.kind === 'memory64' ? low + this.space.u32(at + 4) * 2 ** 32 : low
    const limit = bar.kind === 'io' ? PORT_LIMIT : HIGHEST_ADDRESS
    return base === 0 || base + bar.sizeBytes > limit ? undefined : base
  }
}

const overlaps = (bar: Bar, index: number, wide: boolean): boolean => {
  const last = bar.index + (bar.kind === 'memory64' ? 1 : 0)
  return index <= last && index + (wide ? 1 : 0) >= bar.index
}
