/** A small certificate authority, for the files that `@ferryvm/transport-tls` and QEMU read. */
export type { Authority, Issued, IssueOptions } from './authority.ts'
export { createAuthority, openAuthority } from './authority.ts'
export type { InitTlsOptions } from './init-folder.ts'
export { addPskUser, initTlsFolder } from './init-folder.ts'
