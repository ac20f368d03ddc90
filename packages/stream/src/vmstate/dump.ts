/**
 * Tables in the JSON form of QEMU's `-dump-vmstate`: for the checkers that exist for it, and for the lock file that says what
 * older streams look like. Spec: clients.md section 5, vmstate.md.
 */
import type { FieldTable, SubsectionTable, Vmstate } from '@ferryvm/core'
import { VmstateDumpError } from '../errors.ts'

export interface VmstateDump {
  readonly machine?: string
  readonly devices: readonly DumpedDevice[]
}
export interface DumpedDevice {
  /** Device type, as `-device` names it. */
  readonly type: string
  readonly table: DumpedTable
}
export interface DumpedTable {
  readonly name: string
  readonly version: number
  readonly minimumVersion: number
  readonly fields: readonly DumpedField[]
  readonly subsections: readonly DumpedTable[]
}
export interface DumpedField {
  readonly name: string
  /** First version with this field. */
  readonly sinceVersion: number
  /** Present only when a predicate of the state says so. */
  readonly conditional: boolean
  /** Bytes of one element; 0: it varies. QEMU's are those of its memory, ours those of the stream. */
  readonly size: number
  /** Type name and count of elements; only our dumps have them. */
  readonly type?: string
  readonly count?: number
  readonly table?: DumpedTable
}

/** Our tables in that form. */
export function dumpTables(machine: string, tables: readonly { type: string; vmstate: Vmstate<any> }[]): VmstateDump {
  return { machine, devices: tables.map(({ type, vmstate }) => ({ type, table: dumpTable(vmstate) })) }
}

function dumpTable(vmstate: Vmstate<any>): DumpedTable {
  const all = Object.entries(vmstate.table.subsections ?? {}) as [string, SubsectionTable<FieldTable, any>][]
  const inside = (parent: string | undefined): DumpedTable[] =>
    all
      .filter(([, sub]) => sub.inside === parent)
      .map(([name, sub]) => ({
        name,
        version: sub.version ?? 1,
        minimumVersion: sub.minimumVersion ?? sub.version ?? 1,
        fields: dumpFields(sub.fields),
        subsections: inside(name),
      }))
  return {
    name: vmstate.name,
    version: vmstate.version,
    minimumVersion: vmstate.minimumVersion,
    fields: dumpFields(vmstate.table.fields),
    subsections: inside(undefined),
  }
}

/** What a row function really returns; see core's row.ts. */
interface RowShape {
  readonly wire: string
  readonly since: number
  readonly wireName?: string
  readonly when?: unknown
  readonly array?: { readonly count: unknown }
  readonly element: {
    readonly kind: string
    readonly type?: string
    readonly bytes?: number
    readonly size?: unknown
  } & {
    readonly vmstate?: Vmstate<any>
    readonly value?: Vmstate<any>
  }
}

function dumpFields(fields: FieldTable): DumpedField[] {
  return Object.entries(fields).flatMap(([key, field]) => {
    const row = field as unknown as RowShape
    if (row.element.kind === 'validate') return []
    const nested = row.element.vmstate ?? row.element.value
    const table = nested && dumpTable(nested)
    const count = typeof row.array?.count === 'number' ? row.array.count : undefined
    return [
      {
        name: row.wireName ?? key,
        sinceVersion: row.since,
        conditional: row.when !== undefined,
        size: elementBytes(row, table),
        type: row.wire,
        ...(count !== undefined && { count }),
        ...(row.array && count === undefined && { count: 0 }),
        ...(table && { table }),
      },
    ]
  })
}

const SCALAR_BYTES: Readonly<Record<string, number>> = {
  bool: 1,
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  u64: 8,
  i64: 8,
  u64Number: 8,
  i64Number: 8,
  cpuDouble: 8,
}
function elementBytes({ element }: RowShape, table: DumpedTable | undefined): number {
  if (element.kind === 'scalar') return SCALAR_BYTES[element.type ?? ''] ?? 0
  if (element.kind === 'timer') return 8
  if (element.kind === 'unused') return element.bytes ?? 0
  if (element.kind === 'buffer') return typeof element.size === 'number' ? element.size : 0
  if (element.kind === 'bitmap') return typeof element.size === 'number' ? 8 * Math.ceil(element.size / 64) : 0
  if (element.kind === 'struct' && table) {
    const sizes = table.fields.map((f) => f.size * (f.count ?? 1))
    return sizes.includes(0) || table.fields.some((f) => f.conditional) ? 0 : sizes.reduce((a, b) => a + b, 0)
  }
  return 0
}

/** The text that QEMU writes; keys beyond its own (`type`, `num`) are last, and its checkers ignore them. */
export function formatDump({ machine, devices }: VmstateDump): string {
  const table = (t: DumpedTable): object => ({
    name: t.name,
    version_id: t.version,
    minimum_version_id: t.minimumVersion,
    Fields: t.fields.map((f) => ({
      field: f.name,
      version_id: f.sinceVersion,
      field_exists: f.conditional,
      size: f.size,
      ...(f.count !== undefined && { num: f.count }),
      ...(f.type !== undefined && { type: f.type }),
      ...(f.table && { Description: table(f.table) }),
    })),
    ...(t.subsections.length > 0 && { Subsections: t.subsections.map(table) }),
  })
  const entries = devices.map(({ type, table: t }) => [
    type,
    { Name: type, version_id: t.version, minimum_version_id: t.minimumVersion, Description: table(t) },
  ])
  return `${JSON.stringify({ vmschkmachine: { Name: machine ?? '' }, ...Object.fromEntries(entries) }, null, 2)}\n`
}

/**
 * Reads such a text, QEMU's or ours.
 * @throws VmstateDumpError it is not one
 */
export function parseDump(text: string): VmstateDump {
  let root: unknown
  try {
    root = JSON.parse(text)
  } catch (cause) {
    throw new VmstateDumpError('this is not JSON', { cause })
  }
  if (typeof root !== 'object' || root === null || Array.isArray(root))
    throw new VmstateDumpError('this is not the output of -dump-vmstate: no object at the top')
  const { vmschkmachine, ...rest } = root as Record<string, any>
  const devices = Object.entries(rest).map(([type, entry]) => ({
    type,
    table: parseTable(entry?.Description, type, 0),
  }))
  const machine = vmschkmachine?.Name
  return { ...(typeof machine === 'string' && { machine }), devices }
}

function parseTable(node: any, where: string, depth: number): DumpedTable {
  if (typeof node?.name !== 'string' || !Number.isInteger(node.version_id) || depth > 50)
    throw new VmstateDumpError(`${where}: this is not the output of -dump-vmstate: no description of a vmstate`)
  const list = (value: unknown): any[] => (Array.isArray(value) ? value : [])
  return {
    name: node.name,
    version: node.version_id,
    minimumVersion: Number(node.minimum_version_id ?? 0),
    fields: list(node.Fields).map((f) => ({
      name: String(f.field),
      sinceVersion: Number(f.version_id ?? 0),
      conditional: f.field_exists === true,
      size: Number(f.size ?? 0),
      ...(typeof f.type === 'string' && { type: f.type }),
      ...(typeof f.num === 'number' && { count: f.num }),
      ...(f.Description && { table: parseTable(f.Description, `${where} ${f.field}`, depth + 1) }),
    })),
    subsections: list(node.Subsections).map((s) => parseTable(s, where, depth + 1)),
  }
}
