/**
 * Kills one side of a migration that sends everything before the guest runs there, or cuts the link, at every step and in every way that pages
 * travel, and looks what became of the guest and its qcow2 disk. Real processes, killed with SIGKILL. Postcopy has a script of its
 * own (postcopy-kills.ts), snapshots too (snapshot-kills.ts).
 *
 *   npx -y pnpm@12 migration:kills [--count 100] [--skip N] [--lanes 1] [--pair emu-10.0,10.0] [--mode multifd-zstd] [--victim link] [--step shut]
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { createImage } from '@ferryvm/block/node'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import type { PeerKind } from '../harness/peers.ts'
import { runCampaign } from './campaign.ts'
import { cuttingProxy, type Step } from './cutting-proxy.ts'
import { type Guest, goesOn, guestWorks, listening, type Side, settle, startSide, strikeOf, until } from './sides.ts'

const MiB = 2 ** 20
/** Then a guest that has 12 MiB of its 32 filled, and goes on writing, takes about a second. */
const BANDWIDTH = 24 * MiB

export const VICTIMS = ['link', 'source', 'destination'] as const
export type Victim = (typeof VICTIMS)[number]

interface Mode {
  readonly name: string
  readonly capabilities: readonly string[]
  readonly parameters?: Readonly<Record<string, unknown>>
  /** Of the peers that have it. Default: all. */
  readonly peers?: readonly PeerKind[]
  readonly file?: true
}

const multifd = (method: string): Mode => ({
  name: `multifd-${method}`,
  capabilities: ['multifd'],
  parameters: { 'multifd-channels': 2, 'multifd-compression': method },
})
export const MODES: readonly Mode[] = [
  { name: 'precopy', capabilities: [] },
  { name: 'xbzrle', capabilities: ['xbzrle'] },
  { name: 'compress', capabilities: ['compress'], peers: ['emu-7.2', '7.2'] },
  ...['none', 'zlib', 'zstd'].map(multifd),
  { name: 'mapped-ram', capabilities: ['mapped-ram'], peers: ['emu-10.0', '10.0'], file: true },
]

const text = (name: string) => [...Buffer.from(name)]
const ram = [3, ...text('ram')]
const SHUT = [0, 1, 0, 4, 0, 0, 0, 0]
/** Of the main stream, which all ways have; spec: stream-format.md. Packets of multifd follow their magic number on channels of their own. */
export const STEPS: readonly Step[] = [
  { name: 'configuration', way: 'forward', bytes: text('QEVM'), passing: 10 },
  { name: 'block list', way: 'forward', bytes: ram },
  { name: 'pong', way: 'back', bytes: [0, 2, 0, 4, 0, 0, 0, 1], passing: 0 },
  { name: 'first pages', way: 'forward', bytes: ram, passing: 60_000 },
  { name: 'first packet', way: 'forward', bytes: [0x11, 0x22, 0x33, 0x44], occurrence: 2, passing: 900 },
  { name: 'twentieth packet', way: 'forward', bytes: [0x11, 0x22, 0x33, 0x44], occurrence: 20 },
  { name: 'pages again', way: 'forward', bytes: ram, passing: 14_000_000 },
  { name: 'first device', way: 'forward', bytes: [3, ...text('cpu'), 0, 0, 0, 0], passing: 4 },
  { name: 'within a device', way: 'forward', bytes: [3, ...text('cpu'), 0, 0, 0, 0], passing: 700 },
  { name: 'last device', way: 'forward', bytes: [11, ...text('globalstate')] },
  { name: 'description', way: 'forward', bytes: text('"devices"'), passing: 0 },
  { name: 'shut on its way', way: 'back', bytes: SHUT, passing: 0 },
  { name: 'half of shut', way: 'back', bytes: SHUT, passing: 4 },
  { name: 'shut', way: 'back', bytes: SHUT },
]
/** Sizes of the file at which the writer is killed; then the reader, so long after it began, ms. */
const FILE_STEPS: readonly Step[] = [
  { name: '1 byte', way: 'forward', bytes: [], passing: 1 },
  { name: '2 MB', way: 'forward', bytes: [], passing: 2_000_000 },
  { name: '12 MB', way: 'forward', bytes: [], passing: 12_000_000 },
  { name: 'written', way: 'forward', bytes: [], passing: Number.POSITIVE_INFINITY },
]

export interface Kill {
  readonly pair: readonly [PeerKind, PeerKind]
  readonly mode: Mode
  readonly victim: Victim
  readonly step: Step
}

/**
 * What became of the guest.
 * - `at the source`, `at the destination`: it goes on there, and is whole
 * - `with its process`: the process that held it was killed
 * - `in its file`: another process loads it from there, and it is whole
 * - `twice, by stock`, `stuck in stock`: a stock source runs it again although the destination has it; it does not, although it could
 * - `twice, until stock aborts`: the same, but its disk is locked by the destination: it ends with a failed assertion of its own (10.0.2)
 * - `back in time, by stock`: a stock destination ran it before its word had arrived, and was killed; the source goes on from before that
 * - `standing`: nobody runs it, because neither side can know whether the other does; `cont` at one of them wakes it
 */
export type Fate =
  | 'at the source'
  | 'at the destination'
  | 'with its process'
  | 'in its file'
  | 'twice, by stock'
  | 'stuck in stock'
  | 'twice, until stock aborts'
  | 'back in time, by stock'
  | 'standing'
  | 'no strike'

/** One kill. @throws what must not happen, with the facts */
export async function killOnce(kill: Kill): Promise<Fate> {
  const { pair, mode, victim, step } = kill
  const folder = mkdtempSync(join(tmpdir(), 'ferry-kill-'))
  const files = {
    kernel: join(folder, 'guest.bin'),
    disk: join(folder, 'disk.qcow2'),
    format: 'qcow2' as const,
    locked: true as const,
  }
  await createImage(files.disk, { format: 'qcow2', size: 8 * MiB })
  const load = { dirtyBytes: 12 * MiB, dirtyBytesPerSecond: 8 * MiB, lcgStepsPerSecond: 200_000, linesPerSecond: 20 }
  writeFileSync(files.kernel, embeddedGuestImage({ ...load, earlyTimer: true }))
  const guest = createGuestMonitor()
  const sides: Side[] = []
  let ranThere = false
  const start = async (kind: PeerKind, incoming: boolean) => {
    const side = await startSide(kind, folder, files, incoming, (output) => {
      if (incoming) ranThere = true
      guest.push(output)
    })
    sides.push(side)
    await configure(side, kill)
    return side
  }
  const facts = () =>
    `${mode.name}, ${pair.join(' to ')}, ${victim} at "${step.name}"\n${sides.map(({ stderr }) => stderr).join('\n')}`
  const wrong = (what: string) => new Error(`${what}: ${facts()}`)
  try {
    const source = await start(pair[0], false)
    await guestWorks(guest)
    const fate = mode.file
      ? await killOfFile({ kill, source, folder, start, guest, wrong })
      : await killOnWire({
          kill,
          source,
          destination: await start(pair[1], true),
          guest,
          ranThere: () => ranThere,
          wrong,
        })
    for (const side of sides) side.kill()
    await until(async () => sides.every(({ alive }) => !alive))
    checkImage(files.disk, wrong)
    return fate
  } finally {
    for (const side of sides) {
      side.qmp.close()
      side.kill()
    }
    rmSync(folder, { recursive: true, force: true })
  }
}

async function configure({ qmp }: Side, { pair, mode }: Kill): Promise<void> {
  // Without it stock does not wait for the destination's word.
  const stock = pair.some((kind) => !kind.startsWith('emu')) && !mode.file
  const names = [...mode.capabilities, ...(stock ? ['return-path'] : [])]
  await qmp.execute('migrate-set-capabilities', {
    capabilities: names.map((capability) => ({ capability, state: true })),
  })
  await qmp.execute('migrate-set-parameters', { 'max-bandwidth': BANDWIDTH, ...mode.parameters })
}

interface Wire {
  readonly kill: Kill
  readonly source: Side
  readonly destination: Side
  readonly guest: Guest
  readonly ranThere: () => boolean
  readonly wrong: (what: string) => Error
}

async function killOnWire({ kill, source, destination, guest, ranThere, wrong }: Wire): Promise<Fate> {
  const { pair, victim, step } = kill
  const target = await listening(destination, 'migrate-incoming')
  await using proxy = await cuttingProxy(target, step, (self) => {
    if (victim === 'link') self.cut()
    else (victim === 'source' ? source : destination).kill()
  })
  await source.qmp.execute('migrate', { uri: proxy.uri })
  if ((await strikeOf(proxy, source, wrong)) === 'no strike') return 'no strike'
  if (victim !== 'link') proxy.cut()

  const stockSource = !pair[0].startsWith('emu')
  const end = await settle(source, destination, wrong, stockSource)
  if (victim !== 'source' && !source.alive) {
    if (!stockSource || !source.stderr.includes('Assertion')) throw wrong('the source has ended')
    if (!end.destination?.running) throw wrong('the source has ended, and nobody runs the guest')
    return 'twice, until stock aborts'
  }
  if (end.source?.running && end.destination?.running) return 'twice, by stock'
  if (end.source?.running && ranThere()) {
    if (stockSource) return 'twice, by stock'
    if (victim === 'destination' && !pair[1].startsWith('emu')) return 'back in time, by stock'
    throw wrong('the guest runs at the source, and had run at the destination')
  }
  if (end.source?.running) {
    await goesOn(guest, source, wrong)
    if (await runs(destination)) throw wrong('the guest goes on at the source, and runs at the destination')
    return 'at the source'
  }
  if (end.destination?.running) {
    await goesOn(guest, destination, wrong)
    if (!(await runs(source))) return 'at the destination'
    if (stockSource) return 'twice, by stock'
    throw wrong('the guest goes on at the destination, and runs at the source')
  }
  if (victim === 'source') return 'with its process'
  if (victim === 'destination' && (ranThere() || end.source?.migration === 'completed')) return 'with its process'
  if (stockSource) return 'stuck in stock'
  if (step.name.includes('shut')) return 'standing'
  throw wrong(`nobody runs the guest: ${JSON.stringify(end)}`)
}

const runs = async (side: Side) => side.alive && (await side.status().catch(() => undefined))?.running === true

interface OfFile {
  readonly kill: Kill
  readonly source: Side
  readonly folder: string
  readonly start: (kind: PeerKind, incoming: boolean) => Promise<Side>
  readonly guest: Guest
  readonly wrong: (what: string) => Error
}

/** The victim `link` is a file that ends there. */
async function killOfFile({ kill, source, folder, start, guest, wrong }: OfFile): Promise<Fate> {
  const { pair, victim, step } = kill
  const path = join(folder, 'saved')
  const size = () => (existsSync(path) ? statSync(path).size : 0)
  const written = until(async () => (await source.status()).migration === 'completed')
  await source.qmp.execute('migrate', { uri: `file:${path}` })
  if (victim === 'source' && step.passing! < Number.POSITIVE_INFINITY) {
    await Promise.race([until(async () => size() >= step.passing!), written])
    source.kill()
    written.catch(() => {})
    await until(async () => !source.alive)
    // What was not finished must not run.
    const reader = await start(pair[1], true)
    await reader.qmp.execute('migrate-incoming', { uri: `file:${path}` }).catch(() => {})
    await until(
      async () => !reader.alive || (await reader.status().catch(() => undefined))?.migration !== 'active',
      20_000,
    )
    if (!reader.alive || !(await reader.status()).running) return 'with its process'
    await goesOn(guest, reader, wrong)
    return 'in its file'
  }
  await written
  source.kill()
  const load = async () => {
    const reader = await start(pair[1], true)
    await reader.qmp.execute('migrate-incoming', { uri: `file:${path}` })
    return reader
  }
  if (victim === 'destination') (await load()).kill()
  const reader = await load()
  await until(async () => (await reader.status()).running)
  await goesOn(guest, reader, wrong)
  return 'in its file'
}

function checkImage(path: string, wrong: (what: string) => Error): void {
  try {
    execFileSync('qemu-img', ['check', '-q', path], { stdio: ['ignore', 'ignore', 'pipe'] })
  } catch (error) {
    // 3: leaked clusters, which a process that was killed may leave; nothing of the guest's is lost.
    if ((error as { status?: number }).status !== 3)
      throw wrong(`qemu-img check: ${(error as { stderr?: Buffer }).stderr}`)
  }
}

/** Every combination before any comes again. */
export function* plan(pairs: readonly Kill['pair'][], filter: (kill: Kill) => boolean): Generator<Kill> {
  const all = pairs.flatMap((pair) =>
    MODES.filter(({ peers }) => !peers || pair.every((kind) => peers.includes(kind))).flatMap((mode) =>
      (mode.file ? FILE_STEPS : STEPS)
        // With multifd the main stream has no pages, and only it has packets.
        .filter(({ name }) => (mode.name.startsWith('multifd') ? name !== 'pages again' : !name.includes('packet')))
        .flatMap((step) => VICTIMS.map((victim) => ({ pair, mode, victim, step })))
        .filter(({ victim }) => !mode.file || victim !== 'link'),
    ),
  )
  const wanted = all.filter(filter)
  if (wanted.length === 0) throw new Error('nothing of that kind')
  for (;;) yield* wanted
}

if (import.meta.filename === process.argv[1]) {
  const { values } = parseArgs({
    options: {
      count: { type: 'string', default: '100' },
      skip: { type: 'string', default: '0' },
      lanes: { type: 'string', default: '1' },
      pair: { type: 'string', multiple: true, default: ['emu-10.0,emu-10.0'] },
      mode: { type: 'string' },
      victim: { type: 'string' },
      step: { type: 'string' },
    },
  })
  const pairs = values.pair.map((pair) => pair.split(',') as unknown as Kill['pair'])
  const kills = plan(
    pairs,
    ({ mode, victim, step }) =>
      (!values.mode || mode.name === values.mode) &&
      (!values.victim || victim === values.victim) &&
      (!values.step || step.name === values.step),
  )
  for (let i = 0; i < Number(values.skip); i++) kills.next()
  await runCampaign({
    count: Number(values.count),
    lanes: Number(values.lanes),
    kills,
    name: ({ mode, pair, victim, step }) => ({ mode: mode.name, pair: pair.join(' to '), victim, step: step.name }),
    once: killOnce,
  })
}
