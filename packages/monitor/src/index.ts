/**
 * QMP and the human monitor for a ferryvm machine.
 *
 * ```ts
 * import { createServer } from 'node:net'
 * import { createMonitor } from '@ferryvm/monitor'
 *
 * const monitor = createMonitor({ machine, migration })
 * createServer((client) => monitor.attachQmp({ readable: client, writable: client })).listen('/tmp/qmp.sock')
 * console.log(await monitor.executeHmp('info status'))
 * ```
 */
export type { BlockInfo, ChardevInfo, ForkReply, MonitorOptions, MonitorVersion } from './context.ts'
export type { QmpErrorClass } from './errors.ts'
export { MonitorCommandError } from './errors.ts'
export type { Monitor, MonitorClient } from './monitor.ts'
export { createMonitor } from './monitor.ts'
export { qmpCommands } from './qmp/commands.ts'
export type { QmpCommand } from './qmp/define-command.ts'
export type { SocketAddress, StorageDrive, StorageOptions } from './storage/block-nodes.ts'
