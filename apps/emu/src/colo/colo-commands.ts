import { spawn } from 'node:child_process'
import { mkdirSync, openSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Command } from 'commander'
import { QmpClient } from '../qmp-client.ts'
import { UsageError } from '../usage-error.ts'
import { writePair } from './pair-file.ts'
import { lives, readState, type Side, writeState } from './state-file.ts'

const DEFAULT_DIR = '.emu-colo'
const START_MS = 60_000
const END_MS = 20_000

/** `emu colo up`, `status`, `down`: a guest on two processes of this host, kept alive by the one when the other is lost. */
export function addColoCommands(program: Command): void {
  const group = program.command('colo').description('a guest that survives the loss of its machine').exitOverride()
  group
    .command('up')
    .description('start the pair, or a new secondary beside the machine that is left; options of emu run after --')
    .argument('[run-options...]', 'what the guest needs, as for emu run')
    .option('--dir <dir>', 'where sockets, logs and the lock file are', DEFAULT_DIR)
    .option('--checkpoint-delay <ms>', 'between two checkpoints', '100')
    .passThroughOptions()
    .exitOverride()
    .action((args: string[], options: { dir: string; checkpointDelay: string }) =>
      up(resolve(options.dir), args, options.checkpointDelay),
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

async function up(dir: string, given: readonly string[], delayText: string): Promise<void> {
  const delayMs = Number(delayText)
  if (!Number.isInteger(delayMs) || delayMs < 0) throw new UsageError(`--checkpoint-delay ${delayText}: milliseconds`)
  mkdirSync(dir, { recursive: true })
  const before = readState(dir)
  const left = before?.sides.filter(lives) ?? []
  if (left.length > 1) throw new UsageError(`${dir}: the pair is complete (${left.map((s) => s.name).join(', ')})`)
  if (left.length === 1 && given.length > 0) {
    throw new UsageError(`${dir}: ${left[0]!.name} runs already; a new secondary gets the options that it got`)
  }
  const { args, cwd } = left.length === 1 ? before! : { args: [...given], cwd: process.cwd() }
  writePair(dir)
  const first = left[0] ?? (await startSide(dir, cwd, args, [], []))
  const second = await startSide(dir, cwd, args, [first], ['-incoming', 'defer'])
  writeState(dir, { args, cwd, sides: [first, second] })

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
      if (status === 'failed') throw new UsageError(`the pair did not form: ${why}\n${tail(second.log)}`)
      if (performance.now() > end) throw new UsageError('the pair did not form in time')
    }
  } finally {
    here.close()
    there.close()
  }
  console.log(`primary    ${first.name}, process ${first.pid}, console ${first.console}`)
  console.log(`secondary  ${second.name}, process ${second.pid}, console ${second.console}`)
  console.log(`a checkpoint every ${delayMs} ms; whichever is lost, the other goes on`)
}

async function startSide(
  dir: string,
  cwd: string,
  args: readonly string[],
  others: readonly Side[],
  more: string[],
): Promise<Side> {
  const names = others.map(({ name }) => name)
  let n = 1
  while (names.includes(`m${n}`)) n++
  const name = `m${n}`
  const [qmp, console_, log] = ['qmp', 'console', 'log'].map((kind) => join(dir, `${name}.${kind}`)) as [
    string,
    string,
    string,
  ]
  const options = [
    'run',
    ...args,
    ...more,
    '-serial',
    `file:${console_}`,
    '-qmp',
    `unix:${qmp},server=on,wait=off`,
    '-colo',
    `dir=${dir.replaceAll(',', ',,')}`,
  ]
  rmSync(qmp, { force: true }) // of a machine that was killed
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
  return { name, pid: child.pid!, qmp, console: console_, log }
}

const tail = (log: string): string => readFileSync(log, 'utf8').trimEnd().split('\n').slice(-5).join('\n')

async function status(dir: string): Promise<void> {
  const state = readState(dir)
  if (!state) throw new UsageError(`${dir}: nothing was started there (emu colo up)`)
  for (const side of state.sides) {
    if (!lives(side)) {
      console.log(`${side.name}  gone`)
      continue
    }
    const client = await QmpClient.connect(side.qmp)
    const colo = await client.execute('query-colo-status')
    const vm = await client.execute('query-status')
    client.close()
    const role =
      colo.mode === 'none' ? (colo['last-mode'] === 'none' ? 'alone' : `alone, was ${colo['last-mode']}`) : colo.mode
    console.log(`${side.name}  ${role}  guest ${vm.status}  process ${side.pid}  console ${side.console}`)
  }
}

async function down(dir: string): Promise<void> {
  const state = readState(dir)
  if (!state) throw new UsageError(`${dir}: nothing was started there (emu colo up)`)
  // The primary first: it takes the fence with it, so that the secondary does not bring the guest back.
  const roles = new Map<Side, string>()
  for (const side of state.sides.filter(lives)) {
    const client = await QmpClient.connect(side.qmp)
    roles.set(side, (await client.execute('query-colo-status')).mode)
    client.close()
  }
  const order = [...roles]
    .sort(([, a], [, b]) => Number(b === 'primary') - Number(a === 'primary'))
    .map(([side]) => side)
  for (const side of order) {
    if (!lives(side)) continue
    const client = await QmpClient.connect(side.qmp).catch(() => undefined)
    await client?.execute('quit').catch(() => {})
    client?.close()
    for (const end = performance.now() + END_MS; lives(side); await delay(20)) {
      if (performance.now() > end) throw new UsageError(`${side.name} (process ${side.pid}) does not end`)
    }
    console.log(`${side.name}  ended`)
  }
  writeState(dir, { ...state, sides: [] })
}
