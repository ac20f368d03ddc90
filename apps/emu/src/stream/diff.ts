import { diffJson, diffStreams, diffText } from '@ferryvm/stream'
import type { Command } from 'commander'
import { openSource } from './open-source.ts'
import { printLines } from './print.ts'
import { progressLine } from './progress.ts'
import { deviceTables } from './tables.ts'

/** `emu diff A B`: exit status 0 same, 1 different, as diff has it. */
export function addDiff(program: Command): void {
  program
    .command('diff')
    .description('what two streams would leave different in a receiver')
    .argument('<a>', 'a file, - or an address, as for inspect')
    .argument('<b>')
    .option('--json', 'for programs')
    .option('--most <n>', 'fields shown per section', '40')
    .exitOverride()
    .action(async (nameA: string, nameB: string, { json, most }: { json?: true; most: string }) => {
      await using a = await openSource(nameA)
      await using b = await openSource(nameB)
      const { progress, done } = progressLine('comparing')
      const diff = await diffStreams(a.source, b.source, { tables: deviceTables, progress })
      done()
      await printLines(json ? [JSON.stringify(diffJson(diff))] : diffText(diff, Number(most)))
      if (!diff.same) process.exitCode = 1
    })
}
