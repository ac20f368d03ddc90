import type { SectionReport } from '../inspect/report.ts'
import { leafType, type StateNode } from '../state/state-node.ts'
import type { DumpedTable } from '../vmstate/dump.ts'
import { type Finding, versionFinding } from './finding.ts'

/** Why a receiver with this table would not read the section; empty: nothing speaks against it. */
export function compareWithDump(section: SectionReport, table: DumpedTable): Finding[] {
  const where = `${section.idstr}/${section.instanceId}`
  const { name, minimumVersion, version } = table
  const verdict = versionFinding(where, name, section.version, minimumVersion, version, 'the receiver')
  if (verdict) return [verdict]
  return section.state ? [...compareFields(where, section.state, section.version, table)] : []
}

function* compareFields(where: string, state: StateNode, version: number, table: DumpedTable): Generator<Finding> {
  const bare = (name: string) => name.replace(/\[\d+\]$/, '')
  const sent = state.fields.map((f) => bare(f.name))
  const known = table.fields.map((f) => f.name)
  for (const field of state.fields) {
    const mine = table.fields.find((f) => f.name === bare(field.name))
    if (!mine) {
      yield { kind: 'rejected', where, what: `the receiver's ${table.name} has no field ${field.name}` }
      continue
    }
    const size = field.array ? undefined : field.bytes
    if (
      size !== undefined &&
      leafType(field.type, size) &&
      !mine.table &&
      mine.size !== size &&
      [1, 2, 4, 8].includes(mine.size)
    )
      yield { kind: 'rejected', where, what: `${field.name} has ${size} bytes, the receiver's has ${mine.size}` }
    const nested = field.values[0]
    if (mine.table && typeof nested === 'object' && 'fields' in nested)
      yield* compareFields(where, nested, nested.version, mine.table)
  }
  for (const field of table.fields)
    if (
      !field.conditional &&
      field.sinceVersion <= version &&
      !sent.includes(field.name) &&
      field.size > 0 &&
      !field.name.startsWith('unused')
    )
      yield {
        kind: 'note',
        where,
        what: `the receiver's ${table.name} has a field ${field.name} that the stream lacks (an array may be empty)`,
      }
  const order = sent.filter((name, i) => known.includes(name) && sent.indexOf(name) === i)
  const theirs = known.filter((name, i) => sent.includes(name) && known.indexOf(name) === i)
  if (order.join() !== theirs.join())
    yield { kind: 'rejected', where, what: `the receiver's ${table.name} has its fields in another order` }
  for (const sub of state.subsections) {
    const mine = table.subsections.find((s) => s.name === sub.name)
    if (!mine) yield { kind: 'rejected', where, what: `the receiver does not know subsection ${sub.name}` }
    else {
      const verdict = versionFinding(where, sub.name, sub.version, mine.minimumVersion, mine.version, 'the receiver')
      if (verdict) yield verdict
      else yield* compareFields(where, sub, sub.version, mine)
    }
  }
}
