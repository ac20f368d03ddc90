import type { Command } from 'commander'
import { addColoCommands } from './colo/colo-commands.ts'
import { demo } from './demo.ts'
import { addForkCommand } from './fork/fork-command.ts'
import { addImgCommands } from './img/img-commands.ts'
import { printSections } from './info.ts'
import { parseSize } from './keyval.ts'
import { addMigrateCommand } from './migrate/migrate-command.ts'
import { addReconcile } from './reconcile.ts'
import { addRunCommand } from './run-command.ts'
import { runCommand } from './run-options.ts'
import { addVmstate } from './stream/vmstate.ts'
import { addTlsCommands } from './tls-commands.ts'

/** What needs the emulator. */
export function addEmulatorCommands(program: Command): void {
  addRunCommand(program)
  program
    .command('demo')
    .description('move a guest between two processes while it works, and let it say what it noticed')
    .option('--migrations <n>', 'how often it moves', '1')
    .option('--max-bandwidth <size>', 'bytes per second', '12M')
    .exitOverride()
    .action(async ({ migrations, maxBandwidth }) => {
      process.exitCode = await demo({ migrations: Number(migrations), maxBandwidth: parseSize(maxBandwidth) })
    })
  const info = program.command('info').description('facts about a machine that is not running').exitOverride()
  info.addCommand(
    runCommand(printSections)
      .name('sections')
      .description('sections in the order in which they are saved')
      .exitOverride(),
  )
  addForkCommand(program)
  addVmstate(program)
  addTlsCommands(program)
  addImgCommands(program)
  addMigrateCommand(program)
  addColoCommands(program)
  addReconcile(program)
}
