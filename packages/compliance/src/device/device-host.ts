import {
  type AddressSpace,
  type Bus,
  type Device,
  type DeviceContext,
  type DeviceSpec,
  GuestMemory,
  type IommuAttachPoint,
  type IrqLine,
  type Logger,
  type MachineServices,
  type MmioRegion,
  OutputGate,
  PhysicalMap,
  type RamBlock,
  type RamMode,
  type RegisterOptions,
  VirtualClock,
  type Vmstate,
} from '@ferryvm/core'
import { ComplianceFailure } from '../runner.ts'

/** Where the kit's memory lies for a device that does DMA. */
export const MEMORY_BASE = 0x8000_0000
const MEMORY_BYTES = 1 << 20

export interface RegisteredVmstate {
  readonly vmstate: Vmstate<any>
  readonly state: any
  readonly options: RegisterOptions
}
interface Region {
  readonly sizeBytes: number
  readonly region: MmioRegion
}

export interface HostOptions {
  /** What the device finds as `ctx.bus`; for devices of a PCI or virtio bus. */
  bus?(): unknown
}

/**
 * The smallest machine that one device can live in: no CPU, no board; memory, interrupt lines and a clock that can be
 * looked at. Also the device as its driver sees it.
 */
export class DeviceHost {
  readonly spec: DeviceSpec
  readonly clock = new VirtualClock()
  /** Level of each line, by index. */
  readonly irqLevels = new Map<number, boolean>()
  /** How often each line went up. */
  readonly irqRises = new Map<number, number>()
  readonly vmstates: RegisteredVmstate[] = []
  readonly guestErrors: string[] = []
  readonly warnings: string[] = []
  readonly resetRequests: string[] = []
  readonly buses: Bus[] = []
  readonly attachPoints: IommuAttachPoint[] = []
  /** 1 MiB at {@link MEMORY_BASE}, as DMA sees it. */
  readonly memory = new Uint8Array(MEMORY_BYTES)
  readonly #regions: Region[] = []
  #device: Device = {}
  #tableState: { vmstate: Vmstate<any>; state: any } | undefined
  #physical: PhysicalMap | undefined

  /** Validates the props and realizes the device. */
  static async create(spec: DeviceSpec, options: HostOptions = {}): Promise<DeviceHost> {
    const host = new DeviceHost(spec)
    await host.#realize(options)
    return host
  }

  private constructor(spec: DeviceSpec) {
    this.spec = spec
  }

  get device(): Device {
    return this.#device
  }

  get regions(): readonly Region[] {
    return this.#regions
  }

  read8 = (offset: number, region = 0): number => this.#region(region).read(offset, 1) & 0xff
  read16 = (offset: number, region = 0): number => this.#region(region).read(offset, 2) & 0xffff
  read32 = (offset: number, region = 0): number => this.#region(region).read(offset, 4) >>> 0
  read64(offset: number, region = 0): bigint {
    const target = this.#region(region)
    if (target.read64) return target.read64(offset)
    return BigInt(target.read(offset, 4) >>> 0) | (BigInt(target.read(offset + 4, 4) >>> 0) << 32n)
  }
  write8 = (offset: number, value: number, region = 0): void => this.#region(region).write(offset, 1, value & 0xff)
  write16 = (offset: number, value: number, region = 0): void => this.#region(region).write(offset, 2, value & 0xffff)
  write32 = (offset: number, value: number, region = 0): void => this.#region(region).write(offset, 4, value >>> 0)
  write64(offset: number, value: bigint, region = 0): void {
    const target = this.#region(region)
    if (target.write64) target.write64(offset, BigInt.asUintN(64, value))
    else {
      target.write(offset, 4, Number(BigInt.asUintN(32, value)))
      target.write(offset + 4, 4, Number(BigInt.asUintN(32, value >> 32n)))
    }
  }

  irq = (index = 0): boolean => this.irqLevels.get(index) ?? false

  /** As the machine does: the device's own reset, else the table's reset values. */
  reset(): void {
    if (this.#device.reset) this.#device.reset()
    else this.#tableState?.vmstate.resetState(this.#tableState.state)
  }

  async close(): Promise<void> {
    this.clock.stop()
    await this.#device.unrealize?.()
  }

  async #realize(options: HostOptions): Promise<void> {
    const { definition, props } = this.spec
    const checked = await definition.props['~standard'].validate(props)
    if (checked.issues) throw new ComplianceFailure(`props: ${checked.issues.map(({ message }) => message).join('; ')}`)
    const { migration } = definition
    if (!('kind' in migration)) {
      const state = migration.createState()
      this.#tableState = { vmstate: migration, state }
      this.vmstates.push({ vmstate: migration, state, options: {} })
    }
    const context = this.#context(this.#tableState?.state, options)
    this.#device = await definition.realize(context, checked.value)
  }

  #context(state: any, options: HostOptions): DeviceContext<any> {
    const { placement, definition } = this.spec
    return {
      id: placement.id ?? definition.type,
      state,
      mmio: (sizeBytes, region) => void this.#regions.push({ sizeBytes, region }),
      ram: (idstr, sizeBytes, mapping) => this.#ram(idstr, sizeBytes, mapping),
      irq: (index = 0) => this.#line(index),
      dma: this.#dma(),
      bus: options.bus?.(),
      path: '',
      registerVmstate: (vmstate, registered, registerOptions = {}) =>
        void this.vmstates.push({ vmstate, state: registered, options: registerOptions }),
      clock: this.clock,
      log: this.#log(),
      machine: this.#services(),
    }
  }

  #ram(
    idstr: string,
    sizeBytes: number,
    mapping?: { at?: number; mode?: RamMode; writes?: MmioRegion },
  ): { block: RamBlock; setMode(mode: RamMode): void } {
    const physical = this.#physicalMap()
    const block = physical.memory.addBlock(idstr, sizeBytes)
    const at = mapping?.at ?? this.spec.placement.at
    if (!mapping || at === undefined) return { block, setMode() {} }
    return { block, ...physical.addRam(at, block, mapping.mode, mapping.writes) }
  }

  /** Made when asked for: a shared memory reserves 4 GiB of addresses, and most devices need none. */
  #physicalMap(): PhysicalMap {
    this.#physical ??= new PhysicalMap(new GuestMemory())
    return this.#physical
  }

  #line(index: number): IrqLine {
    return {
      set: (level) => {
        if (level && !this.irq(index)) this.irqRises.set(index, (this.irqRises.get(index) ?? 0) + 1)
        this.irqLevels.set(index, level)
      },
    }
  }

  #dma(): AddressSpace {
    const range = (address: number, length: number) => {
      const start = address - MEMORY_BASE
      return start >= 0 && start + length <= this.memory.length
        ? this.memory.subarray(start, start + length)
        : undefined
    }
    return {
      read(address, into) {
        const bytes = range(address, into.length)
        if (bytes) into.set(bytes)
        return bytes !== undefined
      },
      write(address, from) {
        const bytes = range(address, from.length)
        bytes?.set(from)
        return bytes !== undefined
      },
    }
  }

  #log(): Logger {
    return {
      debug() {},
      warn: (message) => void this.warnings.push(message),
      guestError: (message) => void this.guestErrors.push(message),
    }
  }

  #services(): MachineServices {
    const host = this
    return {
      harts: [],
      timeDelta: 0n,
      output: new OutputGate(),
      get physical() {
        return host.#physicalMap()
      },
      provideInterruptController() {},
      provideBus: (bus) => void this.buses.push(bus),
      provideIommuAttachPoint: (point) => void this.attachPoints.push(point),
      onIommuAttachPoint: (bus, callback) => callback({ bus, functionAt: () => undefined, setIommu() {} }),
      requestReset: (reason) => void this.resetRequests.push(reason),
      requestShutdown: (reason) => void this.resetRequests.push(reason),
    }
  }

  #region(index: number): MmioRegion {
    const found = this.#regions[index]
    if (!found) throw new ComplianceFailure(`the device has ${this.#regions.length} regions, not ${index + 1}`)
    return found.region
  }
}
