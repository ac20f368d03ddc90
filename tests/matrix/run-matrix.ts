/**
 * `pnpm matrix`: Linux moved between `emu` and stock QEMU 7.2 and 10.0 in every way, as a table. The guest itself says
 * whether a cell passes (see tests/harness/journey.ts).
 *
 *     --only TEXT      cells whose name contains it; several of them must all be there ("7.2 to emu, fd, load, pcie.0, 2 harts")
 *     --share I/N      every N-th journey, from the I-th on (from 0)
 *     --resume         goes on from .cache/matrix.jsonl: only cells that are not there yet, or failed
 *     --rounds N       of the bridge, there and back [10]
 *     --list           names of the cells, and nothing else
 *     --table          the table of what is there, and nothing else
 *     --write          the table goes to docs/matrix.md, too
 *     --remark TEXT    for the table's heading: under what circumstances it was measured
 *     --lanes N        guests that travel at a time, in processes of their own: an idle one beside every loaded one [2]
 *
 * Cells of two stock machines are there for comparison and may fail. Exit status 1 when a cell of ours fails.
 */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { findLinuxGuest, linuxGuestMissing } from '../../tooling/guest/linux-guest.ts'
import { stockQemu10, stockQemu10Missing } from '../stock-qemu/stock-10.ts'
import { stockQemuCommand, stockQemuMissing } from '../stock-qemu/stock-qemu.ts'
import { Lane } from './lane.ts'
import { type CellResult, ResultFile } from './results.ts'
import { GUESTS, matrixRoutes, type Route } from './routes.ts'
import { matrixTables } from './table.ts'

const root = join(import.meta.dirname, '../..')
const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [] },
    share: { type: 'string', default: '0/1' },
    resume: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '10' },
    lanes: { type: 'string', default: '2' },
    list: { type: 'boolean', default: false },
    table: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    remark: { type: 'string', default: '' },
  },
})
const missing = stockQemuMissing() ?? linuxGuestMissing()
if (missing) {
  console.error(missing)
  process.exit(1)
}
const rounds = Number(options.rounds)
const stock10 = stockQemu10()
if (!stock10) console.log(`${stockQemu10Missing()}: its cells are left out`)
const all = matrixRoutes(rounds).filter(({ journey }) => stock10 || !journey.machines.includes('10.0'))
const file = new ResultFile(join(root, '.cache/matrix.jsonl'), options.resume || options.table)
const wanted = (name: string, { comparison }: Route) => {
  const found = options.resume ? file.results.get(name) : undefined
  return options.only.every((text) => name.includes(text)) && !(found && (found.ok || comparison))
}
const [first, step] = options.share.split('/').map(Number) as [number, number]
const routes = all.filter((_, index) => index % step === first).flatMap(trimmed)

/** Only as far as the cells that are asked for. */
function trimmed(route: Route): Route[] {
  const cells = route.cells.filter(({ name }) => wanted(name, route))
  if (cells.length === 0) return []
  const hops = Math.max(...cells.flatMap((cell) => cell.hops)) + 1
  return [{ ...route, cells, journey: { ...route.journey, machines: route.journey.machines.slice(0, hops + 1) } }]
}

if (options.list) {
  for (const { cells } of routes) for (const { name } of cells) console.log(name)
  process.exit()
}
if (!options.table) await runAll()

const judged = all.filter(({ comparison }) => !comparison).flatMap(({ cells }) => cells.map(({ name }) => name))
const shown = judged.flatMap((name) => file.results.get(name) ?? [])
const failed = shown.filter(({ ok }) => !ok)
const text = `${heading()}\n${matrixTables(file.results, rounds)}`
if (routes.length === all.length || options.table || options.write) console.log(`\n${text}`)
if (options.write) writeFileSync(join(root, 'docs/matrix.md'), text)
for (const { cell, note } of failed) console.log(`FAILS ${cell}: ${note}`)
console.log(`${shown.length - failed.length} of ${shown.length} cells pass, ${judged.length - shown.length} not run`)
process.exit(failed.length === 0 ? 0 : 1)

async function runAll(): Promise<void> {
  const total = routes.reduce((sum, { cells }) => sum + cells.length, 0)
  let done = 0
  const tell = ({ comparison }: Route, result: CellResult) => {
    file.add(result)
    const { cell, ok, downtimeMs, totalMs, note = '' } = result
    const times = `${downtimeMs.map(Math.round).join('+')} / ${totalMs.map(Math.round).join('+')} ms`
    const verdict = ok ? 'ok   ' : comparison ? 'stock' : 'FAIL '
    console.log(`${++done}/${total} ${verdict} ${cell}: ${times.slice(0, 60)} ${note.slice(0, 160)}`)
  }
  const lanes = Array.from({ length: Number(options.lanes) }, () => new Lane())
  const close = () => {
    for (const lane of lanes) lane[Symbol.dispose]()
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      close()
      process.exit(130)
    })
  }
  const queue = [...routes]
  await Promise.all(
    lanes.map(async (lane, index) => {
      while (queue.length > 0) {
        const preferred = queue.findIndex(({ journey }) => journey.guest === GUESTS[index % GUESTS.length])
        const [route] = queue.splice(Math.max(preferred, 0), 1)
        for (const result of await lane.run(route!)) tell(route!, result)
      }
    }),
  )
  close()
}

function heading(): string {
  const versionOf = (command: string, env: object) =>
    execFileSync(command, ['--version'], { encoding: 'utf8', env: { ...process.env, ...env } })
      .split('\n')[0]!
      .replace(/^.*version (\S+).*$/, '$1')
  const versions = [versionOf(stockQemuCommand, {}), stock10 && versionOf(stock10.command, stock10.env)]
  const last =
    [...file.results.values()]
      .map(({ at }) => at)
      .sort()
      .at(-1) ?? ''
  const again = [...file.results.values()].filter(({ lostByStock }) => lostByStock > 0).length
  return `# Guests between emu and stock QEMU

Made by \`pnpm matrix --write\` on ${last.slice(0, 10)}: stock QEMU ${versions.filter(Boolean).join(' and ')}, Linux \
${findLinuxGuest()!.kernelVersion} with 128 MiB, Node ${process.versions.node}, ${cpus().length} cores. ${options.remark}

A value is **downtime / total time in ms**: from STOP at the sender to RESUME at the receiver, and what the sender says; over several
hops, the sums. A value stands for a pass: after each hop the guest showed that it goes on. A loaded guest counts without a gap or a
repetition, and compares disk, memory and results with what they must be, at the end all of them. An idle one sleeps while it moves, is
woken by its own timer, finds the checksums of memory and disk unchanged, and answers to what is typed. With \`file\`, downtime
includes reading: the receiver begins when the file is complete.

Guests are named by load, bus of the disk, and harts. Between two stock machines the same guest moves for comparison; in italics where
it fell silent or was damaged. For idle guests the reason is known (stock arms no RISC-V timer when it loads a guest, see
docs/stock-qemu.md), for busy ones with two harts it is likely the same (there, too). "Run N": in the runs before it, stock 7.2 lost pages of the busy guest, which the guest noticed (${again} cells).
`
}
