/**
 * `pnpm rdma:faults [runs] [first seed] [--guest=embedded]`: random faults over both fabrics; ends with a table of what happened.
 * With the embedded guest instead of a pretended machine each run takes a second or more.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { inProcessFabric, socketFabric } from '@ferryvm/transport-rdma-sim'
import { embeddedGuest, fakeGuest } from './fault-guests.ts'
import { type FaultRun, randomFaultRun } from './random-faults.ts'

const { values, positionals } = parseArgs({ allowPositionals: true, options: { guest: { type: 'string' } } })
const [runs = 100, first = 1] = positionals.map(Number)
const folder = mkdtempSync(join(tmpdir(), 'ferryvm-faults-'))
const createGuest = () => (values.guest === 'embedded' ? embeddedGuest(folder) : fakeGuest())
const done: FaultRun[] = []
const wrong: string[] = []
for (let i = 0; i < runs; i++) {
  try {
    done.push(await randomFaultRun(i % 2 ? socketFabric : inProcessFabric, first + i, createGuest))
  } catch (error) {
    wrong.push((error as Error).message)
    console.error((error as Error).message)
  }
}
rmSync(folder, { recursive: true })
const rows: Record<string, { runs: number; completed: number; failed: number; late: number; 'not fired': number }> = {}
for (const { fault, outcome, late, fired } of done) {
  const row = (rows[`${fault.kind} (${fault.side})`] ??= { runs: 0, completed: 0, failed: 0, late: 0, 'not fired': 0 })
  row.runs++
  row[outcome]++
  if (late) row.late++
  if (!fired) row['not fired']++
}
console.table(Object.fromEntries(Object.entries(rows).sort(([a], [b]) => a.localeCompare(b))))
console.log(`${done.length} as the protocol prescribes, ${wrong.length} not`)
process.exit(wrong.length > 0 ? 1 : 0)
