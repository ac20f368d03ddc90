import {
  createSaveStateRegistry,
  type Device,
  type DeviceContext,
  GuestMemory,
  type Iommu,
  OutputGate,
  PhysicalMap,
  type SectionEntry,
  silentLogger,
  VirtualClock,
} from '@ferryvm/core'
import { intelIommu } from './intel-iommu.ts'

export const RAM = 0x8000_0000
const RAM_BYTES = 64 * 2 ** 20
export const REGISTERS = 0x400_0000

/** @internal A VT-d with memory and nothing else, for tests. */
export class IommuBench {
  readonly physical: PhysicalMap
  iommu!: Iommu
  device!: Device
  sections!: readonly SectionEntry[]
  readonly guestErrors: string[] = []
  bus = ''

  /** @param other shares its guest memory, as a destination whose RAM has arrived */
  constructor(other?: IommuBench) {
    if (other) {
      this.physical = new PhysicalMap(other.physical.memory)
      this.physical.addRam(RAM, other.physical.memory.blocks[0]!)
    } else {
      const memory = new GuestMemory()
      this.physical = new PhysicalMap(memory)
      this.physical.addRam(RAM, memory.addBlock('ram', RAM_BYTES))
    }
  }

  static async create(props: Record<string, unknown> = {}, other?: IommuBench): Promise<IommuBench> {
    const bench = new IommuBench(other)
    const { physical } = bench
    const { definition } = intelIommu({})
    const registry = createSaveStateRegistry()
    const context: DeviceContext<undefined> = {
      id: 'iommu0',
      state: undefined,
      path: '',
      bus: undefined,
      dma: physical,
      clock: new VirtualClock(),
      log: { ...silentLogger, guestError: (message) => void bench.guestErrors.push(message) },
      registerVmstate: (vmstate, state, options) => void registry.register(vmstate, state, options),
      mmio: (sizeBytes, region) => physical.addMmio(REGISTERS, sizeBytes, region, 'iommu'),
      ram: () => {
        throw new Error('an IOMMU has no memory')
      },
      irq: () => ({ set() {} }),
      machine: {
        harts: [],
        physical,
        timeDelta: 0n,
        output: new OutputGate(),
        provideInterruptController() {},
        provideBus() {},
        provideIommuAttachPoint() {},
        onIommuAttachPoint: (bus, callback) => {
          bench.bus = bus
          callback({
            bus,
            functionAt: () => undefined,
            setIommu: (iommu) => {
              bench.iommu = iommu
            },
          })
        },
        requestReset() {},
        requestShutdown() {},
      },
    }
    const parsed = await definition.props['~standard'].validate(props)
    if (parsed.issues) throw new TypeError(parsed.issues.map((issue) => issue.message).join('; '))
    bench.device = await definition.realize(context, parsed.value)
    bench.sections = registry.entries()
    return bench
  }

  get state() {
    return this.sections[0]!.device!.state
  }

  read32 = (offset: number): number => Number(this.physical.mmioRead(REGISTERS + offset, 4))
  read64 = (offset: number): bigint => this.physical.mmioRead(REGISTERS + offset, 8)!
  write32 = (offset: number, value: number): boolean =>
    this.physical.mmioWrite(REGISTERS + offset, 4, BigInt(value >>> 0))
  write64 = (offset: number, value: bigint | number): boolean =>
    this.physical.mmioWrite(REGISTERS + offset, 8, BigInt(value))

  /** Guest memory, one little-endian quadword. A number that bit operations made negative is 32 bits. */
  poke(address: number, value: bigint | number): void {
    const bytes = new Uint8Array(8)
    new DataView(bytes.buffer).setBigUint64(
      0,
      BigInt(typeof value === 'number' && value < 0 ? value >>> 0 : value),
      true,
    )
    if (!this.physical.write(address, bytes)) throw new RangeError(`nothing at 0x${address.toString(16)}`)
  }
  peek(address: number): bigint {
    const bytes = new Uint8Array(8)
    if (!this.physical.read(address, bytes)) throw new RangeError(`nothing at 0x${address.toString(16)}`)
    return new DataView(bytes.buffer).getBigUint64(0, true)
  }
}
