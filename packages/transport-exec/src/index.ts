/**
 * `exec:` transport for ferryvm: a guest goes through a shell command, or comes out of one. Node only.
 *
 * ```ts
 * import { createMigration } from '@ferryvm/migration'
 * import { exec } from '@ferryvm/transport-exec'
 *
 * const migration = createMigration({ machine, transports: [exec()] })
 * await migration.migrate('exec:gzip -c > guest.gz')
 * ```
 */

export { ExecAddressError, ExecStartError, ExecStatusError } from './errors.ts'
export type { ExecOptions } from './exec.ts'
export { exec } from './exec.ts'
