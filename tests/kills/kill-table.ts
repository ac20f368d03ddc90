/**
 * What all kills so far came to, as docs/kills.md.
 *
 *   npx -y pnpm@12 kills:table [--write] [FILE ...]      by default what the scripts have left in .cache/kills.jsonl
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type KillResult, NO_KILL, RESULTS, VIOLATION } from './campaign.ts'

/** The lines of a result file; one that was being written when its script was ended is left out. */
export function readResults(text: string): KillResult[] {
  return text.split('\n').flatMap((line) => {
    try {
      return line === '' ? [] : [JSON.parse(line) as KillResult]
    } catch {
      return []
    }
  })
}

const groupedBy = <T>(items: readonly T[], key: (item: T) => string): [string, T[]][] =>
  [...Map.groupBy(items, key)].sort(([a], [b]) => (a < b ? -1 : 1))

const isKill = ({ fate }: KillResult): boolean => !NO_KILL.includes(fate)
const violations = (results: readonly KillResult[]): number => results.filter(({ fate }) => fate === VIOLATION).length
const row = (...cells: (string | number)[]): string => `| ${cells.join(' | ')} |`

/** The tables, in Markdown: modes and their pairs, and then what became of the guest for each victim. */
export function killTables(results: readonly KillResult[]): string {
  const kills = results.filter(isKill)
  const lines = [
    row('way', 'pair', 'kills', 'distinct strikes', 'violations'),
    '|---|---|---:|---:|---:|',
    ...groupedBy(kills, ({ mode, pair }) => row(mode, pair)).map(([, group]) => {
      const steps = new Set(group.map(({ step, victim }) => `${victim} ${step}`))
      return row(group[0]!.mode, group[0]!.pair, group.length, steps.size, violations(group))
    }),
    row('**all**', '', kills.length, '', violations(kills)),
    '',
    row('way', 'pair', 'struck', 'kills', 'what became of the guest'),
    '|---|---|---|---:|---|',
    ...groupedBy(kills, ({ mode, pair, victim }) => row(mode, pair, victim)).map(([, group]) => {
      const fates = groupedBy(group, ({ fate }) => fate).map(([fate, { length }]) => `${fate} ${length}`)
      const { mode, pair, victim } = group[0]!
      return row(mode, pair, victim, group.length, fates.join(', '))
    }),
  ]
  return lines.join('\n')
}

/** What was tried and struck nothing, and under what circumstances all of it was made. */
export function circumstances(results: readonly KillResult[]): string {
  const days = [...new Set(results.map(({ at }) => at.slice(0, 10)))].sort()
  const commits = [...new Set(results.map(({ commit }) => commit))]
  const loads = results.map(({ load }) => load)
  const none = groupedBy(
    results.filter((result) => !isKill(result)),
    ({ fate }) => fate,
  ).map(([fate, { length }]) => `${fate} ${length}`)
  const again = results.reduce((sum, { notStruck }) => sum + notStruck.length, 0)
  return [
    `Made on ${days.join(', ')} at ${commits.join(', ')}, with a load average of ${Math.min(...loads)} to ${Math.max(...loads)}.`,
    `Not counted, because nothing was struck: ${none.join(', ') || 'none'}; tries that were made again: ${again}.`,
  ].join('\n')
}

if (import.meta.filename === process.argv[1]) {
  const { values, positionals } = parseArgs({ options: { write: { type: 'boolean' } }, allowPositionals: true })
  const files = positionals.length > 0 ? positionals : [RESULTS]
  const results = files.flatMap((path) => readResults(readFileSync(path, 'utf8')))
  const tables = `${circumstances(results)}\n\n${killTables(results)}`
  console.log(tables)
  if (values.write) {
    const path = join(import.meta.dirname, '../../docs/kills.md')
    const [before, , after] = readFileSync(path, 'utf8').split(/<!-- (?:kills:table|end) -->\n/)
    writeFileSync(path, `${before}<!-- kills:table -->\n${tables}\n<!-- end -->\n${after}`)
  }
}
