import type { VirtualClock } from '../clock/virtual-clock.ts'
import type { Cpu } from '../cpu/cpu.ts'
import type { Device } from '../device/device.ts'
import type { OutputGate } from '../device/output-gate.ts'
import type { GuestMemory, RamBlock } from '../memory/guest-memory.ts'
import type { PhysicalMap } from '../memory/physical-map.ts'
import type { SaveStateRegistry } from '../registry/registry.ts'
import type { StreamSettings } from '../stream/element.ts'
import type { LoadOrderSanitizer } from '../stream/load-order.ts'

/** QEMU's names. Spec: stream.md section 9. */
export type RunState =
  | 'prelaunch'
  | 'running'
  | 'paused'
  | 'inmigrate'
  | 'postmigrate'
  | 'finish-migrate'
  | 'shutdown'
  | 'suspended'
  | 'internal-error'
  | 'io-error'
  | 'debug'
  | 'restore-vm'
  | 'save-vm'
  | 'watchdog'
  | 'guest-panicked'
  | 'colo'

export interface MachineEvents {
  /** The harts stopped; `runState` says why. */
  stop: () => void
  resume: () => void
  reset: (facts: { guest: boolean; reason: string }) => void
  powerdown: () => void
  shutdown: (facts: { guest: boolean; reason: string; exitCode: number }) => void
  /** The machine can no longer run (a CPU error); run state `internal-error`. */
  fatal: (error: Error) => void
}

/** What migration and monitors drive. `createMachine` in @ferryvm/machine makes one. */
export interface Machine extends AsyncDisposable {
  /** Machine type name on the wire (CONFIGURATION section), `virt`. */
  readonly name: string
  /** What its streams need of the container, beside what the user asks for. */
  readonly stream?: Partial<StreamSettings>
  readonly sections: SaveStateRegistry
  /** There when the machine was made to check the order in which devices load. */
  readonly loadOrder?: LoadOrderSanitizer
  readonly memory: GuestMemory
  readonly physical: PhysicalMap
  readonly cpu: Cpu
  readonly clock: VirtualClock
  /** Open unless somebody takes checkpoints. */
  readonly output: OutputGate
  readonly runState: RunState
  readonly devices: readonly {
    readonly id: string
    readonly type: string
    readonly path: string
    readonly device: Device
  }[]
  /** Blocks that migrate, longest first, then in creation order. Spec: ram.md section 1. */
  migratableBlocks(): readonly RamBlock[]
  /** Harts run; no-op when they do. Calls every device's `resume`. */
  start(): void
  /**
   * Harts stop, then every device quiesces. Resolves when `sections` can be saved. No-op (but the run state changes)
   * when already stopped.
   */
  stop(state?: RunState): Promise<void>
  /** Only the name, without starting or stopping anything: `inmigrate`, `postmigrate`, the one a stream brought. */
  setRunState(state: RunState): void
  /** @param reason of the event; default `host-qmp-system-reset` */
  reset(reason?: string): Promise<void>
  powerdown(): void
  /** Stops for good, as QMP `quit` or the guest's power-off: emits `shutdown`. */
  shutdown(reason: string, exitCode?: number): Promise<void>
  on<E extends keyof MachineEvents>(event: E, listener: MachineEvents[E]): Disposable
}
