/**
 * `pnpm bench:stock`: the same guest (1 GiB, 700 MB of it random) moved from `emu` to `emu`, from stock QEMU 10.0 to 10.0, and from
 * 7.2 to 7.2, in turn, on this machine.
 *
 *     --only TEXT      ways whose name contains it ("precopy, 200", "multifd 2")
 *     --system NAME    emu, 10.0 or 7.2; several times for several [all]
 *     --rounds N       moves of each system [5]
 *     --seconds N      begins no round after so long
 *     --resume         adds to what .cache/side-by-side.jsonl has
 *     --table          prints what is there, and measures nothing
 *     --write          the tables go to docs/side-by-side.md, too
 *     --remark TEXT    for the heading: under what circumstances it was measured
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { stockQemu10 } from '../../stock-qemu/stock-10.ts'
import { scratchFolder, stockQemuMissing } from '../../stock-qemu/stock-qemu.ts'
import { benchImage } from '../bench-guest.ts'
import { CELLS, FILLED_MIB, RAM_MIB, type System } from './cells.ts'
import { Traveller } from './measure.ts'
import { comparisonTables, type Sample, worse } from './table.ts'

const root = join(import.meta.dirname, '../../..')
const path = join(root, '.cache/side-by-side.jsonl')
const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [''] },
    system: { type: 'string', multiple: true, default: ['emu', '10.0', '7.2'] },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: 'Infinity' },
    resume: { type: 'boolean', default: false },
    table: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    remark: { type: 'string', default: '' },
  },
})
const systems = options.system.filter(
  (system) => system === 'emu' || (system === '10.0' ? stockQemu10() !== undefined : stockQemuMissing() === undefined),
) as System[]

mkdirSync(join(root, '.cache'), { recursive: true })
if (!options.resume && !options.table) rmSync(path, { force: true })
const samples: Sample[] = !existsSync(path)
  ? []
  : readFileSync(path, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line))
if (!options.table) await measureAll()

const tables = comparisonTables(CELLS, samples)
console.log(`\n${tables}\n`)
for (const line of worse(CELLS, samples)) console.log(`worse than stock: ${line}`)
if (options.write) writeFileSync(join(root, 'docs/side-by-side.md'), `${heading()}\n${tables}\n`)

async function measureAll(): Promise<void> {
  const folder = scratchFolder()
  const image = join(folder.path, 'bench.bin')
  writeFileSync(image, benchImage)
  const travellers = new Map<System, Traveller>()
  const began = performance.now()
  try {
    for (const cell of CELLS.filter(({ name }) => options.only.some((text) => name.includes(text)))) {
      for (let round = 0; round < Number(options.rounds); round++) {
        if (performance.now() - began > Number(options.seconds) * 1000) return
        for (const system of cell.systems.filter((s) => systems.includes(s))) {
          let measured: Sample['measured']
          try {
            if (!travellers.has(system)) travellers.set(system, await Traveller.start(system, folder.path, image))
            measured = await travellers.get(system)!.measure(cell)
          } catch (error) {
            measured = (error as Error).message
            travellers.get(system)?.[Symbol.dispose]()
            travellers.delete(system)
          }
          const sample: Sample = { cell: cell.name, system, measured }
          samples.push(sample)
          appendFileSync(path, `${JSON.stringify(sample)}\n`)
          console.log(`${cell.name} ${system}: ${typeof measured === 'string' ? measured : JSON.stringify(measured)}`)
        }
      }
    }
  } finally {
    for (const traveller of travellers.values()) traveller[Symbol.dispose]()
    folder.remove()
  }
}

function heading(): string {
  const date = new Date().toISOString().slice(0, 10)
  return `# emu beside stock QEMU

Made by \`pnpm bench:stock --write\` on ${date}: Node ${process.versions.node}, ${cpus().length} cores for both ends and the guest. ${options.remark}

One guest of ${RAM_MIB} MiB, ${FILLED_MIB} of it random, goes from process to process over TCP on one host, without a limit of bandwidth and with
30 ms of downtime allowed; each system in turn. It writes a word to each of so many pages a second (MB/s of whole pages, over 256 MiB) and computes in
the time that is left. A value is the median (and the range of the runs).

- **downtime**: from STOP at the source to RESUME at the destination; beside it what the source says.
- **guest speed**: what the guest computes per time while it moves, as a share of what the same guest computed before. **guest writes**: what it wrote
  while it moved; where that is less than was asked, it could not do more.
- **CPU**: of all threads but the source's hart, during the whole move; without threads that wait, the better measure on a host that is busy.
- **fault**: reads of pages at random that took 10 us or longer by the guest's own clock, from the start of the migration to its end; some of them
  are those in which the host did something else.
- **restore**: from \`migrate-incoming\` to RESUME, the whole file read.
`
}
