import type { QEMUFileWriter } from '../qemufile/qemufile.ts'
import { bufferWriter } from '../qemufile/qemufile-writer.ts'
import type { DescribeOptions, FieldDescription, VmdescStyle, VmstateDescription } from './description.ts'
import { countNow, NULL_MARKER } from './elements.ts'
import { exists, interpret, putSubsectionHeader, traceSave } from './interpreter.ts'
import { locateInRow, runHook } from './locate.ts'
import type { Row } from './row.ts'
import type { RowCodec, TableCodec } from './table-codec.ts'
import { vmstateTrace as trace } from './vmstate-trace.ts'

/** Saves, and describes what was written. Spec: stream.md section 6. */
export function describeTable(table: TableCodec, state: any, options: DescribeOptions = {}): VmstateDescription {
  return walkTable(table, state, table.version, options.out ?? bufferWriter(), options.style ?? '10.0')
}

function walkTable(
  table: TableCodec,
  state: any,
  version: number,
  out: QEMUFileWriter,
  style: VmdescStyle,
): VmstateDescription {
  const { hooks } = table
  trace.vmstate_save_state_top({ idstr: table.name })
  if (hooks.preSave) runHook('preSave', () => hooks.preSave!(state))
  try {
    const names = wireNames(table.rows)
    const fields = table.rows.flatMap((row, i) => {
      if (!exists(row.row, state, version)) return []
      if (trace.vmstate_save_state_loop.enabled) traceSave(table.name, row, state)
      try {
        return walkRow(row, names[i]!, state, version, out, style)
      } catch (error) {
        throw locateInRow(error, row.key, undefined)
      }
    })
    const subsections: VmstateDescription[] = []
    trace.vmstate_subsection_save_top({ idstr: table.name })
    for (const sub of table.subsections) {
      if (!sub.table.needed(state)) continue
      trace.vmstate_subsection_save_loop({ name: table.name, sub: sub.name })
      putSubsectionHeader(out, sub.name, sub.codec.version)
      subsections.push(walkTable(sub.codec, state, sub.codec.version, out, style))
    }
    const head = { vmsd_name: table.name, version, fields }
    return subsections.length > 0 ? { ...head, subsections } : head
  } finally {
    if (hooks.postSave) runHook('postSave', () => hooks.postSave!(state))
  }
}

/** Rows that share a name are numbered, whether they are there or not. */
function wireNames(rows: readonly RowCodec[]): string[] {
  const names = rows.map(({ key, row }) => row.wireName ?? key)
  const total = new Map<string, number>()
  for (const name of names) total.set(name, (total.get(name) ?? 0) + 1)
  const used = new Map<string, number>()
  return names.map((name) => {
    if (total.get(name) === 1) return name
    const k = used.get(name) ?? 0
    used.set(name, k + 1)
    return `${name}[${k}]`
  })
}

function walkRow(
  row: RowCodec,
  name: string,
  state: any,
  version: number,
  out: QEMUFileWriter,
  style: VmdescStyle,
): FieldDescription[] {
  const { array, element } = row.row
  if (element.kind === 'validate') {
    row.put(state, out, version)
    return []
  }
  if (!array) return [walkElement(row, name, state[row.key], state, version, out, style)]

  const count = countNow(array.count, state)
  if (count === 0) return []
  const compressible = isCompressible(row.row)
  const descriptions: FieldDescription[] = []
  const values = row.row.padding ? undefined : state[row.key]
  const at = (i: number) => values?.[array.start + i]
  const isNull = (i: number) => array.pointers && at(i) === null
  let run = { head: -1, length: 0 }
  for (let i = 0; i < count; i++) {
    const element = isNull(i)
      ? nullElement(row, name, out, style)
      : walkElement(row, name, at(i), state, version, out, style)
    if (!compressible) {
      const last = style === '10.0' && i === count - 1
      descriptions.push(count > 1 && !last ? withKey(element, { index: i }) : element)
      continue
    }
    // 7.2 describes the first element and says how many follow; 10.0 does so for each run of nulls and non-nulls.
    const startsRun = i === 0 || (style === '10.0' && isNull(i) !== isNull(i - 1))
    if (startsRun) {
      descriptions.push(element)
      run = { head: descriptions.length - 1, length: 0 }
    }
    run.length++
    if (run.length > 1) {
      const { array_len: _, ...head } = descriptions[run.head]!
      descriptions[run.head] = withKey(head as FieldDescription, { array_len: run.length })
    }
  }
  return descriptions
}

/** `name` comes first, then the array key: the order of the keys is the order of the text. */
function withKey(d: FieldDescription, key: { index?: number; array_len?: number }): FieldDescription {
  const { name, ...rest } = d
  return { name, ...key, ...rest }
}

function nullElement(row: RowCodec, name: string, out: QEMUFileWriter, style: VmdescStyle): FieldDescription {
  out.putByte(NULL_MARKER)
  return { name, type: style === '10.0' ? 'nullptr' : row.row.wire, size: 1 }
}

function walkElement(
  row: RowCodec,
  name: string,
  value: any,
  state: any,
  version: number,
  out: QEMUFileWriter,
  style: VmdescStyle,
): FieldDescription {
  const { element, wire } = row.row
  const before = out.position
  const field = (nested: Partial<FieldDescription> = {}): FieldDescription => ({
    name,
    type: wire,
    ...nested,
    size: out.position - before,
  })
  const walk = (vmstate: Parameters<typeof interpret>[0], child: any, childVersion = vmstate.version) =>
    walkTable(interpret(vmstate), child, childVersion, out, style)

  switch (element.kind) {
    case 'struct': {
      const nested = walk(element.vmstate, value, element.version)
      return field(element.version === undefined ? { struct: nested } : { inline: [nested] })
    }
    case 'tmp':
      return field({ inline: [walk(element.vmstate, element.from(state))] })
    case 'list': {
      const inline: VmstateDescription[] = []
      for (const item of value) {
        out.putByte(1)
        inline.push(walk(element.vmstate, item))
      }
      out.putByte(0)
      return field({ inline })
    }
    case 'gtree': {
      const inline: VmstateDescription[] = []
      const compare = element.compare
      const nodes: { key: any; value: any }[] = element.key
        ? compare
          ? [...value].sort((a: any, b: any) => compare(a.key, b.key))
          : value
        : [...value].map(([key, v]: [bigint, any]) => ({ key, value: v })).sort((a, b) => (a.key < b.key ? -1 : 1))
      out.putBe32(nodes.length)
      for (const node of nodes) {
        out.putByte(1)
        if (element.key) inline.push(walk(element.key, node.key))
        else out.putBe64(node.key)
        inline.push(walk(element.value, node.value))
      }
      out.putByte(0)
      return field({ inline })
    }
    default:
      row.element.put(value, out, state, version)
      return field()
  }
}

/** Whether one description stands for all elements of an array. */
function isCompressible(row: Row): boolean {
  if (row.when) return false
  if (row.element.kind !== 'struct' || row.element.version !== undefined) return true
  const table = interpret(row.element.vmstate)
  return table.subsections.length === 0 && table.rows.every((child) => isCompressible(child.row))
}
