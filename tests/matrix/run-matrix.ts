/**
 * `pnpm matrix`: Linux moved between `emu` and stock QEMU 7.2 and 10.0 in every way, as a table.
 *
 * Options: `--repeat=3` rounds per cell, `--only=TEXT` cells whose name contains it, `--transports=tcp,unix`, `--rounds=10`
 * for the bridge. A cell passes when the guest itself says so after every arrival (see tests/harness/journey.ts). Cells of
 * two stock machines are there for comparison and are allowed to fail. Exit status 1 when a cell of ours fails.
 */
import { type Hop, type Journey, travelGuarded } from '../harness/journey.ts'
import type { PeerKind } from '../harness/peers.ts'
import { stockQemu10 } from '../stock-qemu/stock-10.ts'
import { scratchFolder } from '../stock-qemu/stock-qemu.ts'

const option = (name: string, otherwise: string) =>
  process.argv.find((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3) ?? otherwise
const repeat = Number(option('repeat', '3'))
const rounds = Number(option('rounds', '10'))
const only = option('only', '')
const transports = option('transports', 'tcp,unix').split(',') as ('tcp' | 'unix')[]

/** For guests that boot on 10.0 and are to go to 7.2: without what a 7.2 hart lacks. */
const PLAIN = 'rv64,zicboz=off,zicbom=off,zawrs=off'

interface Cell {
  readonly name: string
  readonly journey: Journey
  /** Two stock machines: shown, not judged. */
  readonly comparison?: boolean
}

const ours = (release: '7.2' | '10.0'): PeerKind => `emu-${release}`
const cells: Cell[] = []
for (const guest of ['idle', 'load'] as const) {
  for (const bus of ['pcie.0', 'virtio-mmio'] as const) {
    for (const harts of [1, 2]) {
      for (const transport of transports) {
        const add = (machines: PeerKind[], more: Partial<Journey> = {}, comparison = false) => {
          const name = [machines.join(' > '), guest, bus, `${harts} hart${harts > 1 ? 's' : ''}`, transport].join(', ')
          cells.push({ name, journey: { machines, guest, bus, harts, transport, ...more }, comparison })
        }
        for (const release of ['7.2', '10.0'] as const) {
          add([ours(release), release])
          add([release, ours(release)])
          add([release, ours(release), release])
          if (guest === 'load') add([release, release], {}, true)
        }
        add(['7.2', 'emu-10.0', '10.0'])
        add(['10.0', 'emu-7.2', '7.2'], { cpu10: PLAIN })
      }
    }
  }
}
const thereAndBack: PeerKind[] = ['7.2']
for (let i = 0; i < rounds; i++) thereAndBack.push('emu-10.0', '10.0', 'emu-7.2', '7.2')
for (const guest of ['idle', 'load'] as const) {
  cells.push({
    name: `bridge, ${rounds} rounds of 7.2 > emu > 10.0 > emu > 7.2, ${guest}`,
    journey: { machines: thereAndBack, guest, bus: 'pcie.0' },
  })
}

const median = (numbers: number[]) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1] ?? Number.NaN
const has10 = stockQemu10() !== undefined
const chosen = cells.filter((c) => c.name.includes(only) && (has10 || !c.name.includes('10.0')))
if (!has10) console.log('stock QEMU 10.0 is not here: its cells are left out')
console.log(`${chosen.length} cells, ${repeat} runs each\n`)
console.log('| cell | passed | downtime ms, last hop | total ms, last hop | note |\n|---|---|---|---|---|')
let failed = 0
for (const { name, journey, comparison } of chosen) {
  const last: Hop[] = []
  let lost = 0
  let note = ''
  const runs = name.startsWith('bridge') ? 1 : repeat
  for (let run = 0; run < runs; run++) {
    const folder = scratchFolder()
    try {
      const { hops, lostByStock } = await travelGuarded(journey, folder.path)
      last.push(hops.at(-1)!)
      lost += lostByStock
    } catch (error) {
      note = (error as Error).message.replaceAll(/\s+/g, ' ').replaceAll('|', '/').slice(0, 160)
    } finally {
      folder.remove()
    }
  }
  if (last.length < runs && !comparison) failed++
  if (lost > 0) note = `${lost} runs again, stock 7.2 lost pages. ${note}`
  const downtime = median(last.map((h) => h.downtimeMs))
  const total = median(last.map((h) => h.totalMs))
  console.log(
    `| ${name}${comparison ? ' (stock only)' : ''} | ${last.length}/${runs} | ${downtime} | ${total} | ${note} |`,
  )
}
console.log(`\n${failed === 0 ? 'all cells pass' : `${failed} cells fail`}`)
process.exit(failed === 0 ? 0 : 1)
