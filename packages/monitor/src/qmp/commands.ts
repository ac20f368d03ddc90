import { z } from 'zod'
import { bitmapCommands } from './bitmap-commands.ts'
import { blockCommands } from './block-commands.ts'
import { command, type QmpCommand } from './define-command.ts'
import { QMP_EVENTS } from './events.ts'
import { machineCommands } from './machine-commands.ts'
import { migrationCommands } from './migration-commands.ts'
import { objectCommands } from './object-commands.ts'
import { qmpSchema, type SchemaInfo } from './schema.ts'
import { snapshotCommands } from './snapshot-commands.ts'
import { yankCommands } from './yank-commands.ts'

/** Every QMP command by name. `qmp_capabilities` is listed but belongs to the session. */
export const qmpCommands: ReadonlyMap<string, QmpCommand> = new Map(
  [
    ...bitmapCommands,
    ...blockCommands,
    ...machineCommands,
    ...migrationCommands,
    ...objectCommands,
    ...snapshotCommands,
    ...yankCommands,
    command('query-qmp-schema', {}, () => schema()),
    command('query-commands', {}, () =>
      [...['qmp_capabilities', ...qmpCommands.keys()]].sort().map((name) => ({ name })),
    ),
  ].map((c) => [c.name, c]),
)

/** Of the session, which negotiates before any command. */
const negotiation = command('qmp_capabilities', { enable: z.array(z.enum(['oob'])).optional() }, () => undefined)

let described: readonly SchemaInfo[] | undefined
function schema(): readonly SchemaInfo[] {
  described ??= qmpSchema(
    [negotiation, ...qmpCommands.values()].map((c) => ({ name: c.name, args: c.describedArgs ?? c.args, oob: c.oob })),
    QMP_EVENTS,
  )
  return described
}
