import { diffJson, diffStreams, diffText } from '@ferryvm/stream'
import type { Command } from 'commander'
import { UsageError } from '../usage-error.ts'
import { parseCount } from './numbers.ts'
import { openSource } from './open-source.ts'
import { printLines } from './print.ts'
import { progressLine } from './progress.ts'
import { deviceTables } from './tables.ts'

/** `emu diff A B`: exit status 0 same, 1 different, 2 trouble, as diff has it. */
export function addDiff(program: Command): void {
  program
    .command('diff')
    .description('what two streams would leave different in a receiver')
    .argument('<a>', 'a file, - or an address, as for inspect')
    .argument('<b>', 'the same')
    .addHelpText(
      'after',
      '\nExit status 0: nothing differs; 1: something does; 2: one of them is damaged, or no stream.',
    )
    .option('--json', 'for programs')
    .option('--most <n>', 'fields shown per section', parseCount, 40)
    .exitOverride()
    .action(async (nameA: string, nameB: string, { json, most }: { json?: true; most: number }) => {
      if (nameA === '-' && nameB === '-') throw new UsageError('diff - -: standard input can be read once')
      await using a = await openSource(nameA)
      await using b = await openSource(nameB)
      const { progress, done } = progressLine('comparing')
      const diff = await diffStreams(a.source, b.source, { tables: deviceTables, live: a.live || b.live, progress })
      done()
      await printLines(json ? [JSON.stringify(diffJson(diff))] : diffText(diff, most))
      const broken = [...diff.problems.a, ...diff.problems.b].some(({ fatal, damage }) => fatal || damage)
      if (broken) process.exitCode = 2
      else if (!diff.same) process.exitCode = 1
    })
}
