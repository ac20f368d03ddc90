import type { Cell, System } from './cells.ts'
import type { Measured } from './measure.ts'

export interface Sample {
  readonly cell: string
  readonly system: System
  /** Or why there is nothing. */
  readonly measured: Measured | string
}

interface Column {
  readonly title: string
  readonly value: (m: Measured) => number | undefined
  readonly digits: number
  /** Which way is the better one. */
  readonly better: 'less' | 'more' | 'neither'
}

const ms = (title: string, value: Column['value']): Column => ({ title, value, digits: 0, better: 'less' })
const COLUMNS: readonly Column[] = [
  ms('total ms', (m) => m.totalMs),
  { title: 'sent MB', value: (m) => m.sentMB, digits: 0, better: 'neither' },
  { title: 'MB/s', value: (m) => m.mbPerSecond, digits: 0, better: 'more' },
  ms('downtime ms', (m) => m.downtimeMs),
  ms('as the source says', (m) => m.ownDowntimeMs),
  { title: 'passes', value: (m) => m.passes, digits: 0, better: 'neither' },
  { title: 'guest speed', value: (m) => m.guestSpeed && m.guestSpeed * 100, digits: 0, better: 'more' },
  { title: 'guest writes MB/s', value: (m) => m.writtenMBPerSecond, digits: 0, better: 'more' },
  ms('source CPU ms', (m) => m.sourceCpuMs),
  ms('destination CPU ms', (m) => m.destinationCpuMs),
  ms('faults', (m) => m.faults?.count),
  ms('fault p50 us', (m) => m.faults?.p50Us),
  ms('fault p99 us', (m) => m.faults?.p99Us),
  ms('restore ms', (m) => m.restoreMs),
]

/** A table per way to move: a row per system, medians with their spread. */
export function comparisonTables(cells: readonly Cell[], samples: readonly Sample[]): string {
  return cells
    .map((cell) =>
      table(
        cell,
        samples.filter((sample) => sample.cell === cell.name),
      ),
    )
    .filter((text) => text !== '')
    .join('\n\n')
}

function table(cell: Cell, samples: readonly Sample[]): string {
  if (samples.length === 0) return ''
  const measured = samples.flatMap(({ measured: m }) => (typeof m === 'string' ? [] : [m]))
  const columns = COLUMNS.filter(({ value }) => measured.some((m) => value(m) !== undefined))
  const rows = cell.systems.flatMap((system) => {
    const own = samples.filter((sample) => sample.system === system)
    if (own.length === 0) return []
    const good = own.flatMap(({ measured: m }) => (typeof m === 'string' ? [] : [m]))
    const failures = own.flatMap(({ measured: m }) => (typeof m === 'string' ? [m] : []))
    const runs = failures.length > 0 ? `${good.length} (of ${own.length}: ${failures[0]})` : `${good.length}`
    return [`| ${system} to ${system} | ${runs} | ${columns.map((c) => spread(c, good)).join(' | ')} |`]
  })
  return [
    `## ${cell.name}`,
    '',
    `| | runs | ${columns.map(({ title }) => title).join(' | ')} |`,
    `| --- | ---: | ${columns.map(() => '---:').join(' | ')} |`,
    ...rows,
  ].join('\n')
}

function spread({ value, digits, title }: Column, measured: readonly Measured[]): string {
  const values = measured.flatMap((m) => value(m) ?? []).sort((a, b) => a - b)
  if (values.length === 0) return ''
  const unit = title === 'guest speed' ? ' %' : ''
  const [low, high] = [values[0]!.toFixed(digits), values.at(-1)!.toFixed(digits)]
  const middle = values[values.length >> 1]!.toFixed(digits)
  return low === high ? `${middle}${unit}` : `**${middle}**${unit} (${low} to ${high})`
}

/** Figures in which the median of emu is the worse one, as lines. */
export function worse(cells: readonly Cell[], samples: readonly Sample[]): string[] {
  const medianOf = (cell: string, system: System, { value }: Column) => {
    const values = samples
      .flatMap((s) => (s.cell === cell && s.system === system && typeof s.measured !== 'string' ? [s.measured] : []))
      .flatMap((m) => value(m) ?? [])
      .sort((a, b) => a - b)
    return values[values.length >> 1]
  }
  return cells.flatMap((cell) =>
    COLUMNS.flatMap((column) => {
      const own = medianOf(cell.name, 'emu', column)
      return cell.systems.flatMap((system) => {
        const other = system === 'emu' ? undefined : medianOf(cell.name, system, column)
        if (own === undefined || other === undefined || column.better === 'neither') return []
        if (column.better === 'less' ? own <= other : own >= other) return []
        return [`${cell.name}, ${column.title}: ${own.toFixed(1)}, ${system} ${other.toFixed(1)}`]
      })
    }),
  )
}
