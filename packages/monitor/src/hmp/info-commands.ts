import { snapshotList } from '@ferryvm/block'
import type { MonitorContext } from '../context.ts'
import { namedTraceEvents } from '../trace-control.ts'
import type { HmpCommand } from './hmp-command.ts'
import { infoMigrate, infoMigrateCapabilities, infoMigrateParameters, infoSavevmHandlers } from './migration-info.ts'

const info = (name: string, help: string, run: HmpCommand['run'], aliases?: string[]): HmpCommand => ({
  name,
  aliases,
  args: '',
  help,
  run,
})
const hex16 = (n: number) => n.toString(16).padStart(16, '0')

/** What `info` can show. */
export const infoCommands: readonly HmpCommand[] = [
  info('status', 'is the guest running?', ({ machine: { runState } }) => {
    if (runState === 'running') return 'VM status: running\n'
    return runState === 'paused' ? 'VM status: paused\n' : `VM status: paused (${runState})\n`
  }),
  info(
    'version',
    'version of the protocol and of this program',
    ({ version: v }) => `${v.major}.${v.minor}.${v.micro}${v.package}\n`,
  ),
  info('name', 'name of the machine', ({ name }) => (name === undefined ? '' : `${name}\n`)),
  info('uuid', 'UUID of the machine', ({ uuid }) => `${uuid ?? '00000000-0000-0000-0000-000000000000'}\n`),
  info('cpus', 'the harts', ({ machine }) =>
    machine.cpu.harts
      .map(({ index }) => `${index === 0 ? '*' : ' '} CPU #${index}: thread_id=${process.pid}\n`)
      .join(''),
  ),
  info('registers', 'registers of hart 0, or of all (-a)', infoRegisters),
  info('jit', 'what was compiled of the guest, and why that was left', ({ machine }) =>
    machine.cpu.describeCompiler ? `${machine.cpu.describeCompiler()}\n` : 'nothing is compiled\n',
  ),
  info('migrate', 'the running or last migration', infoMigrate),
  info('migrate_forecast', 'how the running migration will go on', ({ migration }) => {
    const forecast = migration.forecast()
    return forecast ? `${forecast.sentence}\n` : 'no precopy migration runs\n'
  }),
  info('migrate_parameters', 'parameters of the migration', infoMigrateParameters),
  info('migrate_capabilities', 'capabilities of the migration', infoMigrateCapabilities),
  info('savevm-handlers', 'device state in the order in which it is sent', infoSavevmHandlers, ['sections']),
  info('trace-events', 'trace events and whether they are on', (_, [pattern = '*']) =>
    namedTraceEvents(pattern)
      .map(({ event, enabled }) => `${event} : state ${Number(enabled)}\n`)
      .join(''),
  ),
  info('mtree', 'the physical address map', ({ machine }) => {
    const lines = machine.physical
      .describe()
      .map(({ base, end, name, kind }) => `  ${hex16(base)}-${hex16(end - 1)} (${kind}): ${name}`)
    return `address-space: memory\n${lines.join('\n')}\n`
  }),
  info('ramblock', 'blocks of guest memory that migrate', ({ machine }) =>
    machine
      .migratableBlocks()
      .map(({ idstr, sizeBytes, pageBytes }) => `${idstr.padEnd(32)} ${hex16(sizeBytes)} page ${pageBytes}\n`)
      .join(''),
  ),
  info('block', 'drives', ({ blocks }) =>
    blocks()
      .map(({ device, file, readOnly, format = 'raw' }) =>
        file === undefined
          ? `${device}: [not inserted]\n`
          : `${device}: ${file} (${format}${readOnly ? ', read-only' : ''})\n`,
      )
      .join(''),
  ),
  info('snapshots', 'snapshots of the machine on its disks', infoSnapshots),
  info('chardev', 'character devices', ({ chardevs }) =>
    chardevs()
      .map((c) => `${c.label}: filename=${c.filename}\n`)
      .join(''),
  ),
  info('qtree', 'devices', ({ machine }) =>
    machine.devices
      .map(({ id, type, path, device }) => {
        const state = device.describe?.().replace(/^/gm, '    ').trimEnd()
        return `dev: ${type}, id "${id}"${path ? `, at ${path}` : ''}\n${state ? `${state}\n` : ''}`
      })
      .join(''),
  ),
]

function infoSnapshots({ snapshots }: MonitorContext): string {
  const { complete, partial } = snapshots?.list() ?? { complete: [], partial: [] }
  if (complete.length === 0 && partial.length === 0) return 'There is no snapshot available.\n'
  const lines = ['List of snapshots present on all disks:']
  // The id can be another one on each disk.
  if (complete.length === 0) lines.push('None')
  else lines.push(...snapshotList(complete.map((s) => ({ ...s, id: '--' }))))
  for (const { device, snapshots: some } of partial) {
    lines.push('', `List of partial (non-loadable) snapshots on '${device}':`, ...snapshotList(some))
  }
  return `${lines.join('\n')}\n`
}

async function infoRegisters({ machine }: MonitorContext, words: readonly string[]): Promise<string> {
  const { cpu } = machine
  const all = words.includes('-a')
  // Registers can only be read while a hart stands between two instructions.
  const running = machine.runState === 'running'
  if (running) await cpu.pause()
  try {
    const indexes = all ? cpu.harts.map((h) => h.index) : [0]
    return indexes.map((index) => `\nCPU#${index}\n${cpu.describe(index).trimEnd()}\n`).join('')
  } finally {
    if (running && machine.runState === 'running') cpu.start()
  }
}
