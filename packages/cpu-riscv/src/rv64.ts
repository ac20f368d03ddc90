import type { Cpu, CpuContext, CpuFactory, CpuSpec, PhysicalMap } from '@ferryvm/core'
import { HartCrashError, PageNotIsolatedError, VirtualizationError } from './errors.ts'
import { CONTROL_BYTES, ControlBlock } from './hart/control.ts'
import { HartState, WORD } from './hart/hart-state.ts'
import { DEFAULT_POOL_PAGES, hartAreaBytes, LAYOUT, MAX_GUEST_FILES, PAGE_SLOT_BYTES } from './hart/layout.ts'
import { type HartProfile, PROFILES, type ProfileName, withInterruptFiles } from './hart/profile.ts'
import { NO_RESERVATION, resetHart } from './hart/reset.ts'
import { Rv64Cpu, type Rv64CpuParts } from './rv64-cpu.ts'
import { MmioServer } from './worker/mailbox.ts'
import { Fatal, Request } from './worker/requests.ts'
import { spawnHart } from './worker/spawn.ts'

/** How guest code runs: compiled where it is hot, or interpreted. */
export type Accelerator = 'interp' | 'jit'
export const ACCELERATORS: readonly Accelerator[] = ['interp', 'jit']
export const DEFAULT_ACCELERATOR: Accelerator = 'jit'

export interface Rv64Options {
  /** Default 1. */
  readonly harts?: number
  /** Which stock QEMU's `rv64` CPU to be like, for the guest and on the wire. Default `qemu-7.2`. */
  readonly profile?: ProfileName
  /**
   * Gives the harts Smaia and Ssaia: interrupt files at machine and supervisor level, and so many for guests of the
   * latter, 0 to 7. An IMSIC delivers to them. Default: the harts have none.
   */
  readonly guestFiles?: number
  /** Default `jit`: hot code is compiled to WebAssembly. A guest cannot tell, apart from the speed. */
  readonly accel?: Accelerator
  /** With `jit`: so many jumps to an instruction make it worth compiling, 1 to 32767. */
  readonly compileThreshold?: number
  /** Pages of guest code each hart keeps decoded, 32.8 KiB of memory per page. Default 2048, less with more than 8 harts. */
  readonly decodedPages?: number
  /**
   * Send timers that are armed as already expired. Stock QEMU arms no timer when it loads, so a guest asleep would not
   * wake there; one early timer interrupt makes it set its timer anew. Default true; nothing changes for our own kind,
   * which computes timer interrupts from the time. Spec: virt-vmstate.md section 5.
   */
  readonly timerNudge?: boolean
  /**
   * What the guest was told about its harts: the ISA string of the device tree in its memory, if one is there. Asked when
   * a guest of another profile arrives.
   */
  readonly toldIsa?: (map: PhysicalMap) => string | undefined
}

/**
 * A region costs about 0.3 ms of this thread and as much of V8's, which is what the interpreter takes for so many jumps. A
 * lower threshold compiles ten times as much of a booting kernel and makes no program faster.
 */
const DEFAULT_THRESHOLD = 2000
const MAX_THRESHOLD = 32_767
const MAX_HARTS = 512
const MAX_POOL_PAGES = 32_768
/** All harts' decoded pages together, unless asked for: they share 4 GiB of addresses with the guest's RAM. */
const POOLS_BYTES = 2 ** 29
const MIN_DEFAULT_POOL_PAGES = 64

const defaultPool = (harts: number): number => {
  const share = Math.floor(POOLS_BYTES / harts / PAGE_SLOT_BYTES)
  return Math.min(DEFAULT_POOL_PAGES, Math.max(MIN_DEFAULT_POOL_PAGES, share))
}

/**
 * An RV64IMAFDC CPU with M, S and U mode. Each hart runs in a thread of its own.
 * @throws PageNotIsolatedError in a page whose threads cannot share memory
 * @throws RangeError harts outside 1..512, decodedPages outside 16..32768, compileThreshold outside 1..32767 or guestFiles
 * outside 0..7
 */
export const rv64: CpuFactory<Rv64Options> = Object.assign(
  (options: Rv64Options = {}): CpuSpec => {
    if (globalThis.crossOriginIsolated === false) throw new PageNotIsolatedError()
    const { harts = 1, profile = 'qemu-7.2', decodedPages = defaultPool(harts), timerNudge = true } = options
    if (!Number.isInteger(harts) || harts < 1 || harts > MAX_HARTS)
      throw new RangeError(`rv64: ${harts} harts; 1 to 512`)
    if (!(decodedPages >= 16 && decodedPages <= MAX_POOL_PAGES)) {
      throw new RangeError(`rv64: decodedPages ${decodedPages}; 16 to ${MAX_POOL_PAGES}`)
    }
    const { accel = DEFAULT_ACCELERATOR, compileThreshold = DEFAULT_THRESHOLD } = options
    if (!ACCELERATORS.includes(accel))
      throw new RangeError(`rv64: no accelerator "${accel}"; ${ACCELERATORS.join(', ')}`)
    if (!(compileThreshold >= 1 && compileThreshold <= MAX_THRESHOLD)) {
      throw new RangeError(`rv64: compileThreshold ${compileThreshold}; 1 to ${MAX_THRESHOLD}`)
    }
    const threshold = accel === 'jit' ? compileThreshold : undefined
    if (!PROFILES[profile]) throw new RangeError(`rv64: no profile "${profile}"; ${Object.keys(PROFILES).join(', ')}`)
    const { guestFiles } = options
    if (
      guestFiles !== undefined &&
      !(Number.isInteger(guestFiles) && guestFiles >= 0 && guestFiles <= MAX_GUEST_FILES)
    ) {
      throw new RangeError(`rv64: guestFiles ${guestFiles}; 0 to ${MAX_GUEST_FILES}`)
    }
    const plain = PROFILES[profile]
    const hart = guestFiles === undefined ? plain : withInterruptFiles(plain, guestFiles)
    return {
      type: 'rv64',
      harts,
      realize: (ctx) => realize(ctx, harts, hart, decodedPages, threshold, { timerNudge, toldIsa: options.toldIsa }),
    }
  },
  { type: 'rv64' },
)

async function realize(
  ctx: CpuContext,
  count: number,
  profile: HartProfile,
  poolPages: number,
  threshold: number | undefined,
  options: Pick<Rv64CpuParts, 'timerNudge' | 'toldIsa'>,
): Promise<Cpu> {
  const { memory } = ctx.map
  const controlBase = memory.allocate(CONTROL_BYTES)
  const codeHoldersBase = count > 1 ? memory.allocate(2 ** 21) : 0
  const bases = Array.from({ length: count }, () => memory.allocate(hartAreaBytes(poolPages)))
  const control = new ControlBlock(memory.buffer, controlBase)
  const harts = bases.map((base, index) => new HartState(memory.buffer, base, index))
  for (const hart of harts) {
    resetHart(hart, profile)
    // No timer until a CLINT sets one.
    hart.set(LAYOUT.mtimecmp, NO_RESERVATION)
    Atomics.store(hart.i32, WORD.request, Request.pause)
  }
  control.setMappings(ctx.map.ramMappings())

  let alive = true
  const server = new MmioServer(harts, control.doorbell, ctx.map, (error) =>
    ctx.fatal(error instanceof Error ? error : new Error(String(error))),
  )
  try {
    const threads = harts.map((hart) =>
      spawnHart(
        {
          memory: memory.memory,
          logOffsets: memory.dirtyLog.offsets,
          controlBase,
          codeHoldersBase,
          hartBases: bases,
          index: hart.index,
          profile,
          poolPages,
          threshold,
          clock: ctx.clock.shared,
          clockBaseMs: ctx.clock.baseMs,
        },
        ({ fatal, value }) => {
          // Fatal.none: told to leave, by close.
          if (alive && fatal === Fatal.virtualization) ctx.fatal(new VirtualizationError(hart.index, value))
        },
        (cause) => {
          if (alive) ctx.fatal(new HartCrashError(hart.index, hart.pc, cause))
        },
      ),
    )
    const ready = Promise.all(threads.map((thread) => thread.ready)).then(() => {})
    ready.catch(() => {})
    const cpu = new Rv64Cpu({
      harts,
      profile,
      control,
      map: ctx.map,
      clock: ctx.clock,
      compiles: threshold !== undefined,
      ready,
      ...options,
      async close() {
        alive = false
        server.close()
        await Promise.all(threads.map((thread) => thread.terminate()))
      },
    })
    cpu.register(ctx.sections)
    return cpu
  } catch (error) {
    alive = false
    server.close()
    throw error
  }
}
