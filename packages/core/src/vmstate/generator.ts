import { RUN_BYTES, type TableOf } from './elements.ts'
import type { ArrayForm, Row, ScalarType } from './row.ts'
import type { RowCodec, TableCodec } from './table-codec.ts'

/**
 * Source text for the rows of tables in their own version. What is rare or has an own encoding (predicates, lists,
 * custom rows) stays a call into the interpreter's row; hooks, versions and subsections stay with the interpreter too.
 * The text depends on nothing but the structure of the tables, so that it can be written to a file at build time.
 */
export function generateSource(units: readonly TableCodec[], tableOf: TableOf): string {
  const index = new Map(units.map((unit, n) => [unit, n]))
  const numberOf = (row: Row): number => {
    const { element } = row
    return element.kind === 'struct' ? index.get(tableOf(element.vmstate))! : -1
  }
  const parts = units.map((unit, n) => unitSource(unit, n, units, numberOf))
  const list = units.map((_, n) => `{ put: put${n}, load: load${n} }`).join(', ')
  return [...parts, `return [${list}]`].join('\n')
}

/** All tables that take part, nested ones and subsections included, each once, in a fixed order. */
export function collectUnits(root: TableCodec, tableOf: TableOf): TableCodec[] {
  const units = new Set<TableCodec>()
  const visit = (table: TableCodec): void => {
    if (units.has(table)) return
    units.add(table)
    for (const { row } of table.rows) {
      const { element } = row
      if ('vmstate' in element) visit(tableOf(element.vmstate))
      if (element.kind === 'gtree') {
        if (element.key) visit(tableOf(element.key))
        visit(tableOf(element.value))
      }
    }
    for (const { codec } of table.subsections) visit(codec)
  }
  visit(root)
  return [...units]
}

/** Rows that are read with one check of what is available. */
interface Run {
  readonly first: number
  readonly last: number
  readonly bytes: number
}

const isFixed = ({ row, bytes, take }: RowCodec): boolean => bytes !== undefined && take !== undefined && !row.when

/** Every row of a table that nothing in the state can make longer or shorter. */
function flatRun(table: TableCodec): Run | undefined {
  const bytes = table.rows.reduce((sum, row) => sum + (row.bytes ?? 0), 0)
  return table.rows.every(isFixed) && bytes <= RUN_BYTES ? { first: 0, last: table.rows.length - 1, bytes } : undefined
}

type NumberOf = (row: Row) => number

function unitSource(table: TableCodec, n: number, units: readonly TableCodec[], numberOf: NumberOf): string {
  const { rows } = table
  const lines = [`// ${JSON.stringify(table.name)}, version ${table.version}`, `const R${n} = U[${n}].rows`]

  lines.push(`function put${n}(s, o) {`, '  let r = 0', '  try {')
  rows.forEach((row, r) => {
    if (r > 0) lines.push(`    r = ${r}`)
    const put = putSource(row, `R${n}[${r}]`, table.version, units, numberOf)
    lines.push(row.row.when ? `    if (R${n}[${r}].row.when(s, ${table.version})) { ${put} }` : `    ${put}`)
  })
  lines.push(`  } catch (e) { throw rt.locate(e, R${n}[r].key) }`, '}')

  const body: string[] = []
  let run: Run | undefined
  const closeRun = (): void => {
    if (!run) return
    lines.push(...runSource(n, run, rows, table.version))
    body.push(`  ${ensureSource(n, table.version, run)}; run${n}_${run.first}(s, i)`)
    run = undefined
  }
  rows.forEach((row, r) => {
    if (isFixed(row)) {
      if (run && run.bytes + row.bytes! > RUN_BYTES) closeRun()
      run = { first: run?.first ?? r, last: r, bytes: (run?.bytes ?? 0) + row.bytes! }
      return
    }
    closeRun()
    const load = loadSource(row, n, r, table.version, units, numberOf)
    const guarded = `const b = i.position; try { ${load} } catch (e) { throw rt.locate(e, R${n}[${r}].key, b) }`
    body.push(row.row.when ? `  if (R${n}[${r}].row.when(s, ${table.version})) { ${guarded} }` : `  { ${guarded} }`)
  })
  closeRun()
  lines.push(`function* load${n}(s, i) {`, ...body, '}')
  return lines.join('\n')
}

const ensureSource = (n: number, version: number, { first, last, bytes }: Run): string =>
  `if (i.available < ${bytes}) { yield ${bytes}; if (i.available < ${bytes}) rt.short(R${n}, ${first}, ${last}, s, i, ${version}) }`

/** A plain function per run: generators are not optimized as well. */
function runSource(n: number, { first, last }: Run, rows: readonly RowCodec[], version: number): string[] {
  const lines = [`function run${n}_${first}(s, i) {`, `  let r = ${first}; const b = i.position`, '  try {']
  for (let r = first; r <= last; r++) {
    if (r > first) lines.push(`    r = ${r}`)
    lines.push(`    ${takeSource(rows[r]!, `R${n}[${r}]`, version)}`)
  }
  lines.push(`  } catch (e) { throw rt.locateInRun(e, R${n}, ${first}, r, b) }`, '}')
  return lines
}

const member = (key: string): string => (/^[A-Za-z_$][\w$]*$/.test(key) ? `s.${key}` : `s[${JSON.stringify(key)}]`)

const PUT: Readonly<Partial<Record<ScalarType, (v: string) => string>>> = {
  bool: (v) => `o.putByte(${v} ? 1 : 0)`,
  u8: (v) => `o.putByte(${v})`,
  i8: (v) => `o.putByte(${v})`,
  u16: (v) => `o.putBe16(${v})`,
  i16: (v) => `o.putBe16(${v})`,
  u32: (v) => `o.putBe32(${v})`,
  i32: (v) => `o.putBe32(${v})`,
  u64: (v) => `o.putBe64(${v})`,
  i64: (v) => `o.putBe64(${v})`,
  cpuDouble: (v) => `o.putBe64(${v})`,
}
const TAKE: Readonly<Partial<Record<ScalarType, string>>> = {
  bool: 'i.getByte() !== 0',
  u8: 'i.getByte()',
  i8: '(i.getByte() << 24) >> 24',
  u16: 'i.getBe16()',
  i16: '(i.getBe16() << 16) >> 16',
  u32: 'i.getBe32()',
  i32: 'i.getBe32() | 0',
  u64: 'i.getBe64()',
  i64: 'BigInt.asIntN(64, i.getBe64())',
  cpuDouble: 'i.getBe64()',
}

/** First and one past the last index that travels, of a typed array whose length is fixed. */
function typedRange(array: ArrayForm): [number, number] | undefined {
  if (array.storage !== 'typed' || array.pointers || typeof array.count !== 'number') return undefined
  return [array.start, array.start + array.count]
}

function putSource(
  row: RowCodec,
  name: string,
  version: number,
  units: readonly TableCodec[],
  numberOf: NumberOf,
): string {
  const { array, element, padding } = row.row
  const value = member(row.key)
  const call = `${name}.put(s, o, ${version})`
  if (element.kind === 'scalar') {
    const put = PUT[element.type]
    if (!put) return call
    if (!array) return put(value)
    const range = typedRange(array)
    if (!range) return call
    const [from, to] = range
    const whole = element.type === 'u8' && from === 0
    const all = whole
      ? `o.putBuffer(a.length === ${to} ? a : a.subarray(0, ${to}))`
      : `for (let j = ${from}; j < ${to}; j++) ${put('a[j]')}`
    return `{ const a = ${value}; if (a.length < ${to}) ${call}; else ${all} }`
  }
  if (element.kind === 'timer' && !array) return `o.putBe64(${value}.expireNs)`
  const child = units[numberOf(row.row)]
  if (!child || padding || !savesDirectly(row.row, child)) return call
  const put = (v: string) => `put${numberOf(row.row)}(${v}, o)`
  if (!array) return put(value)
  if (typeof array.count !== 'number' || array.pointers) return call
  const to = array.start + array.count
  const loop = `let k = ${array.start}; try { for (; k < ${to}; k++) ${put('a[k]')} } catch (e) { throw rt.locate(e, '[' + k + ']') }`
  return `{ const a = ${value}; if (a.length < ${to}) ${call}; else { ${loop} } }`
}

/** Nothing but rows: no hooks, no subsections, in the table's own version. */
const savesDirectly = (row: Row, { hooks, subsections, version }: TableCodec): boolean =>
  !hooks.preSave && !hooks.postSave && subsections.length === 0 && ownVersion(row, version)
const ownVersion = ({ element }: Row, version: number): boolean =>
  element.kind === 'struct' && (element.version ?? version) === version

function takeSource(row: RowCodec, name: string, version: number): string {
  const { array, element } = row.row
  const value = member(row.key)
  const call = `${name}.take(s, i, ${version})`
  if (element.kind === 'unused' && !array) return `i.skip(${element.bytes})`
  if (element.kind === 'timer' && !array) return `${value}.expireNs = BigInt.asIntN(64, i.getBe64())`
  if (element.kind !== 'scalar' || element.check) return call
  const take = TAKE[element.type]
  if (!take) return call
  if (!array) return `${value} = ${take}`
  const range = typedRange(array)
  if (!range) return call
  const [from, to] = range
  const whole = element.type === 'u8' && from === 0
  const all = whole
    ? `i.getBuffer(a.length === ${to} ? a : a.subarray(0, ${to}))`
    : `for (let j = ${from}; j < ${to}; j++) a[j] = ${take}`
  return `{ const a = ${value}; if (a.length < ${to}) ${call}; else ${all} }`
}

function loadSource(
  row: RowCodec,
  n: number,
  r: number,
  version: number,
  units: readonly TableCodec[],
  numberOf: NumberOf,
): string {
  const { array } = row.row
  const name = `R${n}[${r}]`
  const call = `yield* ${name}.load(s, i, ${version})`
  if (row.bytes !== undefined) {
    // Only rows with a predicate come here; their name is added by the caller.
    const short = `i.available < ${row.bytes}`
    return `if (${short}) { yield ${row.bytes}; if (${short}) throw rt.truncatedRow(${row.bytes}, i) } ${takeSource(row, name, version)}`
  }
  const c = numberOf(row.row)
  const child = units[c]
  const flat = child && flatRun(child)
  if (!child || !flat || child.hooks.preLoad || child.hooks.postLoad || !ownVersion(row.row, child.version)) return call
  const direct = [
    `if (i.available <= ${flat.bytes}) { yield ${flat.bytes + 1}; if (i.available < ${flat.bytes}) rt.short(R${c}, 0, ${flat.last}, x, i, ${child.version}) }`,
    child.rows.length > 0 ? `run${c}_0(x, i)` : '',
    `if (i.peekByte(0) === 5) yield* U[${c}].loadSubsections(x, i)`,
  ].join('; ')
  if (!array) return `const x = ${member(row.key)}; ${direct}`
  if (typeof array.count !== 'number' || array.pointers) return call
  const to = array.start + array.count
  const loop = `for (; k < ${to}; k++) { at = i.position; const x = a[k]; ${direct} }`
  const located = `let k = ${array.start}, at = 0; try { ${loop} } catch (e) { throw rt.locate(e, '[' + k + ']', at) }`
  return `const a = ${member(row.key)}; if (a.length < ${to}) { ${call} } else { ${located} }`
}
