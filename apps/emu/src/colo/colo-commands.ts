import { spawn } from 'node:child_process'
import { mkdirSync, openSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Command } from 'commander'
import { QmpClient } from '../qmp-client.ts'
import { UsageError } from '../usage-error.ts'
import { writePair } from './pair-file.ts'
import { lives, living, readState, type Side, writeState } from './state-file.ts'

const DEFAULT_DIR = '.emu-colo'
const START_MS = 60_000
const END_MS = 20_000

/** `emu colo up`, `status`, `down`: a guest on two processes of this host, kept alive by the one when the other is lost. */
export function addColoCommands(program: Command): void {
  const group = program.command('colo').description('a guest that survives the loss of its machine').exitOverride()
  group
    .command('up')
    .description('start the pair, or a new secondary beside the machine that is left; options of emu run after --')
    .argument('[run-options...]', 'what the guest needs, as for emu run; {name} stands for the name of a machine')
    .option('--dir <dir>', 'where sockets, logs and the lock file are', DEFAULT_DIR)
    .option('--checkpoint-delay <ms>', 'between two checkpoints', '100')
    .option('--heartbeat-timeout <ms>', 'without a sign of life the other side counts as lost', '1000')
    .passThroughOptions()
    .exitOverride()
    .action((args: string[], options: { dir: string; checkpointDelay: string; heartbeatTimeout: string }) =>
      up(resolve(options.dir), args, {
        delayMs: milliseconds('--checkpoint-delay', options.checkpointDelay, 0),
        timeoutMs: milliseconds('--heartbeat-timeout', options.heartbeatTimeout, 50),
      }),
    )
  group
    .command('status')
    .description('who is there, and in which role')
    .option('--dir <dir>', 'as for up', DEFAULT_DIR)
    .allowExcessArguments(false)
    .exitOverride()
    .action((options: { dir: string }) => status(resolve(options.dir)))
  group
    .command('down')
    .description('end the guest and both processes')
    .option('--dir <dir>', 'as for up', DEFAULT_DIR)
    .allowExcessArguments(false)
    .exitOverride()
    .action((options: { dir: string }) => down(resolve(options.dir)))
}

function milliseconds(option: string, text: string, least: number): number {
  const value = Number(text)
  if (Number.isInteger(value) && value >= least && value <= 600_000) return value
  throw new UsageError(`${option} ${text}: milliseconds, ${least} to 600000`)
}

async function up(
  dir: string,
  given: readonly string[],
  { delayMs, timeoutMs }: { delayMs: number; timeoutMs: number },
): Promise<void> {
  mkdirSync(dir, { recursive: true })
  const before = readState(dir)
  const left = await living(before?.sides ?? [])
  if (left.length > 1) throw new UsageError(`${dir}: the pair is complete (${left.map((s) => s.name).join(', ')})`)
  if (left.length === 1 && given.length > 0) {
    throw new UsageError(`${dir}: ${left[0]!.name} runs already; a new secondary gets the options that it got`)
  }
  const { args, cwd } = left.length === 1 ? before! : { args: [...given], cwd: process.cwd() }
  let count = before?.count ?? 0
  writePair(dir, timeoutMs)
  const first = left[0] ?? (await startSide(dir, cwd, args, ++count))
  const second = await startSide(dir, cwd, args, ++count, ['-incoming', 'defer'])
  writeState(dir, { args, cwd, count, sides: [first, second] })

  const [here, there] = [await QmpClient.connect(first.qmp), await QmpClient.connect(second.qmp)]
  try {
    const on = { capabilities: [{ capability: 'x-colo', state: true }] }
    await there.execute('migrate-set-capabilities', on)
    await there.execute('migrate-incoming', { uri: `unix:${join(dir, `${second.name}.sock`)}` })
    await here.execute('migrate-set-capabilities', on)
    await here.execute('migrate-set-parameters', { 'x-checkpoint-delay': delayMs, 'max-bandwidth': 2 ** 40 })
    await here.execute('migrate', { uri: `unix:${join(dir, `${second.name}.sock`)}` })
    for (const end = performance.now() + START_MS; ; await delay(20)) {
      const { status, 'error-desc': why } = await here.execute('query-migrate')
      if (status === 'colo') break
      if (status === 'failed' || status === 'completed') {
        throw new UsageError(`the pair did not form: ${why ?? 'the secondary was lost at once'}\n${tail(second.log)}`)
      }
      if (performance.now() > end) throw new UsageError('the pair did not form in time')
    }
  } finally {
    here.close()
    there.close()
  }
  console.log(`primary    ${first.name}, process ${first.pid}, console ${first.serial}`)
  console.log(`secondary  ${second.name}, process ${second.pid}, console ${second.serial}`)
  console.log(`a checkpoint every ${delayMs} ms; whichever is lost, the other goes on`)
}

async function startSide(
  dir: string,
  cwd: string,
  args: readonly string[],
  number: number,
  more: readonly string[] = [],
): Promise<Side> {
  const name = `m${number}`
  const fileOf = (kind: string) => join(dir, `${name}.${kind}`)
  const [qmp, log] = [fileOf('qmp'), fileOf('log')]
  const own = args.map((arg) => arg.replaceAll('{name}', name))
  const given = own.findLastIndex((arg) => /^--?serial$/.test(arg))
  const serial = given < 0 ? `file:${fileOf('console')}` : own[given + 1]!
  const options = [
    ...['run', ...own, ...more],
    ...['-serial', serial, '-qmp', `unix:${qmp},server=on,wait=off`, '-colo', `dir=${dir.replaceAll(',', ',,')}`],
  ]
  const out = openSync(log, 'w')
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, ...options], {
    cwd,
    detached: true,
    stdio: ['ignore', out, out],
  })
  const ended = new Promise<never>((_, reject) =>
    child.once('exit', (code) => reject(new UsageError(`${name} ended with status ${code}: ${tail(log)}`))),
  )
  ended.catch(() => {})
  child.unref()
  const client = await Promise.race([QmpClient.connect(qmp), ended])
  client.close()
  return { name, pid: child.pid!, qmp, serial, log }
}

const tail = (log: string): string => readFileSync(log, 'utf8').trimEnd().split('\n').slice(-5).join('\n')

async function status(dir: string): Promise<void> {
  const state = readState(dir)
  if (!state) throw new UsageError(`${dir}: nothing was started there (emu colo up)`)
  for (const side of state.sides) {
    if (!(await lives(side))) {
      console.log(`${side.name}  gone`)
      continue
    }
    const client = await QmpClient.connect(side.qmp)
    const colo = await client.execute('query-colo-status')
    const vm = await client.execute('query-status')
    client.close()
    const role =
      colo.mode === 'none' ? (colo['last-mode'] === 'none' ? 'alone' : `alone, was ${colo['last-mode']}`) : colo.mode
    console.log(`${side.name}  ${role}  guest ${vm.status}  process ${side.pid}  console ${side.serial}`)
  }
}

async function down(dir: string): Promise<void> {
  const state = readState(dir)
  if (!state) throw new UsageError(`${dir}: nothing was started there (emu colo up)`)
  // The primary first: it takes the fence with it, so that the secondary does not bring the guest back.
  const roles = new Map<Side, string>()
  for (const side of await living(state.sides)) {
    const client = await QmpClient.connect(side.qmp)
    roles.set(side, (await client.execute('query-colo-status')).mode)
    client.close()
  }
  const order = [...roles]
    .sort(([, a], [, b]) => Number(b === 'primary') - Number(a === 'primary'))
    .map(([side]) => side)
  for (const side of order) {
    if (!(await lives(side))) continue
    const client = await QmpClient.connect(side.qmp).catch(() => undefined)
    await client?.execute('quit').catch(() => {})
    client?.close()
    for (const end = performance.now() + END_MS; await lives(side); await delay(20)) {
      if (performance.now() > end) throw new UsageError(`${side.name} (process ${side.pid}) does not end`)
    }
    console.log(`${side.name}  ended`)
  }
  writeState(dir, { ...state, sides: [] })
}
