import type { MonitorContext } from '../context.ts'
import { MonitorCommandError } from '../errors.ts'
import { listPath, objectsOf, propertyAt } from '../object-tree.ts'
import { cont, forkOf, migrateIncoming, pmemsave, snapshotsOf, stop } from '../run-control.ts'
import { setTraceEvents } from '../trace-control.ts'
import { type HmpCommand, onOff, parseNumber, splitWords, wanted } from './hmp-command.ts'
import { infoCommands } from './info-commands.ts'
import { dumpMemory } from './memory-dump.ts'

const find = (table: readonly HmpCommand[], name: string) =>
  table.find((c) => c.name === name || c.aliases?.includes(name))

const hmpCommands: readonly HmpCommand[] = [
  { name: 'help', aliases: ['?'], args: '[command]', help: 'this list', run: (_, [name]) => help(name) },
  {
    name: 'info',
    args: '[subject]',
    help: 'show something; alone: what there is to show',
    run(context, [subject, ...words], rest) {
      if (subject === undefined) return helpLines(infoCommands, 'info ')
      const found = find(infoCommands, subject)
      if (!found) throw new MonitorCommandError(`there is no "info ${subject}"; try "info"`)
      return found.run(context, words, rest.slice(subject.length).trimStart())
    },
  },
  {
    name: 'stop',
    aliases: ['s'],
    args: '',
    help: 'stop the guest',
    run: (context) => stop(context).then(() => undefined),
  },
  { name: 'cont', aliases: ['c'], args: '', help: 'let the guest go on', run: (context) => void cont(context) },
  {
    name: 'quit',
    aliases: ['q'],
    args: '',
    help: 'end the emulator',
    run: ({ machine }) => void machine.shutdown('host-qmp-quit'),
  },
  {
    name: 'system_reset',
    args: '',
    help: 'reset the machine',
    run: ({ machine }) => machine.reset().then(() => undefined),
  },
  {
    name: 'system_powerdown',
    args: '',
    help: 'press the power button',
    run: ({ machine }) => void machine.powerdown(),
  },
  {
    name: 'migrate',
    args: '[-d] [-b] [-i] [-r] uri',
    help: 'move the guest to another emulator (-d: do not wait for the end; -b: its disks too, -i: without what is in the images below (profile of 7.2); -r: go on with a paused postcopy)',
    async run({ migration }, words) {
      const flags = words.filter((w) => w.startsWith('-'))
      const known = ['-d', '-r', ...(migration.blockMigration ? ['-b', '-i'] : [])]
      const unknown = flags.find((f) => !known.includes(f))
      if (unknown) throw new MonitorCommandError(`migrate: unsupported option ${unknown}`)
      const { done } = migration.start(
        wanted(
          words.filter((w) => !w.startsWith('-')),
          0,
          'uri',
        ),
        { resume: flags.includes('-r'), block: flags.includes('-b'), incremental: flags.includes('-i') },
      )
      if (!flags.includes('-d')) await done
      return undefined
    },
  },
  {
    name: 'trace-event',
    args: 'pattern on|off',
    help: 'switch trace events on or off',
    run: (_, words) => void setTraceEvents(wanted(words, 0, 'pattern'), onOff('trace-event', words[1])),
  },
  {
    name: 'migrate_cancel',
    args: '',
    help: 'give the migration up; the guest stays',
    run: ({ migration }) => void migration.cancel(),
  },
  {
    name: 'migrate_start_postcopy',
    args: '',
    help: 'let the guest go first and its memory follow (capability postcopy-ram)',
    run: ({ migration }) => void migration.startPostcopy(),
  },
  {
    name: 'migrate_pause',
    args: '',
    help: 'break the channel of a postcopy migration; both sides wait',
    run: ({ migration }) => void migration.pause(),
  },
  {
    name: 'migrate_recover',
    args: 'uri',
    help: 'wait for the source of a paused postcopy migration to come again',
    run: ({ migration }, words) => migration.recover(wanted(words, 0, 'uri')).then(() => undefined),
  },
  {
    name: 'save_postcopy_journal',
    args: '',
    help: 'the source has died: stop the guest and write what is here to the page journal, for emu reconcile',
    run: ({ migration }) => migration.saveJournal().then(() => undefined),
  },
  {
    name: 'migrate_continue',
    args: 'state',
    help: 'go on from pre-switchover',
    run({ migration }, [state]) {
      if (state !== 'pre-switchover' || migration.status !== state) {
        throw new MonitorCommandError(`the migration is in state ${migration.status}`)
      }
      migration.continueSwitchover()
      return undefined
    },
  },
  {
    name: 'migrate_incoming',
    args: '[-l] uri',
    help: 'wait for a guest (after -incoming defer; -l: run out of a mapped-ram file before its memory is read)',
    async run(context, words) {
      const lazy = words[0] === '-l'
      await migrateIncoming(context, wanted(words, lazy ? 1 : 0, 'uri'), { lazy })
      return undefined
    },
  },
  {
    name: 'x_fork',
    args: '',
    help: 'let a copy-on-write twin of the machine be run by another process',
    async run(context) {
      const reply = await forkOf(context)()
      return `emu run ${reply.arguments.join(' ')} -incoming ${reply.uri} -lazy\r\n`
    },
  },
  {
    name: 'migrate_set_capability',
    args: 'capability on|off',
    help: 'switch a capability of the migration',
    run({ migration }, words) {
      const capability = wanted(words, 0, 'capability')
      migration.setCapabilities([{ capability, state: onOff(capability, words[1]) }])
      return undefined
    },
  },
  {
    name: 'migrate_set_parameter',
    args: 'parameter value',
    help: 'set a parameter of the migration (max-bandwidth in MiB/s unless it has a suffix)',
    run: ({ migration }, words) =>
      void migration.setParameterText(wanted(words, 0, 'parameter').replaceAll('_', '-'), wanted(words, 1, 'value')),
  },
  {
    name: 'announce_self',
    args: '[interfaces] [id]',
    help: 'let network cards say again where the guest is, by the announce parameters (interfaces: ids with commas; default: all)',
    run: ({ migration }, [interfaces, id]) => void migration.announceSelf({ interfaces: interfaces?.split(','), id }),
  },
  {
    name: 'savevm',
    args: '[tag]',
    help: 'save the machine in its disk images; one of that name is replaced',
    run: (context, [tag]) =>
      snapshotsOf(context)
        .save(tag, { replace: true })
        .then(() => undefined),
  },
  {
    name: 'loadvm',
    args: 'tag',
    help: 'go back to what was saved',
    run: (context, words) =>
      snapshotsOf(context)
        .load(wanted(words, 0, 'tag'))
        .then(() => undefined),
  },
  {
    name: 'delvm',
    args: 'tag',
    help: 'delete what was saved',
    run: (context, words) =>
      snapshotsOf(context)
        .delete(wanted(words, 0, 'tag'))
        .then(() => undefined),
  },
  {
    name: 'object_add',
    args: 'type,id=ID[,property=value...]',
    help: 'make an object that others refer to by its id',
    async run(context, _, rest) {
      await objectsOf(context).addText(rest.trim())
      return undefined
    },
  },
  {
    name: 'object_del',
    args: 'id',
    help: 'remove an object',
    run: (context, words) => void objectsOf(context).remove(wanted(words, 0, 'id')),
  },
  {
    name: 'qom-list',
    args: 'path',
    help: 'list what is below / , /objects, /objects/ID, /machine/peripheral',
    run: (context, words) =>
      listPath(context, wanted(words, 0, 'path'))
        .map(({ name, type }) => `${name} (${type})\n`)
        .join(''),
  },
  {
    name: 'qom-get',
    args: 'path property',
    help: 'show a property of an object, as JSON',
    run: (context, words) =>
      `${JSON.stringify(propertyAt(context, wanted(words, 0, 'path'), wanted(words, 1, 'property')))}\n`,
  },
  {
    name: 'xp',
    args: '/fmt addr',
    help: 'show physical memory, e.g. xp /4xw 0x80000000',
    run: ({ machine }, words) => dumpMemory(machine, words),
  },
  {
    name: 'x',
    args: '/fmt addr',
    help: 'show memory as hart 0 addresses it; without address translation only',
    async run({ machine }, words) {
      if (machine.runState === 'running') throw new MonitorCommandError('stop the guest first')
      if (machine.cpu.readRegister(0, 'satp') >> 60n !== 0n) {
        throw new MonitorCommandError('hart 0 translates addresses; use xp with a physical address')
      }
      return dumpMemory(machine, words)
    },
  },
  {
    name: 'pmemsave',
    args: 'addr size file',
    help: 'save physical memory into a file',
    async run(context, words) {
      const address = parseNumber(wanted(words, 0, 'addr'), 'addr')
      const size = parseNumber(wanted(words, 1, 'size'), 'size')
      await pmemsave(context, address, size, wanted(words, 2, 'file'))
      return undefined
    },
  },
]

function helpLines(table: readonly HmpCommand[], prefix = ''): string {
  return table
    .map(
      ({ name, aliases, args, help: text }) =>
        `${prefix}${[name, ...(aliases ?? [])].join('|')}${args && ` ${args}`} -- ${text}\n`,
    )
    .join('')
}

function help(name: string | undefined): string {
  if (name === undefined) return helpLines(hmpCommands)
  if (name === 'info') return helpLines(infoCommands, 'info ')
  const found = find(hmpCommands, name)
  return found ? helpLines([found]) : ''
}

/** Runs one line. Never rejects: what went wrong is printed, as at a terminal. */
export async function executeHmp(context: MonitorContext, line: string): Promise<string> {
  try {
    const [name, ...words] = splitWords(line)
    if (name === undefined) return ''
    const command = find(hmpCommands, name)
    if (!command) return `unknown command: '${name}'\n`
    return (await command.run(context, words, line.trim().slice(name.length).trimStart())) ?? ''
  } catch (error) {
    return `Error: ${error instanceof Error ? error.message : String(error)}\n`
  }
}
