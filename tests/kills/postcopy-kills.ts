/**
 * Kills one side of a postcopy migration, or cuts the link, at every step, and looks what became of the guest: never two
 * running ones, and none lost where the protocol knows a way back. Real processes, killed with SIGKILL.
 *
 *   npx -y pnpm@12 postcopy:kills [--count 100] [--skip N] [--lanes 1] [--pair emu-7.2,7.2] [--victim link] [--step "pong 3"] [--preempt]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { createGuestMonitor, embeddedGuestImage } from '@ferryvm/embedded-guest'
import type { PeerKind } from '../harness/peers.ts'
import { createDisk } from '../harness/vm.ts'
import { runCampaign } from './campaign.ts'
import { cuttingProxy, STEPS, type Step } from './cutting-proxy.ts'
import { goesOn, guestWorks, listening, settle, startSide, strikeOf, until } from './sides.ts'

const MiB = 2 ** 20
export const VICTIMS = ['link', 'source', 'destination'] as const
export type Victim = (typeof VICTIMS)[number]

export interface Kill {
  readonly pair: readonly [PeerKind, PeerKind]
  readonly victim: Victim
  readonly step: Step
  readonly preempt?: boolean
}

/**
 * What became of the guest.
 * - `at the source`: it never ran at the destination and goes on where it was
 * - `recovered`: after `migrate-recover` it is whole at the destination
 * - `at the destination`: it had everything
 * - `with its process`: the process that held it, or half of it, was killed
 * - `twice, by stock`: a stock source started its guest again although the destination has it; stock to stock as well
 * - `stuck in stock`: a stock source that could go on with the guest does not
 * - `stranded`: one side waits and the other is gone, though it was not killed: nobody can know whether it ran
 */
export type Fate =
  | 'at the source'
  | 'recovered'
  | 'at the destination'
  | 'with its process'
  | 'stranded'
  | 'twice, by stock'
  | 'stuck in stock'
  | 'no strike'

/** One kill. @throws what must not happen, with the facts */
export async function killOnce({ pair, victim, step, preempt = false }: Kill): Promise<Fate> {
  const folder = mkdtempSync(join(tmpdir(), 'ferry-kill-'))
  const files = { kernel: join(folder, 'guest.bin'), disk: createDisk(join(folder, 'disk.img'), 8 * MiB) }
  writeFileSync(
    files.kernel,
    embeddedGuestImage({
      dirtyBytes: 12 * MiB,
      dirtyBytesPerSecond: 8 * MiB,
      lcgStepsPerSecond: 200_000,
      linesPerSecond: 20,
      earlyTimer: true,
    }),
  )
  const guest = createGuestMonitor()
  let ranThere = false
  const source = await startSide(pair[0], folder, files, false, (text) => guest.push(text))
  const destination = await startSide(pair[1], folder, files, true, (text) => {
    ranThere = true
    guest.push(text)
  })
  const facts = () =>
    `${pair.join(' to ')}, ${victim} at "${step.name}"${preempt ? ', preempt' : ''}\nsource: ${source.stderr}\ndestination: ${destination.stderr}`
  const wrong = (what: string) => new Error(`${what}: ${facts()}`)
  try {
    await guestWorks(guest)
    const capabilities = ['postcopy-ram', ...(preempt ? ['postcopy-preempt'] : [])].map((capability) => ({
      capability,
      state: true,
    }))
    for (const { qmp } of [source, destination]) {
      await qmp.execute('migrate-set-capabilities', { capabilities })
      await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 8 * MiB, 'max-postcopy-bandwidth': 4 * MiB })
    }
    const target = await listening(destination, 'migrate-incoming')
    await using proxy = await cuttingProxy(target, step, (self) => {
      if (victim === 'link') self.cut()
      else (victim === 'source' ? source : destination).kill()
    })
    await source.qmp.execute('migrate', { uri: proxy.uri })
    await until(async () => !source.alive || (await source.status()).migration !== 'setup').catch(() => {})
    await source.qmp.execute('migrate-start-postcopy').catch(() => {})
    if ((await strikeOf(proxy, source, wrong)) === 'no strike') return 'no strike'
    if (victim !== 'link') proxy.cut()

    const stockSource = !pair[0].startsWith('emu')
    const end = await settle(source, destination, wrong, stockSource)
    if (stockSource && end.source?.running && end.destination?.running) return 'twice, by stock'
    // 10.0.2: "Unknown ending state", and the guest stands for ever.
    if (stockSource && victim === 'link' && end.source?.migration === 'device') return 'stuck in stock'
    if (end.source?.running && ranThere) throw wrong('the guest runs at the source, and had run at the destination')
    if (end.source?.running) {
      await goesOn(guest, source, wrong)
      return 'at the source'
    }
    if (
      end.destination &&
      (end.destination.running || end.destination.migration === 'completed') &&
      end.destination.migration !== 'postcopy-paused'
    ) {
      await goesOn(guest, destination, wrong)
      return 'at the destination'
    }
    if (victim !== 'link')
      return end.source?.migration === 'postcopy-paused' && victim === 'destination' && !ranThere
        ? 'stranded'
        : 'with its process'
    if (end.source?.migration !== 'postcopy-paused' || end.destination?.migration !== 'postcopy-paused')
      return 'stranded'
    const again = await listening(destination, 'migrate-recover')
    await source.qmp.execute('migrate', { uri: again, resume: true })
    const recovered = await until(
      async () => ['completed', 'failed'].includes((await source.status()).migration),
      stockSource ? 30_000 : 120_000,
    ).then(
      () => true,
      () => false,
    )
    if (!recovered && stockSource && !ranThere) return 'stuck in stock'
    if (!recovered) throw wrong('it was not recovered')
    if ((await source.status()).migration === 'failed') {
      if (ranThere) throw wrong('the guest goes back to the source, and had run at the destination')
      await goesOn(guest, source, wrong)
      return 'at the source'
    }
    await goesOn(guest, destination, wrong)
    return 'recovered'
  } finally {
    for (const side of [source, destination]) {
      side.qmp.close()
      side.kill()
    }
    rmSync(folder, { recursive: true, force: true })
  }
}

/** As many as wanted, every combination before any comes again. */
export function* plan(
  pairs: readonly Kill['pair'][],
  filter: (kill: Kill) => boolean,
  preempt: readonly boolean[],
): Generator<Kill> {
  const all = STEPS.flatMap((step) =>
    pairs.flatMap((pair) => VICTIMS.flatMap((victim) => preempt.map((p) => ({ pair, victim, step, preempt: p })))),
  ).filter(filter)
  if (all.length === 0) throw new Error('nothing of that kind')
  for (;;) yield* all
}

if (import.meta.filename === process.argv[1]) {
  const { values } = parseArgs({
    options: {
      count: { type: 'string', default: '51' },
      skip: { type: 'string', default: '0' },
      lanes: { type: 'string', default: '1' },
      pair: { type: 'string', multiple: true, default: ['emu-7.2,emu-7.2'] },
      victim: { type: 'string' },
      step: { type: 'string' },
      preempt: { type: 'boolean', default: false },
    },
  })
  const pairs = values.pair.map((pair) => pair.split(',') as unknown as Kill['pair'])
  const kills = plan(
    pairs,
    (k) => (!values.victim || k.victim === values.victim) && (!values.step || k.step.name === values.step),
    [values.preempt],
  )
  for (let i = 0; i < Number(values.skip); i++) kills.next()
  await runCampaign({
    count: Number(values.count),
    lanes: Number(values.lanes),
    kills,
    name: ({ pair, victim, step, preempt }) => ({
      mode: preempt ? 'postcopy-preempt' : 'postcopy',
      pair: pair.join(' to '),
      victim,
      step: step.name,
    }),
    once: killOnce,
  })
}
