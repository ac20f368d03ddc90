import type { SectionReport } from '../inspect/report.ts'
import { isStateNode, leafType, type StateNode } from '../state/state-node.ts'
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
  const places = state.fields.map((field) => placeOf(field.name, table))
  for (const [i, field] of state.fields.entries()) {
    const mine = table.fields[places[i]!]
    if (!mine) {
      yield { kind: 'rejected', where, what: `the receiver's ${table.name} has no field ${field.name}` }
      continue
    }
    const integer = !field.array && !mine.table && leafType(field.type, field.bytes) !== undefined
    if (integer && mine.size !== field.bytes && [1, 2, 4, 8].includes(mine.size))
      yield { kind: 'rejected', where, what: `${field.name} has ${field.bytes} bytes, the receiver's has ${mine.size}` }
    const nested = field.values[0]
    if (mine.table && isStateNode(nested)) yield* compareFields(where, nested, nested.version, mine.table)
  }
  for (const [i, field] of table.fields.entries())
    if (!field.conditional && field.sinceVersion <= version && !places.includes(i) && field.type !== 'unused_buffer')
      yield {
        kind: 'note',
        where,
        what: `the receiver's ${table.name} has a field ${field.name} that the stream lacks (an array may be empty)`,
      }
  const known = places.filter((place) => place >= 0)
  if (known.some((place, i) => i > 0 && place < known[i - 1]!))
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

/** Of fields that share a name, a description says which one it means: `config[0]`. Spec: stream.md section 6. */
function placeOf(name: string, { fields }: DumpedTable): number {
  const exact = fields.findIndex((f) => f.name === name)
  const numbered = /^(.*)\[(\d+)\]$/.exec(name)
  if (exact >= 0 || !numbered) return exact
  const places = [...fields.keys()].filter((i) => fields[i]!.name === numbered[1])
  return places[Number(numbered[2])] ?? -1
}
