import { command, type QmpCommand } from './define-command.ts'
import { machineCommands } from './machine-commands.ts'
import { migrationCommands } from './migration-commands.ts'
import { objectCommands } from './object-commands.ts'
import { snapshotCommands } from './snapshot-commands.ts'

/** Every QMP command by name. `qmp_capabilities` is listed but belongs to the session. */
export const qmpCommands: ReadonlyMap<string, QmpCommand> = new Map(
  [
    ...machineCommands,
    ...migrationCommands,
    ...objectCommands,
    ...snapshotCommands,
    command('query-commands', {}, () =>
      [...['qmp_capabilities', ...qmpCommands.keys()]].sort().map((name) => ({ name })),
    ),
  ].map((c) => [c.name, c]),
)
