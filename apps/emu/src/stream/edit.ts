import { editStream, parseAssignment } from '@ferryvm/stream'
import type { Command } from 'commander'
import { openSource } from './open-source.ts'
import { refuseBoth, writeOutput } from './output.ts'
import { printLines } from './print.ts'
import { progressLine } from './progress.ts'
import { deviceTables } from './tables.ts'

/** `emu edit FILE --set serial/0:ier=1 -o OUT` */
export function addEdit(program: Command): void {
  program
    .command('edit')
    .description('write a stream with other values in some fields')
    .argument('<stream>', 'a file or -')
    .requiredOption(
      '--set <section/instance:field=value>',
      'as in serial/0:ier=1; may be given again',
      (value: string, before: string[] = []) => [...before, value],
    )
    .requiredOption('-o, --output <file>', 'the stream with the changes; - for standard output')
    .option('--json', 'for programs: what was changed, on standard output')
    .exitOverride()
    .action(async (name: string, { set, output, json }: { set: string[]; output: string; json?: true }) => {
      const assignments = set.map(parseAssignment)
      refuseBoth(output, json)
      await using input = await openSource(name)
      const { progress, done } = progressLine(input.name)
      const { changed } = await writeOutput(output, (sink) =>
        editStream(input.source, sink, assignments, { tables: deviceTables, live: input.live, progress }),
      )
      done()
      if (json) await printLines([JSON.stringify({ output, changed })])
      else console.error(`${output}: changed ${changed.join(', ')}`)
    })
}
