/**
 * `pnpm colo:kills [--primary=100] [--secondary=100] [--link=50] [--path=50] [--both=10] [--freeze=10] [--seed=N] [--chain=25] [--guest=linux]`:
 * strikes at the machines of a COLO pair, in random order, so many of each kind, and says what it took. A guest lives through
 * `--chain` of them, then another one begins: Linux (`pnpm guest:fetch`), or the embedded guest, which is quicker.
 */
import { parseArgs } from 'node:util'
import { findLinuxGuest, linuxGuestMissing } from '../../tooling/guest/linux-guest.ts'
import { embeddedStruckGuest } from './embedded-struck-guest.ts'
import { RecordGuest } from './record-guest.ts'
import { randomNumbers, STRIKES, type Strike, strikeChain } from './strikes.ts'

const number = (fallback: number) => ({ type: 'string', default: String(fallback) }) as const
const { values } = parseArgs({
  options: {
    primary: number(100),
    secondary: number(100),
    link: number(50),
    path: number(50),
    both: number(10),
    freeze: number(10),
    chain: number(25),
    seed: number(Date.now() % 2 ** 32),
    guest: { type: 'string', default: 'linux' },
  },
})
const linux = findLinuxGuest()
if (values.guest === 'linux' && !linux?.opensbi) {
  throw new Error(linuxGuestMissing() ?? 'no OpenSBI firmware (package opensbi)')
}
const createGuest = (folder: string) =>
  values.guest === 'linux' ? new RecordGuest(linux!, folder) : embeddedStruckGuest(folder)
const seed = Number(values.seed)
const wanted: Record<Strike, number> = {
  'kill primary': Number(values.primary),
  'kill secondary': Number(values.secondary),
  'cut link': Number(values.link),
  'cut path 1': Number(values.path),
  'cut path 2': Number(values.path),
  'cut both paths': Number(values.both),
  'freeze primary': Number(values.freeze),
}
const random = randomNumbers(seed)
const strikes = STRIKES.flatMap((strike) => Array.from({ length: wanted[strike] }, () => strike))
for (let i = strikes.length - 1; i > 0; i--) {
  const j = random(i + 1)
  ;[strikes[i], strikes[j]] = [strikes[j]!, strikes[i]!]
}

const began = performance.now()
const takeoverMs: number[] = []
const totals = new Map<Strike, number>()
let [printed, unseen, chains] = [0, 0, 0]
for (let at = 0; at < strikes.length; at += Number(values.chain)) {
  const outcome = await strikeChain(createGuest, strikes.slice(at, at + Number(values.chain)), seed + at, console.log)
  for (const [strike, count] of outcome.counts) totals.set(strike, (totals.get(strike) ?? 0) + count)
  takeoverMs.push(...outcome.takeoverMs)
  printed += outcome.printed
  unseen += outcome.unseen
  chains++
}
takeoverMs.sort((a, b) => a - b)
const at = (share: number) =>
  Math.round(takeoverMs[Math.min(takeoverMs.length - 1, Math.floor(takeoverMs.length * share))]!)
console.log(`seed ${seed}: ${[...totals].map(([strike, count]) => `${count} x ${strike}`).join(', ')}`)
console.log(`the right one went on every time, never two; ${Math.round((performance.now() - began) / 1000)} s`)
console.log(
  `${printed} numbers printed by ${chains} guests (${values.guest}), all of them on the disk and in memory, none twice; ${unseen} never let out`,
)
if (takeoverMs.length > 0)
  console.log(`from the kill of a primary to the next record: ${at(0.5)} ms (p50), ${at(0.99)} ms (p99)`)
