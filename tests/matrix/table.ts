/** The matrix as Markdown. */
import type { Journey } from '../harness/journey.ts'
import { TRANSPORTS } from '../harness/passages.ts'
import type { CellResult } from './results.ts'
import { BUSES, bridgeName, cellName, type Direction, GUESTS, HARTS, RELEASES } from './routes.ts'

const DIRECTIONS: readonly Direction[] = ['to emu', 'from emu', 'through emu', 'stock pair']
type Results = ReadonlyMap<string, CellResult>

/** @param rounds of the bridge */
export function matrixTables(results: Results, rounds: number): string {
  const notes: string[] = []
  const cell = (name: string, comparison = false) => {
    const result = results.get(name)
    if (!result) return ''
    const { ok, downtimeMs, totalMs, note, lostByStock } = result
    const times = `${sum(downtimeMs)} / ${sum(totalMs)}`
    // Asleep for ever, as every idle guest between stock machines: the heading says why.
    if (comparison && / idle,/.test(name)) return ok ? times : `*${times}*`
    if (!ok) notes.push(`${name}: ${(note ?? '').replace(/; last output.*$/s, '').replaceAll('|', '/')}`)
    const reference = ok ? '' : ` [${notes.length}]`
    if (comparison) return ok ? times : `*${times}*${reference}`
    const again = lostByStock > 0 ? ` (run ${lostByStock + 1})` : ''
    return ok ? `${times}${again}` : `**fails**${reference}`
  }
  const parts: string[] = [...medians(results)]
  for (const release of RELEASES) {
    const other = RELEASES.find((r) => r !== release)
    const titles: Record<Direction, string> = {
      'to emu': `${release} > emu`,
      'from emu': `emu > ${release}`,
      'through emu': `${release} > emu > ${other}`,
      'stock pair': `${release} > ${release}`,
      'booted on emu': `emu > ${release} > emu`,
    }
    parts.push(
      `## ${release}\n`,
      row(['guest', 'way', ...TRANSPORTS]),
      row(['---', '---', ...TRANSPORTS.map(() => '---:')]),
    )
    for (const guest of GUESTS) {
      for (const bus of BUSES) {
        for (const harts of HARTS) {
          for (const direction of DIRECTIONS) {
            const comparison = direction === 'stock pair'
            const values = TRANSPORTS.map((t) =>
              cell(cellName(release, direction, t, { guest, bus, harts }), comparison),
            )
            const title = comparison ? `*${titles[direction]}*` : titles[direction]
            parts.push(row([guestName({ guest, bus, harts }), title, ...values]))
          }
        }
      }
    }
    parts.push('')
  }
  parts.push(
    '## Booted on emu, and the bridge\n',
    row(['guest', 'way', 'downtime / total']),
    row(['---', '---', '---:']),
  )
  for (const release of RELEASES) {
    for (const guest of GUESTS) {
      for (const bus of BUSES) {
        for (const harts of HARTS) {
          const value = cell(cellName(release, 'booted on emu', 'tcp', { guest, bus, harts }))
          parts.push(row([guestName({ guest, bus, harts }), `emu > ${release} > emu`, value]))
        }
      }
    }
  }
  for (const guest of GUESTS) {
    const hops = rounds * 4
    const way = `7.2 > emu > 10.0 > emu > 7.2, ${rounds} rounds (sum of ${hops} hops)`
    parts.push(row([guestName({ guest, bus: 'pcie.0', harts: 1 }), way, cell(bridgeName(guest, rounds))]))
  }
  if (notes.length > 0) parts.push('', '## Notes', '', ...notes.map((note, index) => `${index + 1}. ${note}`))
  return `${parts.join('\n')}\n`
}

/** What is usual, beside what is usual between stock machines. */
function medians(results: Results): string[] {
  const rows: string[] = []
  for (const guest of GUESTS) {
    for (const release of RELEASES) {
      for (const direction of ['to emu', 'from emu', 'stock pair'] as const) {
        const values = TRANSPORTS.map((transport) => {
          const found = BUSES.flatMap((bus) =>
            HARTS.flatMap((harts) => results.get(cellName(release, direction, transport, { guest, bus, harts })) ?? []),
          ).filter(({ downtimeMs }) => downtimeMs.length > 0)
          const of = (times: (result: CellResult) => readonly number[]) => median(found.map((r) => sum(times(r))))
          return found.length === 0 ? '' : `${of((r) => r.downtimeMs)} / ${of((r) => r.totalMs)}`
        })
        const way = {
          'to emu': `${release} > emu`,
          'from emu': `emu > ${release}`,
          'stock pair': `*${release} > ${release}*`,
        }
        rows.push(row([guest, way[direction], ...values]))
      }
    }
  }
  const head = [row(['guest', 'way', ...TRANSPORTS]), row(['---', '---', ...TRANSPORTS.map(() => '---:')])]
  return ['## Medians over bus and harts\n', ...head, ...rows, '']
}

const median = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1]!
const sum = (numbers: readonly number[]) => Math.round(numbers.reduce((a, b) => a + b, 0))
const row = (values: readonly string[]) => `| ${values.join(' | ')} |`
const guestName = ({ guest, bus, harts }: Pick<Journey, 'guest' | 'bus' | 'harts'>) =>
  `${guest}, ${bus === 'pcie.0' ? 'PCI' : 'MMIO'}, ${harts}`
