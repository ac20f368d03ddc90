import type { Bus, BusKind } from '../bus/bus.ts'
import type { IommuAttachPoint } from '../bus/iommu.ts'
import type { IrqLine, MmioRegion } from '../bus/mmio.ts'
import type { Transport } from '../channel/transport.ts'
import type { VirtualClock } from '../clock/virtual-clock.ts'
import type { CpuSpec, HartPort } from '../cpu/cpu.ts'
import type { AddressSpace } from '../memory/address-space.ts'
import type { RamBlock, RamBlockOptions } from '../memory/guest-memory.ts'
import type { PhysicalMap, RamMode } from '../memory/physical-map.ts'
import type { RegisterOptions } from '../registry/registry.ts'
import type { Vmstate } from '../vmstate/vmstate.ts'
import type { Logger } from './logger.ts'
import type { OutputGate } from './output-gate.ts'
import type { StandardSchema } from './standard-schema.ts'

/** A device says how it migrates; there is no default, so a forgotten table is a type error and not lost state. */
export type Migration<S = any> = Vmstate<S> | Stateless | Unmigratable | RegistersItself
export interface Stateless {
  readonly kind: 'stateless'
}
export interface Unmigratable {
  readonly kind: 'unmigratable'
  readonly reason: string
}
/** The device calls `ctx.registerVmstate` in `realize`: several sections, or state that predates its table. */
export interface RegistersItself {
  readonly kind: 'registers-itself'
}
export const stateless: Stateless = { kind: 'stateless' }
export const registersItself: RegistersItself = { kind: 'registers-itself' }
export const unmigratable = (reason: string): Unmigratable => ({ kind: 'unmigratable', reason })
export type StateFor<M> = M extends Vmstate<infer S> ? S : undefined

export interface DeviceType<In, Props, M extends Migration> {
  /** As in `-device virtio-blk,drive=hd0`. */
  readonly type: string
  /** Any Standard Schema; also parses what `-device` strings say (all values are strings there). */
  readonly props: StandardSchema<In, Props>
  readonly migration: M
  /** Default `system`. */
  readonly bus?: BusKind
  /** `state` is created from the table and already registered: what the device mutates is what is saved. */
  realize(ctx: DeviceContext<StateFor<M>>, props: Props): Device | Promise<Device>
}

/** The running device, as the machine drives it. All hooks are optional. */
export interface Device {
  /** Default: put back the table's reset values. */
  reset?(): void
  /** Stop producing work, keep accepting it; resolve when host I/O in flight is in `state`. Runs after the harts stop. */
  quiesce?(): Promise<void>
  /** Runs before the harts start again: after a load, after a failed migration, after a COLO checkpoint. */
  resume?(): void
  /** A network card: says once where the guest is now, to the network and to a driver that can say more. Asked several times after a migration. */
  announce?(): void
  /** The state was loaded, and the guest is another one than the one that it was saved of: a twin, a restored snapshot. */
  renewIdentity?(): void
  unrealize?(): void | Promise<void>
  /** What a monitor shows about it. */
  describe?(): string
}

export interface MmioOptions {
  /** Guest-physical base. Default: the placement's `at`. */
  readonly at?: number
  readonly name?: string
}

export interface DeviceContext<S> {
  readonly id: string
  readonly state: S
  /** Declare a region of `sizeBytes`; where it lands is the placement's business. */
  mmio(sizeBytes: number, region: MmioRegion, options?: MmioOptions): void
  /**
   * A migrated block of memory; with a `mapping`, at its `at` or by default the placement's. `setMode` switches
   * a flash between array and command mode.
   */
  ram(
    idstr: string,
    sizeBytes: number,
    mapping?: { readonly at?: number; readonly mode?: RamMode; readonly writes?: MmioRegion },
    options?: RamBlockOptions,
  ): { readonly block: RamBlock; setMode(mode: RamMode): void }
  /** Line number `placement.irq + index` of the machine's interrupt controller. */
  irq(index?: number): IrqLine
  /** Guest memory as this device sees it: through the IOMMU when one is in front. */
  readonly dma: AddressSpace
  /** What the bus gave: `PciSlot`, `VirtioTransport`, or undefined on the system bus. */
  readonly bus: unknown
  /** Prefix of the device's idstr ("0000:00:01.0"), or empty. */
  readonly path: string
  registerVmstate<T>(vmstate: Vmstate<T>, state: T, options?: RegisterOptions): void
  readonly clock: VirtualClock
  readonly log: Logger
  readonly machine: MachineServices
}

/** For devices that are part of a board: what they give to it and may ask of it. */
export interface MachineServices {
  readonly harts: readonly HartPort[]
  /** Shared with the `time` CSR. See `Cpu.timeDelta`. */
  timeDelta: bigint
  readonly physical: PhysicalMap
  /** Whether what the world sees may go out now. */
  readonly output: OutputGate
  /** From now on `irq(n)` of every device, also of earlier ones, is `line(n)`. */
  provideInterruptController(line: (n: number) => IrqLine): void
  provideBus(bus: Bus): void
  provideIommuAttachPoint(point: IommuAttachPoint): void
  /** The PCI bus of that name, now or as soon as its host bridge exists. */
  onIommuAttachPoint(bus: string, callback: (point: IommuAttachPoint) => void): void
  /** `guest-reset`: the guest asked. Takes effect before the current access returns to the guest. */
  requestReset(reason: 'guest-reset'): void
  /** The guest powered the machine off. */
  requestShutdown(reason: 'guest-shutdown', exitCode: number): void
}

/** What it is and where it sits are two arguments, so that a board can place a third party's device. */
export interface Placement {
  readonly id?: string
  /** Guest-physical address on the system bus; absent: the next free place on the platform bus. */
  readonly at?: number
  /** Interrupt controller input; absent on the platform bus: the next free one. */
  readonly irq?: number
  /** Name of a bus (`pcie.0`, `virtio-mmio`). Default: the first that takes this kind of device. */
  readonly bus?: string
  readonly addr?: string
  readonly options?: Readonly<Record<string, unknown>>
}
export interface DeviceSpec {
  readonly definition: DeviceType<any, any, any>
  readonly props: unknown
  readonly placement: Placement
}
export interface DeviceFactory<In> {
  (props: In, placement?: Placement): DeviceSpec
  readonly definition: DeviceType<In, any, any>
  readonly type: string
}

/** Returns a factory: `uart16550({ clockHz }, { at: 0x1000_0000, irq: 10 })` is data until the machine realizes it. */
export function defineDevice<In, Props, const M extends Migration>(type: DeviceType<In, Props, M>): DeviceFactory<In> {
  const factory = (props: In, placement: Placement = {}): DeviceSpec => ({ definition: type, props, placement })
  return Object.assign(factory, { definition: type, type: type.type })
}

export interface CpuFactory<Props> {
  (props: Props): CpuSpec
  readonly type: string
}

/**
 * What a package's default export is when it wants to be usable from a config file or `-device` strings. Rows, devices
 * and plugins are plain values without class identity, so a plugin built against another copy of core still works.
 */
export interface Plugin {
  readonly name: string
  /** The contract this plugin was written for; a machine refuses one it does not know. */
  readonly contract: 1
  readonly devices?: readonly DeviceFactory<any>[]
  readonly transports?: readonly Transport<any>[]
  readonly cpus?: readonly CpuFactory<any>[]
}
export const definePlugin = (plugin: Plugin): Plugin => plugin
