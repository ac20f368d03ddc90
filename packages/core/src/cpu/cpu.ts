import type { InterruptFile } from '../bus/interrupt-file.ts'
import type { IrqLine } from '../bus/mmio.ts'
import type { VirtualClock } from '../clock/virtual-clock.ts'
import type { Logger } from '../device/logger.ts'
import type { PhysicalMap } from '../memory/physical-map.ts'
import type { SaveStateRegistry } from '../registry/registry.ts'

/** What `rv64({ harts: 2 })` returns: data until a machine realizes it. */
export interface CpuSpec {
  readonly type: string
  readonly harts: number
  /** Allocates what it needs in `ctx.map.memory`, registers its sections, starts its worker threads paused. */
  realize(ctx: CpuContext): Promise<Cpu>
}

export interface CpuContext {
  readonly map: PhysicalMap
  readonly clock: VirtualClock
  readonly sections: SaveStateRegistry
  readonly log: Logger
  /** The CPU cannot go on (an internal error, or an unsupported mode was entered). The machine stops. */
  fatal(error: Error): void
}

/** One hart as devices see it. */
export interface HartPort {
  readonly index: number
  /** Interrupt inputs by mip bit: 1 SSIP, 3 MSIP, 9 SEIP, 11 MEIP. (MTIP comes from {@link setMtimecmp}.) */
  line(mipBit: number): IrqLine
  /** Is that bit of mip set now? */
  pending(mipBit: number): boolean
  /** MTIP is high while mtime >= this. All ones: never. */
  setMtimecmp(value: bigint): void
  /**
   * Interrupt files of the hart: of machine level, and of supervisor level and its guests. Absent: it has none, and
   * its external interrupts come from {@link line} alone.
   */
  readonly interruptFiles?: { readonly machine: InterruptFile; readonly supervisor: readonly InterruptFile[] }
}

/** Where a hart is. */
export interface HartSample {
  /** Of an instruction that it is about to execute: after a branch, a jump or the end of a page. */
  readonly pc: bigint
  /** Privilege mode: 0 U, 1 S, 3 M. */
  readonly mode: number
  /** idle: it waits in a WFI. stopped: paused, or gone. */
  readonly state: 'running' | 'idle' | 'stopped'
}

/** Asks harts where they are, without stopping them; made for a profiler that does so every millisecond. */
export interface HartSampler {
  /** Asks all harts. One that has not answered yet is asked anew. */
  ask(): void
  /** What a hart answered; undefined: nothing yet, or it was taken already. One that sleeps or is stopped answers at once. */
  take(hart: number): HartSample | undefined
}

/** All harts of a machine. They run in worker threads; this end lives with the devices. */
export interface Cpu {
  readonly harts: readonly HartPort[]
  /**
   * Resolves when the harts stand there, paused, rejects when one cannot be started. Until then devices may be connected to
   * them; a machine waits for it before its first reset. Absent: they do already.
   */
  readonly ready?: Promise<void>
  /** Added to floor(clock.ns / 100) it is mtime (10 MHz), which the `time` CSR shows too. */
  timeDelta: bigint
  /** Lets the harts run. Pending MMIO of a hart that was paused in the middle of an access is finished first. */
  start(): void
  /** Resolves when every hart stands between two instructions and its registers can be read and changed. */
  pause(): Promise<void>
  /** Power-on state, pc = reset vector. Harts must be paused. */
  reset(): void
  /** Before {@link start} after registers, memory or mappings were changed from outside: forget translations and decoded code. */
  flushAll(): void
  /**
   * Resolves when no hart can write memory without first setting the page's bit in the dirty log. Call it after
   * `dirtyLog.enabled = true` and after each `dirtyLog.take`, before page contents are read. Harts may be running.
   */
  flushWriteTlb(): Promise<void>
  /** Makes the harts stand for that part of the time while they run: 0 (not at all) to 99 percent. */
  throttle?(percent: number): void
  /** Instructions retired by all harts since the CPU was made. */
  readonly instructionsRetired: bigint
  /** A register for monitors and tests: `pc`, `a0`, `f3`, `satp` ... Harts must be paused. */
  readRegister(hart: number, name: string): bigint
  /** Absent: these harts cannot be asked where they are. */
  readonly sampler?: HartSampler
  /** For `info registers`. */
  describe(hart: number): string
  /** For `info jit`: what was compiled and why compiled code was left. Absent: there is no compiler. */
  describeCompiler?(): string
  close(): Promise<void>
}
