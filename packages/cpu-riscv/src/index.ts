/**
 * RV64 harts: one instruction table, a WebAssembly interpreter made from it, MMU, CSRs, traps.
 *
 * ```ts
 * const machine = await createMachine({ cpu: rv64({ harts: 2 }), ram: 256 << 20, devices: [...] })
 * ```
 */
export { HartCrashError, VirtualizationError } from './errors.ts'
export { type HartProfile, PROFILES, type ProfileName } from './hart/profile.ts'
export { type Rv64Options, rv64 } from './rv64.ts'
export type { Rv64Cpu } from './rv64-cpu.ts'
