import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { z } from 'zod'
import { UsageError } from '../usage-error.ts'

const stateSchema = z.strictObject({
  /** Of `emu run`, for the secondaries to come. */
  args: z.array(z.string()),
  /** What relative paths in them mean. */
  cwd: z.string(),
  /** How many machines there have been; the next one's name. */
  count: z.int().min(0),
  sides: z.array(
    z.strictObject({
      name: z.string(),
      pid: z.int().positive(),
      /** Socket. */
      qmp: z.string(),
      /** As in `-serial`: what the guest prints while it lives there. */
      serial: z.string(),
      /** stderr of the process. */
      log: z.string(),
    }),
  ),
})
export type ColoState = z.infer<typeof stateSchema>
export type Side = ColoState['sides'][number]

const pathIn = (dir: string) => join(dir, 'colo.json')

/** undefined: nothing was started there. @throws UsageError the file is damaged */
export function readState(dir: string): ColoState | undefined {
  const path = pathIn(dir)
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new UsageError(`${path}: ${(cause as Error).message}`, { cause })
  }
  try {
    return stateSchema.parse(JSON.parse(text))
  } catch (cause) {
    throw new UsageError(`${path}: ${(cause as Error).message}`, { cause })
  }
}

export function writeState(dir: string, state: ColoState): void {
  writeFileSync(`${pathIn(dir)}.new`, `${JSON.stringify(state, null, 2)}\n`)
  renameSync(`${pathIn(dir)}.new`, pathIn(dir))
}

/** Whether it answers. Its process number does not say: it may be dead and not waited for yet, or somebody else's by now. */
export function lives({ qmp }: Side): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(qmp)
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}

export async function living(sides: readonly Side[]): Promise<Side[]> {
  const alive = await Promise.all(sides.map(lives))
  return sides.filter((_, i) => alive[i])
}
