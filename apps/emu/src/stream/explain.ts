import { explainByDump, explainStream, explainText, inspectStream, RECEIVERS } from '@ferryvm/stream'
import type { Command } from 'commander'
import { openSource } from './open-source.ts'
import { printLines } from './print.ts'
import { progressLine } from './progress.ts'
import { readDump } from './read-dump.ts'
import { deviceTables } from './tables.ts'

/** `emu explain FILE --for 7.2|10.0|VMSTATE.json`: exit status 1 when the receiver would reject the stream. */
export function addExplain(program: Command): void {
  program
    .command('explain')
    .description('what a receiver would reject in a stream, why, and what helps')
    .argument('<stream>', 'a file, - or an address, as for inspect')
    .requiredOption('--for <receiver>', `${Object.keys(RECEIVERS).join(', ')}, or what -dump-vmstate of a QEMU wrote`)
    .option('--json', 'for programs')
    .exitOverride()
    .action(explain)
}

async function explain(name: string, options: { for: string; json?: true }): Promise<void> {
  const receiver = RECEIVERS[options.for]
  const known = `neither a known receiver (${Object.keys(RECEIVERS).join(', ')}) nor a file`
  const dump = receiver ? undefined : await readDump(options.for, known)
  await using input = await openSource(name)
  const { progress, done } = progressLine(input.name)
  const report = await inspectStream(input.source, { tables: deviceTables, live: input.live, progress })
  done()
  const findings = receiver ? explainStream(report, receiver) : explainByDump(report, dump!, options.for)
  const lines = options.json ? [JSON.stringify(findings)] : explainText(findings, receiver?.name ?? options.for)
  await printLines(lines)
  if (findings.some((f) => f.kind === 'rejected')) process.exitCode = 1
}
