import { silentLogger } from '@ferryvm/core'
import { createMigration } from '@ferryvm/migration'
import { checkDumps, checkText, dumpTables, formatDump } from '@ferryvm/stream'
import type { Command } from 'commander'
import { nullBackends } from '../backends.ts'
import { buildMachine } from '../machine-options.ts'
import { type RunOptions, runCommand } from '../run-options.ts'
import { printLines } from './print.ts'
import { readDump } from './read-dump.ts'
import { sectionTables } from './section-tables.ts'

/** `emu vmstate dump|check` */
export function addVmstate(program: Command): void {
  const vmstate = program.command('vmstate').description('tables of device state').exitOverride()
  vmstate.addCommand(
    runCommand(dump)
      .name('dump')
      .option('--json', 'for programs: on one line; otherwise the same JSON as QEMU lays it out')
      .description("tables of a machine with these options, in the form of QEMU's -dump-vmstate")
      .exitOverride(),
  )
  vmstate
    .command('check')
    .description('what changed between two dumps, and what it does to streams; exit status 1 when older streams break')
    .argument('<old>', 'what emu vmstate dump, or -dump-vmstate of a QEMU, wrote')
    .argument('<new>', 'the same of the later one')
    .option('--json', 'for programs')
    .exitOverride()
    .action(check)
}

async function dump(options: RunOptions, { json }: { json?: true }): Promise<void> {
  const { machine } = await buildMachine(options, nullBackends(options), silentLogger)
  await using _machine = machine
  await using _migration = createMigration({ machine, transports: [] })
  const text = formatDump(dumpTables('virt', sectionTables(machine)))
  await printLines([json ? JSON.stringify(JSON.parse(text)) : text.trimEnd()])
}

async function check(before: string, after: string, { json }: { json?: true }): Promise<void> {
  const changes = checkDumps(await readDump(before), await readDump(after))
  await printLines(json ? [JSON.stringify(changes)] : checkText(changes))
  if (changes.some((c) => c.effect === 'breaks')) process.exitCode = 1
}
