import {
  type AddressSpace,
  type Bus,
  type BusAttachment,
  type BusKind,
  type BusRequest,
  DeviceConfigError,
  type Iommu,
  type IrqLine,
  type Logger,
  type PciIdentity,
  type PciSlot,
} from '@ferryvm/core'
import type { WindowEntry } from './address-window.ts'
import { BusPciFunction } from './pci-function.ts'
import { VirtioPciTransport } from './virtio-pci/virtio-pci.ts'

const SLOTS = 32
const FUNCTIONS = 8
export const INTX_LINES = 4

/** The root bus: slots, INTx wiring, the way to memory. Spec: virt-machine.md sections 2 and 6.8. */
export class PciBus implements Bus {
  readonly name: string
  readonly accepts: readonly BusKind[] = ['pci', 'virtio']
  readonly ports: WindowEntry[] = []
  readonly memoryEntries: WindowEntry[] = []
  /** How many functions hold each line. Spec: virt-vmstate.md section 8, PCIBUS. */
  readonly irqCount = new Int32Array(INTX_LINES)
  readonly #functions: (BusPciFunction | undefined)[] = []
  readonly #taken = new Set<number>()
  readonly #lines: readonly IrqLine[]
  readonly #physical: AddressSpace
  readonly #log: Logger
  #iommu: Iommu | undefined

  constructor(name: string, lines: readonly IrqLine[], physical: AddressSpace, log: Logger) {
    this.name = name
    this.#lines = lines
    this.#physical = physical
    this.#log = log
  }

  setIommu(iommu: Iommu): void {
    if (this.#iommu) throw new DeviceConfigError(iommu.name, `${this.#iommu.name} already is in front of ${this.name}`)
    this.#iommu = iommu
  }

  function(devfn: number): BusPciFunction | undefined {
    return this.#functions[devfn]
  }

  attach(request: BusRequest): BusAttachment {
    const devfn = this.#place(request)
    const slot = this.slot(devfn)
    const { memory } = this.#way(devfn)
    const reset = () => this.#functions[devfn]?.reset()
    if (request.kind === 'pci') {
      const dma: AddressSpace = {
        read: (address, into) => (this.#functions[devfn]?.dma ?? memory()).read(address, into),
        write: (address, from) => (this.#functions[devfn]?.dma ?? memory()).write(address, from),
        demand: (address, bytes, write) => (this.#functions[devfn]?.dma ?? memory()).demand?.(address, bytes, write),
      }
      return { path: slot.address, context: slot, dma, reset }
    }
    const transport = new VirtioPciTransport(slot, request, this.#physical, this.#log)
    return {
      path: slot.address,
      context: transport,
      dma: transport.dma,
      reset: () => {
        reset()
        transport.reset()
      },
    }
  }

  /** Takes the place; the host bridge puts itself at 0 with it. */
  slot(devfn: number): PciSlot {
    this.#taken.add(devfn)
    const way = this.#way(devfn)
    const device = devfn >> 3
    const address = `0000:00:${device.toString(16).padStart(2, '0')}.${devfn & 7}`
    return {
      address,
      sourceId: devfn,
      define: (identity: PciIdentity) => {
        const host = {
          address,
          log: this.#log,
          memory: way.memory,
          ports: this.ports,
          memoryEntries: this.memoryEntries,
          pinChanged: (pin: number, level: boolean) => this.#count(this.#lineOf(devfn, pin), level),
        }
        return (this.#functions[devfn] = new BusPciFunction(host, identity))
      },
    }
  }

  /**
   * After a load the counts follow from the functions, whether or not a PCIBUS section came. Lines whose level was right
   * are left alone: the interrupt controller brought its own state, and setting a line again can be a new interrupt.
   */
  recount(): void {
    const count = new Int32Array(INTX_LINES)
    this.#functions.forEach((fn, devfn) => {
      for (let pin = 0; fn && pin < INTX_LINES; pin++) if (fn.asserted(pin)) count[this.#lineOf(devfn, pin)]!++
    })
    this.#lines.forEach((line, i) => {
      const level = count[i]! > 0
      if (this.irqCount[i]! > 0 !== level) line.set(level)
    })
    this.irqCount.set(count)
  }

  #lineOf(devfn: number, pin: number): number {
    return ((devfn >> 3) + pin) % INTX_LINES
  }

  /** Every change drives the line, also from one holder to two: a controller may count rising requests, not levels. */
  #count(line: number, level: boolean): void {
    const count = Math.max(0, this.irqCount[line]! + (level ? 1 : -1))
    this.irqCount[line] = count
    this.#lines[line]!.set(count > 0)
  }

  #way(devfn: number): { memory(): AddressSpace } {
    // Asked at every access: an IOMMU may be created after the functions behind it.
    return { memory: () => this.#iommu?.addressSpace(devfn) ?? this.#physical }
  }

  /** @throws DeviceConfigError the place is taken or does not exist */
  #place({ deviceId, addr }: BusRequest): number {
    if (addr === undefined) {
      for (let slot = 0; slot < SLOTS; slot++) {
        if (!this.#taken.has(slot * FUNCTIONS)) return slot * FUNCTIONS
      }
      throw new DeviceConfigError(deviceId, `all ${SLOTS} slots of ${this.name} are taken`)
    }
    const match = /^(?:0x)?([0-9a-f]{1,2})(?:\.0)?$/i.exec(addr)
    const slot = match ? Number.parseInt(match[1]!, 16) : SLOTS
    if (slot >= SLOTS) {
      throw new DeviceConfigError(deviceId, `addr=${addr} is not a slot of ${this.name} (0 to 1f; function 0 only)`)
    }
    if (this.#taken.has(slot * FUNCTIONS))
      throw new DeviceConfigError(deviceId, `addr=${addr} of ${this.name} is taken`)
    return slot * FUNCTIONS
  }
}
