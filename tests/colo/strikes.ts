/** One guest, kept alive by COLO while its machines are killed, frozen, and cut off from each other, one after the other. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { ColoProcesses, type Role, type Side } from './colo-processes.ts'
import type { StruckGuest } from './record-guest.ts'

export const STRIKES = [
  'kill primary',
  'kill secondary',
  'cut link',
  'cut path 1',
  'cut path 2',
  'cut both paths',
  'freeze primary',
] as const
export type Strike = (typeof STRIKES)[number]

export interface StruckOutcome {
  readonly counts: ReadonlyMap<Strike, number>
  /** From a kill of the primary to the survivor's first record, ms. */
  readonly takeoverMs: readonly number[]
  readonly printed: number
  readonly unseen: number
}

/** Numbers below n, the same for the same seed. */
export function randomNumbers(seed: number): (n: number) => number {
  let state = seed >>> 0
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * n)
  }
}

/** Generous: the machine may be busy. */
const PATIENCE_MS = 120_000
/** Of the heartbeats. On a busy machine a path that lives can be silent for a second or two. */
const TIMEOUT_MS = 6000
const RECORDS_BETWEEN = 2

/** @throws two machines that run, or none, or the wrong one; what the guest or its records say */
export async function strikeChain(
  createGuest: (folder: string) => StruckGuest,
  strikes: readonly Strike[],
  seed: number,
  report: (line: string) => void = () => {},
): Promise<StruckOutcome> {
  const folder = mkdtempSync(join(tmpdir(), 'ferryvm-strikes-'))
  const random = randomNumbers(seed)
  const guest = createGuest(folder)
  const pair = new ColoProcesses({
    folder,
    args: guest.args,
    delayMs: 50,
    timeoutMs: TIMEOUT_MS,
    onOutput: (text) => guest.push(text),
  })
  const counts = new Map<Strike, number>()
  const takeoverMs: number[] = []
  let during = 'the start'
  const records = (count: number) => {
    const from = guest.last
    return guest.until(() => guest.last >= from + count, PATIENCE_MS)
  }
  /** @param expected undefined: either, but one */
  const oneGoesOn = async (expected?: Role) => {
    const role = await pair.survivor(PATIENCE_MS)
    if (expected && role !== expected) throw new Error(`the ${role} went on and not the ${expected}`)
    guest.machineDied()
    await records(RECORDS_BETWEEN)
  }
  const kill = async ({ process }: Side, survivor: Role) => {
    const began = performance.now()
    process.child.kill('SIGKILL')
    const from = guest.last
    void guest
      .until(() => guest.last > from, PATIENCE_MS)
      .then(
        () => survivor === 'secondary' && takeoverMs.push(performance.now() - began),
        () => {},
      )
    await oneGoesOn(survivor)
  }
  const stillAPair = async () => {
    const states = [await pair.state(pair.primary), await pair.state(pair.secondary!)]
    const text = states.map(({ mode, status }) => `${mode} ${status}`).join(', ')
    if (!/^primary (running|colo), secondary colo$/.test(text)) throw new Error(`no pair any more: ${text}`)
    if (pair.fenceHolder) throw new Error(`the ${pair.fenceHolder} has taken the fence`)
  }
  /** Both sides notice, and nothing else happens; then it comes back. */
  const losePath = async (path: 0 | 1) => {
    // A machine that was in another pair has said such things before.
    const sides = [pair.primary, pair.secondary!].map(({ process: { out } }) => ({ out, from: out.stderr.length }))
    const say = async (what: string) => {
      const line = `heartbeat path ${path + 1} ${what}`
      for (const end = performance.now() + PATIENCE_MS; ; await delay(10)) {
        if (sides.every(({ out, from }) => out.stderr.includes(line, from))) return
        if (performance.now() > end) throw new Error(`no "${line}" on both sides`)
      }
    }
    if (random(2) === 0) pair.paths[path]!.cut()
    else pair.paths[path]!.stall()
    await say('is silent')
    await records(RECORDS_BETWEEN)
    await stillAPair()
    pair.paths[path]!.restore()
    await say('is back')
    await stillAPair()
  }
  const acts: Record<Strike, () => Promise<void>> = {
    'kill primary': () => kill(pair.primary, 'secondary'),
    'kill secondary': () => kill(pair.secondary!, 'primary'),
    'cut link': () => {
      // A link that falls silent is noticed by the checkpoint that is not answered.
      if (random(5) === 0) pair.link.stall()
      else pair.link.cut()
      return oneGoesOn('primary')
    },
    'cut path 1': () => losePath(0),
    'cut path 2': () => losePath(1),
    'cut both paths': () => {
      for (const path of pair.paths) path.cut()
      return oneGoesOn()
    },
    'freeze primary': async () => {
      const { process } = pair.primary
      process.child.kill('SIGSTOP')
      for (const end = performance.now() + PATIENCE_MS; pair.fenceHolder !== 'secondary'; await delay(10)) {
        if (performance.now() > end) throw new Error('the secondary does not take over from a frozen primary')
      }
      await records(RECORDS_BETWEEN)
      process.child.kill('SIGCONT')
      await oneGoesOn('secondary')
    },
  }

  try {
    await pair.boot()
    await guest.until(() => guest.last > 2, PATIENCE_MS * 3)
    for (const [n, strike] of strikes.entries()) {
      if (!pair.secondary) await pair.pair()
      pair.prepareSpare()
      await records(1)
      await delay(random(400))
      during = strike
      await acts[strike]()
      guest.check()
      counts.set(strike, (counts.get(strike) ?? 0) + 1)
      report(`${n + 1} of ${strikes.length}: ${strike}; ${guest.printed} records`)
    }
    if (pair.secondary) await kill(pair.secondary, 'primary')
    pair.primary.serial.write(guest.quit)
    await guest.until(() => guest.verdict !== undefined, PATIENCE_MS)
    const { ok, text, records: written } = guest.verdict!
    if (!ok) throw new Error(text)
    guest.checkAll()
    if (written < guest.last) throw new Error(`${guest.last} records were printed, and the guest knows of ${written}`)
    return { counts, takeoverMs, printed: guest.printed, unseen: guest.unseen }
  } catch (error) {
    throw new Error(`seed ${seed}, ${during}: ${(error as Error).message}\n${pair.logs}\n${guest.text.slice(-1000)}`, {
      cause: error,
    })
  } finally {
    await pair.close()
    rmSync(folder, { recursive: true, force: true })
  }
}
