import {
  CAPABILITIES,
  type MigrationForecast,
  type MigrationStatus,
  PARAMETERS,
  type ParameterDefinition,
  type Range,
} from '@ferryvm/migration'
import { z } from 'zod'
import { MonitorCommandError } from '../errors.ts'
import { forkOf, migrateIncoming } from '../run-control.ts'
import { command, type QmpCommand } from './define-command.ts'

const channel = z.strictObject({
  'channel-type': z.enum(['main', 'cpr']),
  addr: z.looseObject({ transport: z.string() }),
})
const channels = z.array(channel).optional()

/** As far as the parameter of that name goes. */
const announce = (name: 'announce-initial' | 'announce-max' | 'announce-rounds' | 'announce-step') => {
  const { min, max } = PARAMETERS[name].kind
  return z.int().min(min).max(max)
}

const nodeMapping = z.strictObject({
  'node-name': z.string(),
  alias: z.string(),
  bitmaps: z.array(
    z.strictObject({
      name: z.string(),
      alias: z.string(),
      transform: z.strictObject({ persistent: z.boolean().optional() }).optional(),
    }),
  ),
})

/** Spec: protocol.md sections 2 to 4. */
export const migrationCommands: readonly QmpCommand[] = [
  command(
    'migrate',
    {
      uri: z.string().optional(),
      channels,
      detach: z.boolean().optional(),
      resume: z.boolean().optional(),
      blk: z.boolean().optional(),
      inc: z.boolean().optional(),
    },
    ({ migration }, args) => {
      // Gone with the releases whose streams have no place for disks.
      const gone = migration.blockMigration ? undefined : (['blk', 'inc'] as const).find((name) => name in args)
      if (gone) throw new MonitorCommandError(`Parameter '${gone}' is unexpected`)
      const { blk: block, inc: incremental, resume } = args
      migration.start(uriOf(args.uri, args.channels), { resume, block, incremental })
    },
  ),
  command(
    'announce-self',
    {
      initial: announce('announce-initial'),
      max: announce('announce-max'),
      rounds: announce('announce-rounds'),
      step: announce('announce-step'),
      interfaces: z.array(z.string()).optional(),
      id: z.string().optional(),
    },
    ({ migration }, { initial, max, rounds, step, ...selection }) =>
      migration.announceSelf(selection, { initialMs: initial, maxMs: max, rounds, stepMs: step }),
  ),
  command('migrate_cancel', {}, ({ migration }) => migration.cancel()),
  command(
    'migrate-incoming',
    {
      uri: z.string().optional(),
      channels,
      'exit-on-error': z.boolean().optional(),
      /** Beyond QEMU: the guest runs before its memory is read, out of a mapped-ram file. */
      'x-lazy': z.boolean().optional(),
    },
    (context, args) =>
      migrateIncoming(context, uriOf(args.uri, args.channels), {
        exitOnError: args['exit-on-error'],
        lazy: args['x-lazy'],
      }),
  ),
  command('migrate-continue', { state: z.string() }, ({ migration }, { state }) => {
    if (state !== migration.status)
      throw new MonitorCommandError(`the migration is in state ${migration.status}, not ${state}`)
    if (state !== ('pre-switchover' satisfies MigrationStatus)) {
      throw new MonitorCommandError(`there is nothing to continue in state ${state}`)
    }
    migration.continueSwitchover()
  }),
  command('migrate-start-postcopy', {}, ({ migration }) => migration.startPostcopy()),
  { ...command('migrate-pause', {}, ({ migration }) => migration.pause()), oob: true },
  {
    ...command(
      'migrate-recover',
      { uri: z.string() },
      async ({ migration }, { uri }) => void (await migration.recover(uri)),
    ),
    oob: true,
  },
  command('x-save-postcopy-journal', {}, ({ migration }) => migration.saveJournal()),
  {
    name: 'migrate-set-parameters',
    // Names and ranges are the migration's own table.
    args: z.record(z.string(), z.unknown()),
    describedArgs: z.strictObject({
      ...Object.fromEntries(
        Object.entries(PARAMETERS).map(([name, definition]) => [name, parameterType(definition).optional()]),
      ),
      'block-bitmap-mapping': z.array(nodeMapping).optional(),
    }),
    run: ({ migration }, args) => migration.setParameters(args),
  },
  command('query-migrate-parameters', {}, ({ migration }) => migration.parameters),
  {
    ...command(
      'migrate-set-capabilities',
      { capabilities: z.array(z.strictObject({ capability: z.string(), state: z.boolean() })) },
      ({ migration }, { capabilities }) => migration.setCapabilities(capabilities),
    ),
    describedArgs: z.strictObject({
      capabilities: z.array(z.strictObject({ capability: z.enum(CAPABILITIES), state: z.boolean() })),
    }),
  },
  command('query-migrate-capabilities', {}, ({ migration }) => migration.capabilities),
  command('query-migrate', {}, ({ migration }) => migration.info()),
  command('x-query-migrate-forecast', {}, ({ migration }) => forecastReply(migration.forecast())),
  command('query-colo-status', {}, ({ migration }) => {
    const { mode, lastMode, reason } = migration.colo?.status ?? { mode: 'none', lastMode: 'none', reason: 'none' }
    return { mode, 'last-mode': lastMode, reason }
  }),
  command('x-fork', {}, (context) => forkOf(context)()),
  command('x-colo-lost-heartbeat', {}, ({ migration }) => {
    if (!migration.colo) throw new MonitorCommandError('this machine is not in COLO')
    migration.colo.lostHeartbeat()
  }),
]

function parameterType({ kind }: ParameterDefinition): z.ZodType {
  switch (kind.type) {
    case 'bool':
      return z.boolean()
    case 'string':
      return z.string()
    case 'enum':
      return z.enum(kind.values)
    default:
      return z.int()
  }
}

function uriOf(uri: string | undefined, list: z.infer<typeof channels>): string {
  if ((uri === undefined) === (list === undefined))
    throw new MonitorCommandError('exactly one of "uri" and "channels" is needed')
  if (uri !== undefined) return uri
  if (list!.length !== 1 || list![0]!['channel-type'] !== 'main') {
    throw new MonitorCommandError('exactly one channel is supported, of type main')
  }
  const { transport, ...addr } = list![0]!.addr as { transport: string; [member: string]: unknown }
  const text = (member: string): string => {
    if (typeof addr[member] === 'string') return addr[member]
    throw new MonitorCommandError(`Parameter 'channels.[0].addr.${member}' is missing`)
  }
  const hostAndPort = (): string => {
    const host = text('host')
    return `${host.includes(':') ? `[${host}]` : host}:${text('port')}`
  }
  switch (transport) {
    case 'socket':
      if (addr.type === 'unix') return `unix:${text('path')}`
      if (addr.type === 'fd') return `fd:${text('str')}`
      if (addr.type === 'inet') return `tcp:${hostAndPort()}`
      throw new MonitorCommandError(`socket type "${String(addr.type)}" is not supported`)
    case 'rdma':
      return `rdma:${hostAndPort()}`
    case 'file':
      // The offset is spelled out: a name may contain what looks like one.
      return `file:${text('filename')},offset=${Number(addr.offset ?? 0)}`
    case 'exec': {
      const args = z.array(z.string()).min(1).safeParse(addr.args)
      if (!args.success) throw new MonitorCommandError("Parameter 'channels.[0].addr.args' is missing")
      const [program, option, script] = args.data
      if (args.data.length === 3 && program === '/bin/sh' && option === '-c') return `exec:${script}`
      return `exec:exec ${args.data.map((arg) => `'${arg.replaceAll("'", "'\\''")}'`).join(' ')}`
    }
    default:
      throw new MonitorCommandError(`transport "${transport}" is not available here`)
  }
}

/** Ours: QEMU has no such command. Times are ms; one that is missing never comes, or is not known yet (`verdict` says which). */
function forecastReply(forecast: MigrationForecast | undefined): Record<string, unknown> {
  if (!forecast) return {}
  return {
    verdict: forecast.verdict,
    sentence: forecast.sentence,
    'remaining-time': timesOf(forecast.remainingMs),
    downtime: timesOf(forecast.downtimeMs),
    'dirty-bytes-per-second': Math.round(forecast.dirtyBytesPerS),
    advice: forecast.advice,
  }
}

function timesOf(range: Range | undefined): Partial<Range> {
  const finite = Object.entries(range ?? {}).filter(([, ms]) => Number.isFinite(ms))
  return Object.fromEntries(finite.map(([name, ms]) => [name, Math.round(ms)]))
}
