/**
 * `fd:` transport for ferryvm: a guest goes through a descriptor that this process inherited. Node only.
 *
 * ```ts
 * import { createMigration } from '@ferryvm/migration'
 * import { fd } from '@ferryvm/transport-fd'
 *
 * const migration = createMigration({ machine, transports: [fd()] })
 * await migration.migrate('fd:3')
 * ```
 */

export { FdAddressError, FdOpenError } from './errors.ts'
export { fd } from './fd.ts'
