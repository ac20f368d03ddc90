import { FerryError } from '@ferryvm/core'
import { Command, CommanderError } from 'commander'
import { addColoCommands } from './colo/colo-commands.ts'
import { demo } from './demo.ts'
import { printSections } from './info.ts'
import { parseSize } from './keyval.ts'
import { normaliseDashes } from './qemu-arguments.ts'
import { run } from './run.ts'
import { runCommand } from './run-options.ts'
import { addStreamCommands } from './stream/commands.ts'
import { addTlsCommands } from './tls-commands.ts'

const program = new Command('emu')
  .description('A RISC-V emulator whose guests move, to and from stock QEMU too.')
  .enablePositionalOptions()
  .exitOverride()
program.addCommand(runCommand(run).exitOverride())
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
addStreamCommands(program)
addTlsCommands(program)
addColoCommands(program)

try {
  await program.parseAsync(normaliseDashes(process.argv.slice(2)), { from: 'user' })
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode
  else {
    const detail = process.env.FERRY_DEBUG ? (error as Error).stack : (error as Error).message
    console.error(`emu: ${detail}${FerryError.isInstance(error) ? ` [${error.code}]` : ''}`)
    process.exitCode = 1
  }
}
