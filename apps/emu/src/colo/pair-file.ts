import { randomBytes } from 'node:crypto'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { UsageError } from '../usage-error.ts'

/** What both sides of a pair must agree on. A new pair gets a new session and a new fence. */
const pairSchema = z.strictObject({
  session: z.string().regex(/^[0-9a-f]{32}$/),
  /** Lock file, on storage that both sides see. */
  fence: z.string().min(1),
  /** Migration URIs where the secondary listens for signs of life. */
  heartbeats: z.array(z.string().min(1)).min(1).max(8),
  intervalMs: z.int().min(10).max(60_000).default(100),
  timeoutMs: z.int().min(50).max(600_000).default(1000),
})
export type Pair = z.infer<typeof pairSchema>

const pathIn = (dir: string) => join(dir, 'pair.json')

/** @throws UsageError it is not there, or not one */
export function readPair(dir: string): Pair {
  const path = pathIn(dir)
  try {
    return pairSchema.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch (cause) {
    throw new UsageError(`${path}: ${(cause as Error).message}`, { cause })
  }
}

/** A new pair, of which both sides run on this host. */
export function writePair(dir: string, timeoutMs: number): Pair {
  const session = randomBytes(16).toString('hex')
  const name = session.slice(0, 8)
  const pair = pairSchema.parse({
    session,
    fence: join(dir, `fence-${name}`),
    heartbeats: [`unix:${join(dir, `hb-${name}-1.sock`)}`, `unix:${join(dir, `hb-${name}-2.sock`)}`],
    timeoutMs,
  })
  const fresh = join(dir, `pair-${name}.json`)
  writeFileSync(fresh, `${JSON.stringify(pair, null, 2)}\n`, { mode: 0o600 })
  renameSync(fresh, pathIn(dir))
  return pair
}
