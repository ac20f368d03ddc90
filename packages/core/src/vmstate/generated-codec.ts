import { VmstateDefinitionError } from '../errors/vmstate-error.ts'
import type { QEMUFileReader } from '../qemufile/qemufile.ts'
import type { TableOf } from './elements.ts'
import { collectUnits, generateSource } from './generator.ts'
import { tableCodec } from './interpreter.ts'
import { locateInRow, truncated } from './locate.ts'
import type { Vmstate } from './table.ts'
import type { RowCodec, TableCodec } from './table-codec.ts'

interface GeneratedUnit {
  put(state: any, out: any): void
  load(state: any, input: any): Generator<number, void>
}
type Create = (units: readonly TableCodec[], runtime: unknown) => readonly GeneratedUnit[]

/** What `emitVmstateModule` wrote, imported. */
export interface EmittedVmstateModule {
  readonly fingerprint: string
  readonly create: (units: any, runtime: any) => any
}

/** What generated code calls. */
const runtime = {
  locate: locateInRow,
  locateInRun(error: unknown, rows: readonly RowCodec[], first: number, row: number, runOffset: number): unknown {
    let offset = runOffset
    for (let r = first; r < row; r++) offset += rows[r]!.bytes!
    return locateInRow(error, rows[row]!.key, offset)
  },
  /** The stream ended inside of a run: loads the rows that are there, as the interpreter does, up to the one that is not. */
  short(
    rows: readonly RowCodec[],
    first: number,
    last: number,
    state: any,
    input: QEMUFileReader,
    version: number,
  ): void {
    for (let r = first; r <= last; r++) {
      const row = rows[r]!
      const offset = input.position
      try {
        if (input.available < row.bytes!) throw truncated('', offset, row.bytes!, input.available)
        row.take!(state, input, version)
      } catch (error) {
        throw locateInRow(error, row.key, offset)
      }
    }
  },
  truncatedRow: (bytes: number, input: QEMUFileReader) => truncated('', input.position, bytes, input.available),
}

let evalAllowed: boolean | undefined
/** A content security policy may forbid it. */
export function canGenerate(): boolean {
  if (evalAllowed === undefined) {
    try {
      evalAllowed = new Function('return true')() as boolean
    } catch {
      evalAllowed = false
    }
  }
  return evalAllowed
}

interface Prepared {
  readonly root: TableCodec
  readonly units: readonly TableCodec[]
  readonly source: string
}

function prepare(vmstate: Vmstate<any>): Prepared {
  const tables = new Map<Vmstate<any>, TableCodec>()
  const tableOf: TableOf = (nested) => {
    let table = tables.get(nested)
    if (!table) tables.set(nested, (table = tableCodec(nested, tableOf)))
    return table
  }
  const root = tableOf(vmstate)
  const units = collectUnits(root, tableOf)
  return { root, units, source: generateSource(units, tableOf) }
}

/** Puts the generated functions in the place of the interpreter's, for the version they were made for. */
function install({ root, units }: Prepared, create: Create): TableCodec {
  const generated = create(units, runtime)
  units.forEach((unit, n) => {
    const { put, load } = generated[n]!
    const { putRows, loadRows, version: own } = unit
    unit.putRows = (state, out, version) => (version === own ? put(state, out) : putRows(state, out, version))
    unit.loadRows = (state, input, version) => (version === own ? load(state, input) : loadRows(state, input, version))
  })
  return root
}

const generatedTables = new WeakMap<Vmstate<any>, TableCodec>()

/** Call only if {@link canGenerate}. */
export function generatedTable(vmstate: Vmstate<any>): TableCodec {
  let table = generatedTables.get(vmstate)
  if (!table) {
    const prepared = prepare(vmstate)
    table = install(prepared, new Function('U', 'rt', prepared.source) as Create)
    generatedTables.set(vmstate, table)
  }
  return table
}

/** @throws VmstateDefinitionError the module was written for another table, or by another version of this package */
export function emittedTable(vmstate: Vmstate<any>, module: EmittedVmstateModule): TableCodec {
  const prepared = prepare(vmstate)
  if (module.fingerprint !== fingerprint(prepared.source)) {
    throw new VmstateDefinitionError('', 'the emitted module does not belong to this table; emit it again', {
      section: vmstate.name,
    })
  }
  return install(prepared, module.create)
}

/**
 * Source of a module with the generated codec, for pages that may not use eval: write it at build time, import it and
 * hand it to `compileVmstate(vmstate, { module })`. Hooks and predicates stay in the table.
 */
export function emitVmstateModule(vmstate: Vmstate<any>): string {
  const { source } = prepare(vmstate)
  return [
    `// Codec of vmstate ${JSON.stringify(vmstate.name)}, version ${vmstate.version}. Written by emitVmstateModule; do not edit.`,
    `export const fingerprint = '${fingerprint(source)}'`,
    'export function create(U, rt) {',
    source,
    '}',
    '',
  ].join('\n')
}

/** FNV-1a over UTF-16 units, two lanes. Says "not the same table"; no protection against intent. */
function fingerprint(text: string): string {
  let a = 0x811c9dc5
  let b = 0x01000193
  for (let i = 0; i < text.length; i++) {
    a = Math.imul(a ^ text.charCodeAt(i), 0x01000193)
    b = Math.imul(b ^ text.charCodeAt(i), 0x01000193) ^ (b >>> 15)
  }
  return [a, b].map((lane) => (lane >>> 0).toString(16).padStart(8, '0')).join('')
}
