import { CONVERSIONS, upgradeStream } from '@ferryvm/stream'
import type { Command } from 'commander'
import { UsageError } from '../usage-error.ts'
import { openSource } from './open-source.ts'
import { refuseBoth, writeOutput } from './output.ts'
import { printLines } from './print.ts'
import { progressLine } from './progress.ts'
import { deviceTables } from './tables.ts'

interface UpgradeOptions {
  readonly to: string
  readonly output: string
  readonly nudge?: true
  readonly force?: true
  readonly json?: true
}

/** `emu upgrade FILE --to 10.0|7.2 -o OUT` */
export function addUpgrade(program: Command): void {
  program
    .command('upgrade')
    .description('convert a saved stream of `virt` to another release of QEMU')
    .argument('<stream>', 'a file or -')
    .requiredOption('--to <release>', '7.2 or 10.0')
    .requiredOption('-o, --output <file>', 'the converted stream; - for standard output')
    .option('--nudge', 'leave a timer interrupt pending in each hart: stock QEMU does not wake a sleeping guest')
    .option('--force', 'convert although the guest uses what the release does not have')
    .option('--json', 'for programs: what was converted, on standard output')
    .exitOverride()
    .action(upgrade)
}

async function upgrade(name: string, { to, output, nudge, force, json }: UpgradeOptions): Promise<void> {
  if (!(to in CONVERSIONS)) throw new UsageError(`--to ${to}: there are ${Object.keys(CONVERSIONS).join(', ')}`)
  refuseBoth(output, json)
  await using input = await openSource(name)
  const { progress, done } = progressLine(input.name)
  const result = await writeOutput(output, (sink) =>
    upgradeStream(input.source, sink, to as keyof typeof CONVERSIONS, {
      tables: deviceTables,
      live: input.live,
      progress,
      nudge: nudge ?? false,
      force: force ?? false,
    }),
  )
  done()
  if (json) {
    await printLines([JSON.stringify({ output, ...result })])
    return
  }
  for (const note of result.notes) console.error(`note: ${note}`)
  const changed =
    result.changed.length > 0 ? `converted ${result.changed.join(', ')}` : 'no section had to be converted'
  console.error(`${output}: ${result.bytes} bytes; ${changed}`)
}
