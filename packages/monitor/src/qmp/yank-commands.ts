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
    ...command('yank', { instances: z.array(instance) }, ({ migration, storage }, { instances }) => {
      const known = instances.every(({ type, 'node-name': node = '' }) =>
        type === 'block-node' ? storage?.connections.includes(node) : type === 'migration' && migration.connected,
      )
      if (!known) throw new MonitorCommandError('Instance not found', 'DeviceNotFound')
      for (const { type, 'node-name': node = '' } of instances) {
        if (type === 'block-node') storage!.yank(node)
        else migration.yank()
      }
    }),
    oob: true,
  },
  {
    ...command('query-yank', {}, ({ migration, storage }) => [
      ...(migration.connected ? [{ type: 'migration' }] : []),
      ...(storage?.connections ?? []).map((node) => ({ type: 'block-node', 'node-name': node })),
    ]),
    oob: true,
  },
]
