/**
 * RV64 harts: one table of instructions, the WebAssembly interpreter that is made from it, MMU, CSRs, traps. Each hart runs
 * in a thread of its own over the machine's shared memory.
 *
 * ```ts
 * import { rv64 } from '@ferryvm/cpu-riscv'
 *
 * const machine = await createMachine({ cpu: rv64({ harts: 2, profile: 'qemu-10.0' }), ram, devices })
 * machine.start()
 * ```
 */
export { HartCrashError, PageNotIsolatedError, VirtualizationError } from './errors.ts'
export { type HartProfile, PROFILES, type ProfileName, withInterruptFiles } from './hart/profile.ts'
export { ACCELERATORS, type Accelerator, DEFAULT_ACCELERATOR, type Rv64Options, rv64 } from './rv64.ts'
export type { Rv64Cpu } from './rv64-cpu.ts'
export { hartTables } from './vmstate/cpu-vmstate.ts'
