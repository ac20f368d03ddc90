import { FerryError } from '@ferryvm/core'
import { Command, CommanderError } from 'commander'
import { normaliseDashes } from './qemu-arguments.ts'

const program = new Command('emu')
  .description('A RISC-V emulator whose guests move, to and from stock QEMU too.')
  .enablePositionalOptions()
  .showHelpAfterError('--help says more.')
  .exitOverride()
const argv = normaliseDashes(process.argv.slice(2))

try {
  // A guest that is to go on waits for nothing that it does not need, and a stream is read in less time than the emulator takes to load.
  if (argv[0] === 'run') {
    const { addRunCommand } = await import('./run-command.ts')
    addRunCommand(program)
  } else {
    const { addStreamCommands, STREAM_COMMANDS } = await import('./stream/commands.ts')
    if (!STREAM_COMMANDS.includes(argv[0] ?? '')) {
      const { addEmulatorCommands } = await import('./emulator-commands.ts')
      addEmulatorCommands(program)
    }
    addStreamCommands(program)
  }
  await program.parseAsync(argv, { from: 'user' })
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode
  else {
    const detail = process.env.FERRY_DEBUG ? (error as Error).stack : (error as Error).message
    console.error(`emu: ${detail}${FerryError.isInstance(error) ? ` [${error.code}]` : ''}`)
    process.exitCode = 1
  }
}
