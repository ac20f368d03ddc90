/**
 * A lane of the matrix, in a process of its own: takes routes by message, runs them one after the other and says what every
 * cell showed.
 */
import { mayBeLostByStock, type TravelLog, travel } from '../harness/journey.ts'
import { scratchFolder } from '../stock-qemu/stock-qemu.ts'
import type { CellResult } from './results.ts'
import type { Route } from './routes.ts'

/** How often a journey may be repeated because stock 7.2 lost pages. */
const MAX_LOST = 4

async function runRoute(route: Route): Promise<CellResult[]> {
  for (let lost = 0; ; lost++) {
    const folder = scratchFolder()
    const log: TravelLog = { moved: [], answered: 0 }
    let error: Error | undefined
    try {
      await travel(route.journey, folder.path, log)
    } catch (e) {
      error = e as Error
    } finally {
      folder.remove()
    }
    const again = error && !route.comparison && mayBeLostByStock(route.journey, error) && lost < MAX_LOST
    if (!again) return route.cells.map((cell) => resultOf(route, cell, log, error, lost))
  }
}

function resultOf(
  { journey }: Route,
  cell: Route['cells'][number],
  { moved, answered }: TravelLog,
  error: Error | undefined,
  lostByStock: number,
): CellResult {
  // The verdict at the end is about the whole way.
  const blamed = error !== undefined && (answered === journey.machines.length - 1 || cell.hops.includes(answered))
  const ok = error === undefined || (!blamed && cell.hops.every((hop) => hop < answered))
  const hops = moved.filter((_, index) => cell.hops.includes(index))
  return {
    cell: cell.name,
    ok,
    downtimeMs: hops.map((hop) => hop.downtimeMs),
    totalMs: hops.map((hop) => hop.totalMs),
    note: ok ? undefined : blamed ? error?.message.replaceAll(/\s+/g, ' ').slice(0, 400) : 'not reached',
    lostByStock,
    at: new Date().toISOString(),
  }
}

process.on('message', async (route: Route) => {
  process.send!(await runRoute(route))
})
// Its machines are in its process group.
process.on('disconnect', () => process.kill(-process.pid, 'SIGKILL'))
