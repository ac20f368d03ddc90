/**
 * OpenTelemetry spans and metrics of live migrations, in Node and in browsers.
 *
 * ```ts
 * import { createMigration } from '@ferryvm/migration'
 * import { observeMigration } from '@ferryvm/opentelemetry'
 *
 * const migration = createMigration({ machine, transports })
 * using _ = observeMigration(migration, { events: ['savevm_section_*', 'migrate_error'] })
 * ```
 */

export type { ObserveOptions } from './observe-migration.ts'
export { observeMigration } from './observe-migration.ts'
