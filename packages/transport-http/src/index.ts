/**
 * `https:` and `http:` transport for ferryvm: a guest comes out of a file on a server, by range requests. Runs in browsers.
 *
 * ```ts
 * import { createMigration } from '@ferryvm/migration'
 * import { https } from '@ferryvm/transport-http'
 *
 * const migration = createMigration({ machine, transports: [https()] })
 * await migration.incoming('https://example.org/guest.state', { lazy: true }) // it runs at once; pages come when they are touched
 * ```
 */

export { HttpAddressError, HttpChangedError, HttpRangeError, HttpRequestError } from './errors.ts'
export type { HttpOptions } from './http.ts'
export { http, https } from './http.ts'
