/**
 * Disks over a network: an NBD server and a client, over any channel. Runs in Node and in browsers.
 *
 * ```ts
 * import { createChannelPair } from '@ferryvm/core'
 * import { NbdDisk, NbdServer } from '@ferryvm/nbd'
 *
 * const [here, there] = createChannelPair()
 * const server = new NbdServer()
 * server.add({ name: 'disk', backend, writable: true })
 * void server.serve(there)
 * const disk = await NbdDisk.open(here, { exportName: 'disk' })
 * await disk.write(0, new Uint8Array(512))
 * ```
 */
export { NbdDisk, type NbdDiskOptions, nbdExportNames } from './client/nbd-disk.ts'
export { NbdProtocolError, NbdRefusedError, NbdRequestError } from './errors.ts'
export type { NbdExport } from './server/nbd-export.ts'
export { NbdServer, type NbdServerOptions } from './server/nbd-server.ts'
