import {
  type Bus,
  type BusAttachment,
  type BusKind,
  type Cpu,
  createSaveStateRegistry,
  type Device,
  DeviceConfigError,
  type DeviceContext,
  DeviceHookError,
  type DeviceSpec,
  FerryError,
  GuestMemory,
  type IommuAttachPoint,
  type IrqLine,
  LoadOrderSanitizer,
  type Logger,
  type Machine,
  type MachineEvents,
  type MachineServices,
  OutputGate,
  PhysicalMap,
  type RamBlock,
  type RunState,
  type StreamSettings,
  silentLogger,
  VirtualClock,
  whenPagesArrive,
} from '@ferryvm/core'
import type { BootImage, ImageSource, MachineConfig } from './machine-config.ts'
import { parseProps } from './parse-props.ts'
import { PlatformBus } from './platform-bus.ts'
import { registerTimerSection } from './timer-section.ts'
import { type Watch, watchWith } from './watch.ts'

interface RealizedDevice {
  readonly id: string
  readonly type: string
  readonly path: string
  readonly device: Device
  readonly attachment?: BusAttachment
  /** Puts back the table's reset values; for devices without a reset of their own. */
  readonly resetState: () => void
}

/**
 * Builds a machine: memory, CPU, then every device in order; ends with a reset. It does not run yet (`prelaunch`).
 *
 * @throws DeviceConfigError options or places are wrong
 * @throws DeviceHookError a device's own code failed; `cause` is what it threw
 */
export async function createMachine(config: MachineConfig): Promise<Machine> {
  const machine = new VirtualMachine(config)
  try {
    await machine.realize()
  } catch (error) {
    await machine[Symbol.asyncDispose]()
    throw error
  }
  return machine
}

class VirtualMachine implements Machine {
  readonly name: string
  readonly stream: Partial<StreamSettings> | undefined
  readonly loadOrder: LoadOrderSanitizer | undefined
  readonly sections = createSaveStateRegistry()
  readonly memory = new GuestMemory()
  readonly physical = new PhysicalMap(this.memory)
  readonly clock = new VirtualClock()
  readonly output = new OutputGate()
  readonly #config: MachineConfig
  readonly #log: Logger
  readonly #devices: RealizedDevice[] = []
  readonly #buses: Bus[] = []
  readonly #attachPoints: IommuAttachPoint[] = []
  readonly #attachWaiters: { bus: string; callback: (point: IommuAttachPoint) => void }[] = []
  readonly #platform: PlatformBus | undefined
  readonly #watch: Watch
  readonly #listeners = new Map<keyof MachineEvents, Set<(...args: any[]) => void>>()
  #cpu: Cpu | undefined
  #line: ((n: number) => IrqLine) | undefined
  #runState: RunState = 'prelaunch'
  #running = false
  /** Stops and resets run one after the other, in the order they were asked for. */
  #queue: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(config: MachineConfig) {
    this.name = config.name
    this.stream = config.stream
    this.loadOrder = config.checkLoadOrder ? new LoadOrderSanitizer() : undefined
    this.#config = config
    this.#log = config.log ?? silentLogger
    this.#watch = watchWith(this.loadOrder)
    this.#platform = config.platformBus && new PlatformBus(config.platformBus)
  }

  async realize(): Promise<void> {
    const { cpu, ram, devices } = this.#config
    for (const { idstr, base, sizeBytes, backing } of ram) {
      const block = this.memory.addBlock(idstr, sizeBytes, { backing })
      this.physical.addRam(base, block)
      await backing?.read(block.bytes)
    }
    registerTimerSection(this.sections, this.clock, () => this.cpu)
    this.#cpu = await cpu.realize({
      map: this.physical,
      clock: this.clock,
      sections: this.sections,
      log: this.#log,
      fatal: (error) => void this.#fatal(error),
    })
    for (const spec of devices) await this.#realizeDevice(spec)
    const unanswered = this.#attachWaiters.find(({ bus }) => !this.#attachPoints.some((p) => p.bus === bus))
    if (unanswered) throw new DeviceConfigError('iommu', `there is no PCI bus '${unanswered.bus}'`)
    for (const { attachment } of this.#devices) attachment?.ready?.()
    await this.cpu.ready
    this.#resetAll()
  }

  get cpu(): Cpu {
    if (!this.#cpu) throw new Error('the CPU is not realized yet')
    return this.#cpu
  }

  get devices(): readonly RealizedDevice[] {
    return this.#devices
  }

  get runState(): RunState {
    return this.#runState
  }

  migratableBlocks(): readonly RamBlock[] {
    return this.memory.migratableBlocks()
  }

  start(): void {
    if (this.#running || this.#closed) return
    this.#running = true
    this.#runState = 'running'
    for (const d of this.#devices) hook(d.id, 'resume', () => d.device.resume?.())
    this.clock.start()
    this.cpu.flushAll()
    this.cpu.start()
    this.#emit('resume')
  }

  stop(state: RunState = 'paused'): Promise<void> {
    return this.#exclusive(() => this.#stop(state))
  }

  setRunState(state: RunState): void {
    this.#runState = state
  }

  reset(reason = 'host-qmp-system-reset'): Promise<void> {
    return this.#reset(false, reason)
  }

  powerdown(): void {
    this.#emit('powerdown')
  }

  async shutdown(reason: string, exitCode = 0): Promise<void> {
    await this.stop('shutdown')
    this.#emit('shutdown', { guest: reason.startsWith('guest'), reason, exitCode })
  }

  on<E extends keyof MachineEvents>(event: E, listener: MachineEvents[E]): Disposable {
    const set = this.#listeners.get(event) ?? new Set()
    this.#listeners.set(event, set.add(listener))
    return { [Symbol.dispose]: () => void set.delete(listener) }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    if (this.#running) await this.stop('shutdown')
    this.#closed = true
    for (const d of [...this.#devices].reverse()) await d.device.unrealize?.()
    await this.#cpu?.close()
  }

  async #stop(state: RunState): Promise<void> {
    if (this.#running) {
      await this.cpu.pause()
      this.#running = false
      this.clock.stop()
      this.#runState = state
      for (const d of this.#devices) await hook(d.id, 'quiesce', () => d.device.quiesce?.())
      this.#emit('stop')
    } else this.#runState = state
  }

  #reset(guest: boolean, reason: string): Promise<void> {
    return this.#exclusive(async () => {
      await whenPagesArrive(() => this.#demandImages())
      const resume = this.#running
      if (resume) {
        await this.cpu.pause()
        for (const d of this.#devices) await hook(d.id, 'quiesce', () => d.device.quiesce?.())
      }
      this.#resetAll()
      this.#emit('reset', { guest, reason })
      if (resume && this.#running) {
        for (const d of this.#devices) hook(d.id, 'resume', () => d.device.resume?.())
        this.cpu.flushAll()
        this.cpu.start()
      }
    })
  }

  #resetAll(): void {
    this.cpu.reset()
    for (const d of this.#devices) {
      d.attachment?.reset?.()
      hook(d.id, 'reset', () => (d.device.reset ? d.device.reset() : d.resetState()))
    }
    for (const image of this.#config.images ?? []) {
      this.#loadImage(image.name, image.at, imageSource(image))
    }
  }

  /** What is still on its way would otherwise arrive on top of an image. @throws PageMissingError */
  #demandImages(): void {
    if (this.memory.missing.count === 0) return
    for (const image of this.#config.images ?? []) this.physical.demand(image.at, imageSource(image).sizeBytes)
  }

  /** Writes into ROM too, which the physical map would not. */
  #loadImage(name: string, at: number, source: ImageSource): void {
    const { sizeBytes } = source
    const mapping = this.physical.ramMappings().find((m) => at >= m.base && at + sizeBytes <= m.base + m.sizeBytes)
    if (!mapping) {
      throw new DeviceConfigError(name, `${sizeBytes} bytes at 0x${at.toString(16)} do not fit into guest memory`)
    }
    const offset = at - mapping.base
    this.memory.willWrite(mapping.block.offset + offset, sizeBytes)
    source.readInto(mapping.block.bytes.subarray(offset, offset + sizeBytes))
    this.memory.written(mapping.block.offset + offset, sizeBytes)
  }

  async #fatal(error: Error): Promise<void> {
    await this.stop('internal-error')
    this.#emit('fatal', error)
  }

  #emit<E extends keyof MachineEvents>(event: E, ...args: Parameters<MachineEvents[E]>): void {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) listener(...args)
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#queue.then(work)
    this.#queue = next.catch(() => {})
    return next
  }

  async #realizeDevice({ definition, props, placement }: DeviceSpec): Promise<void> {
    const id = placement.id ?? this.#freeId(definition.type)
    if (this.#devices.some((d) => d.id === id)) throw new DeviceConfigError(id, 'there already is a device of that id')
    const attachment = this.#attach(id, definition.bus ?? 'system', definition.type, placement)
    const path = attachment?.path ?? ''

    const { migration } = definition
    let state: any
    let registered = 0
    const registerVmstate: DeviceContext<any>['registerVmstate'] = (vmstate, s, options) => {
      registered++
      this.sections.register(vmstate, s, { path, owner: id, ...options })
    }
    if ('createState' in migration) {
      state = migration.createState()
      registerVmstate(migration, state)
    } else if (migration.kind === 'unmigratable')
      this.sections.block(`device '${id}' (${definition.type}) ${migration.reason}`)

    let firstIrq = placement.irq
    const context: DeviceContext<any> = {
      id,
      state,
      path,
      bus: attachment?.context,
      dma: attachment?.dma ?? this.physical,
      clock: this.clock,
      log: this.#log,
      machine: this.#services(id),
      registerVmstate,
      mmio: (sizeBytes, region, options = {}) => {
        const at = options.at ?? placement.at ?? this.#platformBus(id).address(id, sizeBytes)
        this.#platform?.occupied(at, sizeBytes)
        this.physical.addMmio(at, sizeBytes, this.#watch.mmio(id, region), options.name ?? id)
      },
      ram: (idstr, sizeBytes, mapping, options) => {
        const block = this.memory.addBlock(idstr, sizeBytes, options)
        if (!mapping) return { block, setMode() {} }
        const at = mapping.at ?? placement.at
        if (at === undefined) throw new DeviceConfigError(id, `its memory '${idstr}' needs an address (at)`)
        const handle = this.physical.addRam(at, block, mapping.mode, mapping.writes)
        return { block, setMode: handle.setMode }
      },
      irq: (index = 0) => {
        firstIrq ??= this.#platformBus(id).irq(id)
        return this.#irqLine(firstIrq + index)
      },
    }
    const parsed = await parseProps(id, definition.props, props)
    const device = await hook(id, 'realize', () => definition.realize(context, parsed))
    if (!device)
      throw new DeviceConfigError(id, `realize of ${definition.type} returned nothing; it must return the device`)
    if ('kind' in migration && migration.kind === 'registers-itself' && registered === 0) {
      throw new DeviceConfigError(id, `${definition.type} promised to register its own state and did not`)
    }
    const resetState = () => {
      if (state) Object.assign(state, (migration as { createState(): object }).createState())
    }
    this.#devices.push({ id, type: definition.type, path, device, attachment, resetState })
  }

  #attach(
    deviceId: string,
    kind: BusKind,
    deviceType: string,
    placement: DeviceSpec['placement'],
  ): BusAttachment | undefined {
    if (kind === 'system') {
      if (placement.bus)
        throw new DeviceConfigError(deviceId, `${deviceType} is memory-mapped and cannot be put on '${placement.bus}'`)
      return undefined
    }
    const named = placement.bus ? this.#buses.filter((b) => b.name === placement.bus) : this.#buses
    const bus = named.find((b) => b.accepts.includes(kind))
    if (!bus) {
      const known = this.#buses.map((b) => b.name).join(', ') || 'none'
      throw new DeviceConfigError(
        deviceId,
        placement.bus
          ? `no bus '${placement.bus}' takes ${kind} devices (there are: ${known})`
          : `no bus takes ${kind} devices`,
      )
    }
    return bus.attach({ deviceId, deviceType, kind, addr: placement.addr, options: placement.options })
  }

  #services(deviceId: string): MachineServices {
    const machine = this
    return {
      harts: this.#watch.harts(this.cpu.harts),
      physical: this.physical,
      output: this.output,
      get timeDelta() {
        return machine.cpu.timeDelta
      },
      set timeDelta(value) {
        machine.cpu.timeDelta = value
      },
      provideInterruptController: (line) => {
        this.#line = (n) => this.#watch.line(deviceId, line(n))
      },
      provideBus: (bus) => void this.#buses.push(bus),
      provideIommuAttachPoint: (point) => {
        this.#attachPoints.push(point)
        for (const { bus, callback } of this.#attachWaiters) if (bus === point.bus) callback(point)
      },
      onIommuAttachPoint: (bus, callback) => {
        const watched = (point: IommuAttachPoint) => callback(this.#watch.attachPoint(deviceId, point))
        this.#attachWaiters.push({ bus, callback: watched })
        const point = this.#attachPoints.find((p) => p.bus === bus)
        if (point) watched(point)
      },
      requestReset: (reason) => {
        this.#log.debug('reset requested', { deviceId, reason })
        this.#reset(true, reason).catch((error) => this.#fatal(error))
      },
      requestShutdown: (reason, exitCode) => void this.shutdown(reason, exitCode),
    }
  }

  /** Resolved when it is used: the controller may be created after the device. */
  #irqLine(number: number): IrqLine {
    let line: IrqLine | undefined
    return {
      set: (level) => {
        line ??= this.#line?.(number)
        line?.set(level)
      },
    }
  }

  #platformBus(id: string): PlatformBus {
    if (!this.#platform) throw new DeviceConfigError(id, 'needs an address and this machine has no platform bus')
    return this.#platform
  }

  #freeId(type: string): string {
    let id = type
    for (let n = 1; this.#devices.some((d) => d.id === id); n++) id = `${type}.${n}`
    return id
  }
}

/** Runs a device's code; what it throws is wrapped once, with the device and the hook. Our own typed errors pass. */
function hook<T>(device: string, name: string, run: () => T): T {
  const wrap = (cause: unknown): never => {
    throw FerryError.isInstance(cause) ? cause : new DeviceHookError(device, name, cause)
  }
  try {
    const result = run()
    return result instanceof Promise ? (result.catch(wrap) as T) : result
  } catch (cause) {
    return wrap(cause)
  }
}

function imageSource({ bytes }: BootImage): ImageSource {
  if (typeof bytes !== 'function' && !(bytes instanceof Uint8Array)) return bytes
  const held = typeof bytes === 'function' ? bytes() : bytes
  return { sizeBytes: held.length, readInto: (target) => target.set(held) }
}
