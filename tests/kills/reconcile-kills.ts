/**
 * Kills one side of a postcopy migration between two `emu` that keep page journals, at every step, puts the guest together from what
 * is left, and loads it into a new process, which has to be content with it. Real processes, killed with SIGKILL.
 *
 *   npx -y pnpm@12 reconcile:kills [--count 34] [--skip 0] [--victim source] [--step "pong 3"] [--to 7.2]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import { emu } from '../harness/emu.ts'
import type { PeerKind } from '../harness/peers.ts'
import { createDisk } from '../harness/vm.ts'
import { runCampaign } from './campaign.ts'
import { cuttingProxy, STEPS, type Step } from './cutting-proxy.ts'
import { type Guest, goesOn, guestWorks, listening, type Side, settle, startSide, strikeOf, until } from './sides.ts'

const MiB = 2 ** 20

export interface ReconcileKill {
  readonly victim: 'source' | 'destination'
  readonly step: Step
  /** Where the guest is loaded. */
  readonly to: PeerKind
}

/**
 * - `reconciled, …`: of which moment the guest is, see `ReconcileResult`
 * - `before the switch`: the source alone had the guest, and was killed
 * - `with its process`: the destination had all of it, and was killed
 */
export type ReconcileFate =
  | 'reconciled, destination'
  | 'reconciled, switch'
  | 'reconciled, back'
  | 'at the source'
  | 'at the destination'
  | 'before the switch'
  | 'with its process'
  | 'no strike'

/** @throws what must not happen, with the facts */
export async function killAndReconcile({ victim, step, to }: ReconcileKill): Promise<ReconcileFate> {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-reconcile-'))
  const path = (name: string) => join(folder, name)
  // A guest that goes back finds a disk that did not, and may not have one.
  const disk = victim === 'source' ? createDisk(path('disk.img'), 8 * MiB) : undefined
  const files = { kernel: path('guest.bin'), disk }
  const image = { dirtyBytes: 12 * MiB, dirtyBytesPerSecond: 8 * MiB, lcgStepsPerSecond: 200_000, linesPerSecond: 20 }
  writeFileSync(files.kernel, embeddedGuestImage({ ...image, earlyTimer: true }))
  const guest = createGuestMonitor()
  const side = (name: string, incoming: boolean) =>
    startSide('emu-7.2', folder, { ...files, extra: ['-postcopy-journal', path(name)] }, incoming, (text) =>
      guest.push(text),
    )
  const sides: Side[] = []
  const wrong = (what: string) =>
    new Error(`${what}: ${victim} at "${step.name}", to ${to}\n${sides.map(({ stderr }) => stderr).join('\n--\n')}`)
  try {
    const source = await side('source.journal', false)
    sides.push(source)
    const destination = await side('destination.journal', true)
    sides.push(destination)
    await guestWorks(guest, (g) => (g.last?.passes ?? 0) > 0)
    const capabilities = [{ capability: 'postcopy-ram', state: true }]
    for (const { qmp } of sides) {
      await qmp.execute('migrate-set-capabilities', { capabilities })
      await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 8 * MiB, 'max-postcopy-bandwidth': 4 * MiB })
    }
    await using proxy = await cuttingProxy(await listening(destination, 'migrate-incoming'), step, () =>
      (victim === 'source' ? source : destination).kill(),
    )
    await source.qmp.execute('migrate', { uri: proxy.uri })
    await until(async () => !source.alive || (await source.status()).migration !== 'setup').catch(() => {})
    await source.qmp.execute('migrate-start-postcopy').catch(() => {})
    if ((await strikeOf(proxy, source, wrong)) === 'no strike') return 'no strike'
    proxy.cut()

    const end = await settle(source, destination, wrong, false)
    if (end.source?.running) {
      await goesOn(guest, source, wrong)
      return 'at the source'
    }
    if (end.destination?.migration === 'completed') {
      await goesOn(guest, destination, wrong)
      return 'at the destination'
    }
    if (end.destination?.migration === 'postcopy-paused') {
      await destination.qmp.execute('x-save-postcopy-journal')
      if (await runsStill(destination)) throw wrong('the guest was saved and runs')
    }
    return await putTogether(path, to, guest, sides, wrong)
  } finally {
    for (const { qmp, kill } of sides) {
      qmp.close()
      kill()
    }
    rmSync(folder, { recursive: true, force: true })
  }
}

async function runsStill(side: Side): Promise<boolean> {
  return side.alive && (await side.status().catch(() => ({ running: false }))).running
}

async function putTogether(
  path: (name: string) => string,
  to: PeerKind,
  before: Guest,
  sides: Side[],
  wrong: (what: string) => Error,
): Promise<ReconcileFate> {
  const journals = [path('source.journal'), path('destination.journal')]
  const ask = async (...more: string[]) => {
    const process = emu(['reconcile', ...journals, '-o', path('guest.stream'), ...more])
    const { code } = await process.exited
    return { code, ...process.out }
  }
  let said = await ask()
  // A source that is alive goes on writing.
  for (const limit = Date.now() + 60_000; said.stderr.includes('had not written all') && sides[0]!.alive; ) {
    if (Date.now() > limit) throw wrong(said.stderr)
    await delay(100)
    said = await ask()
  }
  if (said.stderr.includes('died before the switch') || /source.journal: /.test(said.stderr)) return 'before the switch'
  if (said.stderr.includes('--go-back')) {
    said = await ask('--go-back')
    for (const limit = Date.now() + 60_000; said.stderr.includes('had not written all') && sides[0]!.alive; ) {
      if (Date.now() > limit) throw wrong(said.stderr)
      await delay(100)
      said = await ask('--go-back')
    }
  }
  if (said.stderr.includes('whole at the destination')) return 'with its process'
  if (said.code !== 0) throw wrong(said.stderr)
  const moment = said.stdout.includes('given up')
    ? 'back'
    : said.stdout.includes('as it stood')
      ? 'destination'
      : 'switch'
  for (const side of sides) side.kill()
  // Output that was given up comes again.
  const guest = moment === 'back' ? createGuestMonitor() : before
  const disk = moment === 'back' ? undefined : path('disk.img')
  const files = { kernel: path('guest.bin'), disk: sides.length > 0 ? disk : undefined }
  const hasDisk = before.banner.get('disk') !== 'none'
  const loaded = await startSide(to, path('.'), { ...files, disk: hasDisk ? files.disk : undefined }, true, (text) =>
    guest.push(text),
  )
  sides.push(loaded)
  await loaded.qmp.execute('migrate-incoming', { uri: `exec:cat ${path('guest.stream')}` })
  await goesOn(guest, loaded, wrong)
  return `reconciled, ${moment}`
}

export function* reconcilePlan(to: PeerKind, filter: (kill: ReconcileKill) => boolean): Generator<ReconcileKill> {
  const all = STEPS.flatMap((step) => (['source', 'destination'] as const).map((victim) => ({ victim, step, to })))
  const wanted = all.filter(filter)
  if (wanted.length === 0) throw new Error('nothing of that kind')
  for (;;) yield* wanted
}

if (import.meta.filename === process.argv[1]) {
  const { values } = parseArgs({
    options: {
      count: { type: 'string', default: String(2 * STEPS.length) },
      skip: { type: 'string', default: '0' },
      victim: { type: 'string' },
      step: { type: 'string' },
      to: { type: 'string', default: 'emu-7.2' },
    },
  })
  const kills = reconcilePlan(
    values.to as PeerKind,
    (k) => (!values.victim || k.victim === values.victim) && (!values.step || k.step.name === values.step),
  )
  for (let i = 0; i < Number(values.skip); i++) kills.next()
  await runCampaign({
    count: Number(values.count),
    kills,
    name: ({ victim, step, to }) => ({
      mode: 'reconcile',
      pair: `emu-7.2 to emu-7.2, then ${to}`,
      victim,
      step: step.name,
    }),
    once: killAndReconcile,
  })
}
