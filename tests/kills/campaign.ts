/** Runs the kills of one script one after the other, or a few at a time, and keeps what became of them. */
import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdirSync } from 'node:fs'
import { loadavg } from 'node:os'
import { join } from 'node:path'

/**
 * The victim was not struck, for a reason that lies before the strike: a process that did not start in time on a busy host, a step that
 * did not come. Neither a kill nor a violation; the same is tried again.
 */
export class NotStruckError extends Error {}

/** How a kill is counted. */
export interface KillName {
  /** `precopy`, `multifd-zstd`, `snapshot` ... */
  readonly mode: string
  /** `7.2 to emu-7.2`. */
  readonly pair: string
  readonly victim: string
  readonly step: string
}

export interface KillResult extends KillName {
  /** What became of the guest, or one of {@link NO_KILL}, or {@link VIOLATION}. */
  readonly fate: string
  /** What was wrong. */
  readonly wrong?: string
  /** Seed of a script whose moments depend on one. */
  readonly seed?: number
  /** Tries before this one in which nothing was struck, and why. */
  readonly notStruck: readonly string[]
  readonly commit: string
  /** ISO 8601. */
  readonly at: string
  /** Processes that wanted a core, on average over the minute before. */
  readonly load: number
}

export const VIOLATION = 'VIOLATION'
export const NEVER_STRUCK = 'never struck'
/** The migration was over before the step came, or the step never came. */
export const NO_KILL: readonly string[] = ['no strike', NEVER_STRUCK]
export const RESULTS = join(import.meta.dirname, '../../.cache/kills.jsonl')
const TRIES = 3

/** A kill, again where it did not strike. */
export async function struck(once: () => Promise<string>): Promise<Pick<KillResult, 'fate' | 'wrong' | 'notStruck'>> {
  const notStruck: string[] = []
  for (;;) {
    try {
      return { fate: await once(), notStruck }
    } catch (error) {
      const { message, cause } = error as Error
      const text = cause ? `${message} (${(cause as Error).message})` : message
      if (!(error instanceof NotStruckError)) return { fate: VIOLATION, wrong: text, notStruck }
      notStruck.push(text)
      if (notStruck.length === TRIES) return { fate: NEVER_STRUCK, notStruck }
    }
  }
}

export interface Campaign<K> {
  readonly count: number
  readonly lanes?: number
  readonly seed?: number
  /** As many as there have to be. */
  readonly kills: Iterator<K>
  name(kill: K): KillName
  /** @throws NotStruckError, or what must not happen */
  once(kill: K): Promise<string>
}

/**
 * Says what became of each kill, adds it to {@link RESULTS}, and ends with a table. Exit status 1 when something happened that must not,
 * or a kill never struck.
 */
export async function runCampaign<K>({ count, lanes = 1, seed, kills, name, once }: Campaign<K>): Promise<void> {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: import.meta.dirname, encoding: 'utf8' })
  mkdirSync(join(RESULTS, '..'), { recursive: true })
  const fates = new Map<string, number>()
  let begun = 0
  const lane = async () => {
    while (begun < count) {
      const n = ++begun
      const kill = kills.next().value as K
      const named = name(kill)
      const result: KillResult = {
        ...named,
        ...(await struck(() => once(kill))),
        ...(seed !== undefined && { seed }),
        commit: commit.trim(),
        at: new Date().toISOString(),
        load: Math.round(loadavg()[0]!),
      }
      appendFileSync(RESULTS, `${JSON.stringify(result)}\n`)
      console.log([n, named.mode, named.pair, named.victim, named.step, result.fate].join('\t'))
      for (const why of result.notStruck) console.log(`\tnot struck: ${why}`)
      if (result.wrong) console.log(`\t${result.wrong}`)
      if (result.fate === VIOLATION || result.fate === NEVER_STRUCK) process.exitCode = 1
      const key = `${named.mode.padEnd(14)} ${named.victim.padEnd(12)} ${result.fate}`
      fates.set(key, (fates.get(key) ?? 0) + 1)
    }
  }
  await Promise.all(Array.from({ length: lanes }, lane))
  for (const [key, n] of [...fates].sort()) console.log(`${String(n).padStart(5)}  ${key}`)
}
