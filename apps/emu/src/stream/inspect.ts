import { inspectStream, reportJsonText, reportText } from '@ferryvm/stream'
import type { Command } from 'commander'
import { openSource } from './open-source.ts'
import { printLines } from './print.ts'
import { progressLine } from './progress.ts'
import { deviceTables } from './tables.ts'

interface InspectOptions {
  readonly json?: true
  readonly fields: boolean
  readonly bufferBytes: string
  readonly pageSize?: string
}

/** `emu inspect FILE|-|tcp:...|unix:...` */
export function addInspect(program: Command): void {
  program
    .command('inspect')
    .description('what is in a migration stream, of any machine')
    .argument(
      '<stream>',
      'a file, - for standard input, or an address: exec:command, file:path,offset=N; tcp:host:port and unix:path wait there',
    )
    .option('--json', 'for programs')
    .option('--no-fields', 'without the values of fields')
    .option('--buffer-bytes <n>', 'bytes of a buffer that are shown', '32')
    .option('--page-size <bytes>', 'of the guest, where the stream does not say it')
    .exitOverride()
    .action(inspect)
}

async function inspect(name: string, { json, fields, bufferBytes, pageSize }: InspectOptions): Promise<void> {
  await using input = await openSource(name)
  const { progress, done } = progressLine(input.name)
  const pageBytes = pageSize === undefined ? {} : { pageBytes: Number(pageSize) }
  const report = await inspectStream(input.source, { tables: deviceTables, progress, ...pageBytes })
  done()
  if (json) await printLines([reportJsonText(report)])
  else await printLines(reportText(report, { fields, bufferBytes: Number(bufferBytes) }))
  if (report.problems.some((p) => p.fatal || p.damage)) process.exitCode = 1
}
