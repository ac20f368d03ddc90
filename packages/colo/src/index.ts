/**
 * COLO: a second machine follows a running one checkpoint by checkpoint, and goes on where the last one stood when the first
 * is lost. Wire compatible with stock QEMU 7.2.
 *
 * ```ts
 * import { createColo } from '@ferryvm/colo'
 * import { createMigration } from '@ferryvm/migration'
 * import { tcp } from '@ferryvm/transport-socket'
 *
 * // on both sides
 * const colo = createColo({ onCheckpoint: ({ number, pausedMs }) => console.log(number, pausedMs) })
 * const migration = createMigration({ machine, transports: [tcp()], colo })
 * migration.setCapabilities([{ capability: 'x-colo', state: true }])
 *
 * // there: `done` resolves when that machine has taken over
 * const { done } = await migration.incoming('tcp:0.0.0.0:4444')
 * // here
 * migration.setParameters({ 'x-checkpoint-delay': 100 })
 * migration.start('tcp:192.0.2.7:4444')
 * ```
 */

export type { CheckpointFacts, ColoOptions } from './colo.ts'
export { createColo } from './colo.ts'
export { ColoCheckpointError, ColoFencedError, ColoGuardError, ColoProtocolError, ColoStateError } from './errors.ts'
export type { Fence } from './guard/fence.ts'
export type { ColoGuard, ColoRole } from './guard/guard.ts'
export type { HeartbeatOptions } from './guard/heartbeat.ts'
export { heartbeatGuard } from './guard/heartbeat.ts'
