import { VmstateDefinitionError } from '../errors/vmstate-error.ts'
import type { FieldTable } from './field.ts'
import type { CountFrom, Row } from './row.ts'
import type { SubsectionTable, VmstateTable } from './table.ts'

const COUNT_TYPES = new Set(['u8', 'u16', 'u32', 'i32', 'u64Number'])

/** @throws VmstateDefinitionError what a table cannot be */
export function checkTable(table: VmstateTable<any, any>): void {
  const fail = (row: string, detail: string): never => {
    throw new VmstateDefinitionError(row, detail, { section: table.name })
  }
  if (table.name === '' || new TextEncoder().encode(table.name).length > 255) fail('', 'a name has 1 to 255 bytes')
  checkVersions(table, (detail) => fail('', detail))
  const seen = new Set<string>()
  checkRows(table.fields, table.version, seen, new Map(), fail)

  const subs = Object.entries((table.subsections ?? {}) as Record<string, SubsectionTable<FieldTable, any>>)
  for (const [name, sub] of subs) {
    const where = (detail: string) => fail(name, detail)
    checkVersions({ version: sub.version ?? 1, minimumVersion: sub.minimumVersion }, where)
    const parent = sub.inside ?? table.name
    if (sub.inside !== undefined && !(sub.inside in table.subsections!)) where(`there is no subsection '${sub.inside}'`)
    if (!name.startsWith(parent) || name.length <= parent.length) where(`the name must start with '${parent}'`)
    if (new TextEncoder().encode(name).length > 255) where('a name has at most 255 bytes')
    for (const [other, { inside }] of subs) {
      if (other !== name && inside === sub.inside && other.startsWith(name)) {
        where(`'${other}' begins with it: a loader would look for that one inside of this one`)
      }
    }
    checkRows(sub.fields, sub.version ?? 1, seen, rowsByKey(table.fields), (row, detail) =>
      fail(`${name}.${row}`, detail),
    )
  }
}

function checkVersions(t: { version: number; minimumVersion?: number }, fail: (detail: string) => void): void {
  const minimum = t.minimumVersion ?? t.version
  for (const v of [t.version, minimum]) {
    if (!Number.isInteger(v) || v < 0 || v > 0xffff_ffff) fail(`${v} is not a version (0 to 2^32 - 1)`)
  }
  if (minimum > t.version) fail(`minimumVersion ${minimum} is above version ${t.version}`)
}

const rowsByKey = (fields: FieldTable) => new Map(Object.entries(fields) as unknown as [string, Row][])

function checkRows(
  fields: FieldTable,
  version: number,
  seen: Set<string>,
  above: Map<string, Row>,
  fail: (row: string, detail: string) => void,
): void {
  for (const [key, row] of rowsByKey(fields)) {
    if (/^(0|[1-9]\d*)$/.test(key)) fail(key, 'JavaScript would reorder a row with an integer as its name')
    if (key === '__proto__') fail(key, 'this name is taken by JavaScript')
    if (typeof row !== 'object' || row === null || !('element' in row)) fail(key, 'this is not a row')
    if (!row.padding && seen.has(key)) fail(key, 'the same name is a row of another part of the table')
    if (!row.padding) seen.add(key)
    if (row.since > version && !row.when) fail(key, `since ${row.since} is above version ${version}`)
    const { element, array } = row
    for (const count of [array?.count, 'size' in element ? element.size : undefined]) {
      if (typeof count === 'object') checkCount(key, count, above, fail)
      else if (count !== undefined && (!Number.isInteger(count) || count < 0)) fail(key, `${count} is not a length`)
    }
    if (element.kind === 'list' || element.kind === 'tmp' || element.kind === 'gtree') {
      const children = element.kind === 'gtree' ? [element.key, element.value] : [element.vmstate]
      for (const child of children) {
        if (child && (row.since < child.minimumVersion || row.since > child.version)) {
          const range = `${child.minimumVersion} to ${child.version}`
          fail(key, `elements travel in version ${row.since} (since), and '${child.name}' reads ${range}`)
        }
      }
    }
    if (element.kind === 'struct' && element.version !== undefined && element.version > element.vmstate.version) {
      fail(key, `version ${element.version} is above version ${element.vmstate.version} of '${element.vmstate.name}'`)
    }
    above.set(key, row)
  }
}

function checkCount(
  key: string,
  count: CountFrom,
  above: Map<string, Row>,
  fail: (row: string, detail: string) => void,
): void {
  if (typeof count.from === 'function') return
  const row = above.get(count.from)
  if (!row) fail(key, `its length is row '${count.from}', which must be listed above it`)
  else if (row.array || row.element.kind !== 'scalar' || !COUNT_TYPES.has(row.element.type)) {
    fail(key, `its length is row '${count.from}', which is not a number`)
  }
}
