/**
 * `file:` transport for ferryvm: a guest is saved into a file, or comes out of one. Node only.
 *
 * ```ts
 * import { createMigration } from '@ferryvm/migration'
 * import { file } from '@ferryvm/transport-file'
 *
 * const migration = createMigration({ machine, transports: [file()] })
 * await migration.migrate('file:guest.state,offset=0x1000')
 * ```
 */

export type { FileAddress } from './address.ts'
export { formatFileAddress, parseFileAddress } from './address.ts'
export { FileAddressError, FileChangedError, FileIoError, FileOpenError } from './errors.ts'
export { file } from './file.ts'
