import { silentLogger } from '@ferryvm/core'
import { createMigration } from '@ferryvm/migration'
import { nullBackends } from './backends.ts'
import { buildMachine } from './machine-options.ts'
import type { RunOptions } from './run-options.ts'
import { printLines } from './stream/print.ts'

/** `emu info sections`: what a machine with these options would save, in stream order. */
export async function printSections(options: RunOptions): Promise<void> {
  const { machine } = await buildMachine(options, nullBackends(options), silentLogger)
  await using _machine = machine
  await using _migration = createMigration({ machine, transports: [] })
  const rows = machine.sections
    .entries()
    .map(({ idstr, instanceId, priority, version }, index) =>
      [
        String(index).padStart(5),
        String(priority).padStart(8),
        String(version).padStart(7),
        String(instanceId).padStart(8),
        idstr,
      ].join('  '),
    )
  await printLines(['order  priority  version  instance  section', ...rows])
}
