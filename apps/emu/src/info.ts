import { silentLogger } from '@ferryvm/core'
import { createMigration } from '@ferryvm/migration'
import { nullChardev } from './chardev.ts'
import { buildMachine } from './machine-options.ts'
import type { RunOptions } from './run-options.ts'

/** `emu info sections`: what a machine with these options would save, in stream order. */
export async function printSections(options: RunOptions): Promise<void> {
  const { machine } = await buildMachine(options, nullChardev(), silentLogger)
  await using _machine = machine
  await using _migration = createMigration({ machine, transports: [] })
  console.log('order  priority  version  instance  section')
  machine.sections.entries().forEach(({ idstr, instanceId, priority, version }, index) => {
    const cells = [
      String(index).padStart(5),
      String(priority).padStart(8),
      String(version).padStart(7),
      String(instanceId).padStart(8),
    ]
    console.log(`${cells.join('  ')}  ${idstr}`)
  })
}
