import {
  createSaveStateRegistry,
  type Device,
  type DeviceContext,
  type DeviceSpec,
  GuestMemory,
  type HartPort,
  type InterruptFile,
  type InterruptFileState,
  type IrqLine,
  OutputGate,
  PhysicalMap,
  type SectionEntry,
  silentLogger,
  VirtualClock,
} from '@ferryvm/core'

/** @internal A device without a machine around it, for tests: memory, a clock, harts that only record. */
export interface Bench {
  readonly device: Device
  readonly physical: PhysicalMap
  readonly clock: VirtualClock
  readonly harts: readonly RecordingHart[]
  /** Levels that `irq(index)` was set to, in order. */
  readonly irqs: boolean[]
  /** Line `n` of the interrupt controller that the device provided. */
  line(n: number): IrqLine
  readonly requests: string[]
  /** Calls of `guestError`. */
  readonly guestErrors: string[]
  timeDelta: bigint
  read(address: number, size?: 1 | 2 | 4 | 8): bigint | undefined
  write(address: number, value: number | bigint, size?: 1 | 2 | 4 | 8): boolean
  readonly sections: readonly SectionEntry[]
}

/** @internal */
export class RecordingHart implements HartPort {
  readonly index: number
  mip = 0
  mtimecmp: bigint | undefined
  readonly interruptFiles?: { machine: RecordingFile; supervisor: RecordingFile[] }
  /** @param guestFiles absent: no interrupt files at all */
  constructor(index: number, guestFiles?: number) {
    this.index = index
    if (guestFiles === undefined) return
    const supervisor = Array.from({ length: 1 + guestFiles }, () => new RecordingFile())
    this.interruptFiles = { machine: new RecordingFile(), supervisor }
  }
  line(bit: number): IrqLine {
    return {
      set: (level) => {
        this.mip = level ? this.mip | (1 << bit) : this.mip & ~(1 << bit)
      },
    }
  }
  pending(bit: number): boolean {
    return (this.mip & (1 << bit)) !== 0
  }
  setMtimecmp(value: bigint): void {
    this.mtimecmp = value
  }
}

/** @internal */
export class RecordingFile implements InterruptFile {
  /** Identities, in the order in which they became pending. */
  readonly pending: number[] = []
  state: InterruptFileState = { eidelivery: 0, eithreshold: 0, eistate: new Uint32Array(256) }
  setPending(identity: number): void {
    this.pending.push(identity)
  }
  reset(): void {
    this.pending.length = 0
  }
  save(into: InterruptFileState): void {
    into.eidelivery = this.state.eidelivery
    into.eithreshold = this.state.eithreshold
    into.eistate.set(this.state.eistate)
  }
  load({ eidelivery, eithreshold, eistate }: InterruptFileState): void {
    this.state = { eidelivery, eithreshold, eistate: eistate.slice() }
  }
}

/** @internal */
export async function realizeAlone(
  { definition, props, placement }: DeviceSpec,
  options: { harts?: number; guestFiles?: number; ram?: { base: number; sizeBytes: number } } = {},
): Promise<Bench> {
  const memory = new GuestMemory()
  const physical = new PhysicalMap(memory)
  const clock = new VirtualClock()
  const registry = createSaveStateRegistry()
  const harts = Array.from({ length: options.harts ?? 1 }, (_, i) => new RecordingHart(i, options.guestFiles))
  if (options.ram) physical.addRam(options.ram.base, memory.addBlock('ram', options.ram.sizeBytes))
  const irqs: boolean[] = []
  const requests: string[] = []
  const guestErrors: string[] = []
  let line: ((n: number) => IrqLine) | undefined
  const services = {
    harts,
    physical,
    timeDelta: 0n,
    output: new OutputGate(),
    provideInterruptController: (lines: (n: number) => IrqLine) => {
      line = lines
    },
    provideBus() {},
    provideIommuAttachPoint() {},
    onIommuAttachPoint() {},
    requestReset: () => void requests.push('reset'),
    requestShutdown: (_reason: string, exitCode: number) => void requests.push(`shutdown ${exitCode}`),
  }
  const state = 'createState' in definition.migration ? definition.migration.createState() : undefined
  const context: DeviceContext<any> = {
    id: definition.type,
    state,
    path: '',
    bus: undefined,
    dma: physical,
    clock,
    log: { ...silentLogger, guestError: (message) => void guestErrors.push(message) },
    machine: services,
    registerVmstate: (vmstate, s, o) => void registry.register(vmstate, s, o),
    mmio: (sizeBytes, region, o = {}) =>
      physical.addMmio(o.at ?? placement.at ?? 0, sizeBytes, region, definition.type),
    ram(idstr, sizeBytes, mapping) {
      const block = memory.addBlock(idstr, sizeBytes)
      const handle = mapping && physical.addRam(mapping.at ?? placement.at ?? 0, block, mapping.mode, mapping.writes)
      return { block, setMode: (mode) => handle?.setMode(mode) }
    },
    irq: () => ({ set: (level) => void irqs.push(level) }),
  }
  if (state) registry.register(definition.migration, state)
  const parsed = await definition.props['~standard'].validate(props)
  if (parsed.issues) throw new TypeError(parsed.issues.map((issue) => issue.message).join('; '))
  const device = await definition.realize(context, parsed.value)
  return {
    device,
    physical,
    clock,
    harts,
    irqs,
    requests,
    guestErrors,
    line: (n) => line!(n),
    get timeDelta() {
      return services.timeDelta
    },
    set timeDelta(value) {
      services.timeDelta = value
    },
    read: (address, size = 4) => physical.mmioRead(address, size),
    write: (address, value, size = 4) => physical.mmioWrite(address, size, BigInt(value)),
    get sections() {
      return registry.entries()
    },
  }
}
