import { inspectStream, reportJsonText, reportText } from '@ferryvm/stream'
import type { Command } from 'commander'
import { parseCount, parsePageSize } from './numbers.ts'
import { openSource } from './open-source.ts'
import { printLines } from './print.ts'
import { progressLine } from './progress.ts'
import { deviceTables } from './tables.ts'

interface InspectOptions {
  readonly json?: true
  readonly fields: boolean
  readonly bufferBytes: number
  readonly pageSize?: number
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
    .option('--buffer-bytes <n>', 'bytes of a buffer that are shown', parseCount, 32)
    .option('--page-size <bytes>', 'of the guest, where the stream does not say it (4K)', parsePageSize)
    .addHelpText(
      'after',
      `
A live migration may be sent here, as in "emu inspect tcp:127.0.0.1:4444". QEMU then believes that its guest has moved ("cont" there
wakes it again), unless its capability return-path is on: it waits for an answer, gets none, and goes on, as an emu does.
Exit status 1: the stream is damaged, or none.`,
    )
    .exitOverride()
    .action(inspect)
}

async function inspect(name: string, { json, fields, bufferBytes, pageSize }: InspectOptions): Promise<void> {
  await using input = await openSource(name)
  const { progress, done } = progressLine(input.name)
  const pageBytes = pageSize === undefined ? {} : { pageBytes: pageSize }
  const report = await inspectStream(input.source, { tables: deviceTables, live: input.live, progress, ...pageBytes })
  done()
  if (json) await printLines([reportJsonText(report)])
  else await printLines(reportText(report, { fields, bufferBytes }))
  if (report.problems.some((p) => p.fatal || p.damage)) process.exitCode = 1
}
