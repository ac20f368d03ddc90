/**
 * What a program may do first, before it has loaded what it makes a machine with: nothing else of the package is loaded by it.
 *
 * ```ts
 * import { prepareHartThread } from '@ferryvm/cpu-riscv/prepare'
 *
 * prepareHartThread()
 * const { rv64 } = await import('@ferryvm/cpu-riscv')
 * ```
 */
export { prepareHartThread } from './worker/spawn.ts'
