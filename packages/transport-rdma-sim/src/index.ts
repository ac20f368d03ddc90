/**
 * `rdma:` for ferryvm: QEMU's RDMA migration protocol over verbs, with devices in software.
 *
 * ```ts
 * import { createMigration } from '@ferryvm/migration'
 * import { rdma } from '@ferryvm/transport-rdma-sim'
 *
 * const migration = createMigration({ machine, transports: [rdma()] })
 * await migration.migrate('rdma:192.0.2.7:4444')
 * ```
 */

export { formatRdmaAddress, parseRdmaAddress } from './address.ts'
export {
  RdmaAddressError,
  RdmaCapabilityError,
  RdmaCompletionError,
  RdmaPeerError,
  RdmaProtocolError,
} from './errors.ts'
export { type FaultyDevice, faultyDevice, type VerbsFault } from './faults/faulty-device.ts'
export { type FaultyFabric, faultyFabric, type WireFault } from './faults/faulty-fabric.ts'
export { type RdmaOptions, rdma } from './rdma.ts'
export { inProcessFabric } from './software/in-process-fabric.ts'
export type { Fabric, Link, LinkReceiver } from './software/link.ts'
export { socketFabric } from './software/socket-fabric.ts'
export { type SoftwareDevice, type SoftwareDeviceOptions, softwareDevice } from './software/software-device.ts'
export {
  RdmaConnectError,
  RdmaListenError,
  VerbsQueueFullError,
  VerbsResourceError,
  VerbsStateError,
} from './verbs/errors.ts'
export type * from './verbs/verbs.ts'
