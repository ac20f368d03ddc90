import { z } from 'zod'
import { MonitorCommandError } from '../errors.ts'
import { command, type QmpCommand } from './define-command.ts'

const instance = z.strictObject({
  type: z.enum(['block-node', 'chardev', 'migration']),
  'node-name': z.string().optional(),
  id: z.string().optional(),
})

/** Connections whose other end stopped answering are given up at once, without waiting for it. Spec: protocol.md section 7. */
export const yankCommands: readonly QmpCommand[] = [
  {
    ...command('yank', { instances: z.array(instance) }, ({ migration }, { instances }) => {
      const known = instances.every(({ type }) => type === 'migration' && migration.connected)
      if (!known) throw new MonitorCommandError('Instance not found', 'DeviceNotFound')
      if (instances.length > 0) migration.yank()
    }),
    oob: true,
  },
  {
    ...command('query-yank', {}, ({ migration }) => (migration.connected ? [{ type: 'migration' }] : [])),
    oob: true,
  },
]
