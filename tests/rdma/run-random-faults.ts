/** `pnpm rdma:faults [runs] [first seed]`: random faults over both fabrics; ends with a table of what happened. */
import { inProcessFabric, socketFabric } from '@ferryvm/transport-rdma-sim'
import { type FaultRun, randomFaultRun } from './random-faults.ts'

const runs = Number(process.argv[2] ?? 100)
const first = Number(process.argv[3] ?? 1)
const done: FaultRun[] = []
const wrong: string[] = []
for (let i = 0; i < runs; i++) {
  try {
    done.push(await randomFaultRun(i % 2 ? socketFabric : inProcessFabric, first + i))
  } catch (error) {
    wrong.push((error as Error).message)
    console.error((error as Error).message)
  }
}
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
