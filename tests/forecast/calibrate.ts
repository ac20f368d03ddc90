/**
 * `pnpm forecast:calibrate [runs] [--seed N] [--json FILE]`: moves a guest that writes in many ways over links of many speeds, asks
 * for the forecast all the time, and holds it beside what then happened.
 */
import { appendFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import type { MigrationForecast } from '@ferryvm/migration'
import { startOurs } from '../bench/bench-guest.ts'
import { createVm } from '../harness/vm.ts'
import { moments, type Plan, planOf, type Random, random } from './plans.ts'

const MiB = 2 ** 20
const ASK_EVERY_MS = 50
/** Then it is given up: a run that was to end has ended by now. */
const PATIENCE_MS = 25_000

interface Run {
  readonly plan: Plan
  readonly asked: readonly { readonly atMs: number; readonly forecast: MigrationForecast }[]
  /** Infinity: given up. */
  readonly endedMs: number
  readonly downtimeMs: number
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: 'string', default: '1' }, json: { type: 'string' } },
})
const runs = Number(positionals[0] ?? 100)
const seed = Number(values.seed)
if (!Number.isInteger(runs) || runs < 1 || !Number.isInteger(seed)) {
  console.error('usage: pnpm forecast:calibrate [runs] [--seed N] [--json FILE]')
  process.exit(2)
}

const draw = random(seed)
const held = { eta90: 0, eta10: 0, downtime90: 0, of: 0 }
const verdicts = { right: 0, wrong: [] as string[] }
for (let i = 0; i < runs; i++) {
  const run = await runOnce(planOf(draw), draw)
  report(i, run, draw)
}
const share = (n: number) => `${((100 * n) / held.of).toFixed(0)} %`
console.log(`${held.of} of ${runs} runs ended and had a forecast with an end, asked for at a random moment:`)
console.log(`  the P90 of the remaining time held in ${share(held.eta90)}, the P10 was below in ${share(held.eta10)}`)
console.log(`  the P90 of the downtime held in ${share(held.downtime90)}`)
console.log(`verdicts "does not end" and "ends" that were right: ${verdicts.right}; wrong: ${verdicts.wrong.length}`)
for (const line of verdicts.wrong) console.log(`  ${line}`)

async function runOnce(plan: Plan, draw: Random): Promise<Run> {
  await using from = await startOurs(plan.ramMiB * MiB)
  await using to = await createVm({ ramBytes: plan.ramMiB * MiB, onOutput: (text) => from.console.push(text) })
  const { migration } = from.vm
  await from.console.run('fill', plan.fillMiB)
  migration.setParameters({ 'max-bandwidth': plan.bandwidth, 'downtime-limit': plan.downtimeLimitMs })
  migration.setCapabilities([{ capability: 'auto-converge', state: plan.autoConverge }])
  if (plan.writer) from.console.start('writer', plan.writer)
  const incoming = await to.migration.incoming('tcp:127.0.0.1:0')
  incoming.done.catch(() => {})
  const began = performance.now()
  const asked: { atMs: number; forecast: MigrationForecast }[] = []
  let ended = false
  const done = migration.migrate(incoming.uri).then(
    () => performance.now() - began,
    () => Number.POSITIVE_INFINITY,
  )
  const over = done.finally(() => {
    ended = true
  })
  while (!ended) {
    const atMs = performance.now() - began
    const forecast = migration.forecast()
    if (forecast?.remainingMs) asked.push({ atMs, forecast })
    if (atMs > PATIENCE_MS) migration.cancel()
    await Promise.race([delay(ASK_EVERY_MS * (0.5 + draw())), over])
  }
  return { plan, asked, endedMs: await done, downtimeMs: migration.info().downtime ?? Number.POSITIVE_INFINITY }
}

function report(i: number, run: Run, draw: Random): void {
  const { plan, endedMs } = run
  const moment = moments(run.asked, draw)
  if (!moment) {
    console.log(`${i + 1}/${runs} ${plan.text}: over before there was a forecast (${endedMs.toFixed(0)} ms)`)
    return
  }
  const { atMs, forecast } = moment
  const eta = forecast.remainingMs!
  const actual = endedMs - atMs
  const ends = endedMs !== Number.POSITIVE_INFINITY
  if (ends && eta.p90 !== Number.POSITIVE_INFINITY) {
    held.of++
    if (actual <= eta.p90) held.eta90++
    if (actual < eta.p10) held.eta10++
    if (run.downtimeMs <= forecast.downtimeMs!.p90) held.downtime90++
  }
  const { verdict } = forecast
  const late = verdict === 'converges' && eta.p90 > PATIENCE_MS - atMs
  if (verdict === 'converges' ? ends || late : verdict === 'unsure' || !ends) verdicts.right++
  else verdicts.wrong.push(`run ${i + 1}, ${plan.text}: ${forecast.sentence}; it ${ends ? 'ended' : 'did not end'}`)
  const numbers = `${eta.p10.toFixed(0)}/${eta.p50.toFixed(0)}/${eta.p90.toFixed(0)}`
  console.log(
    `${i + 1}/${runs} ${plan.text}: at ${atMs.toFixed(0)} ms ${numbers} ms to go, really ${actual.toFixed(0)} ` +
      `(${(actual / eta.p50).toFixed(2)}); downtime ${forecast.downtimeMs!.p50.toFixed(0)}/${forecast.downtimeMs!.p90.toFixed(0)}, really ${run.downtimeMs}`,
  )
  if (values.json)
    appendFileSync(
      values.json,
      `${JSON.stringify({ plan: plan.text, atMs, endedMs, eta, downtime: forecast.downtimeMs, downtimeMs: run.downtimeMs, asked: run.asked.map((a) => [a.atMs, a.forecast.remainingMs!.p10, a.forecast.remainingMs!.p50, a.forecast.remainingMs!.p90]) })}\n`,
    )
}
