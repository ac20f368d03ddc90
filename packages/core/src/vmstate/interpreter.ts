import { VmstateSubsectionError, VmstateVersionError } from '../errors/vmstate-error.ts'
import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import { countNow, ensure, type TableOf } from './elements.ts'
import { locateInRow, runHook, truncated } from './locate.ts'
import type { Row } from './row.ts'
import { rowCodec } from './row-codec.ts'
import type { SubsectionTable, Vmstate, VmstateHooks } from './table.ts'
import type { RowCodec, SubsectionCodec, TableCodec } from './table-codec.ts'
import { vmstateTrace as trace } from './vmstate-trace.ts'

export const SUBSECTION = 0x05

const interpreted = new WeakMap<Vmstate<any>, TableCodec>()

export function interpret(vmstate: Vmstate<any>): TableCodec {
  let codec = interpreted.get(vmstate)
  if (!codec) interpreted.set(vmstate, (codec = tableCodec(vmstate, interpret)))
  return codec
}

/** @param tableOf codecs of nested tables */
export function tableCodec(vmstate: Vmstate<any>, tableOf: TableOf): TableCodec {
  const { table } = vmstate
  const subs = Object.entries((table.subsections ?? {}) as Record<string, SubsectionTable<any, any>>)
  return partCodec(vmstate.name, vmstate, table.fields, subs, undefined, tableOf)
}

type Head = { readonly version: number; readonly minimumVersion: number } & VmstateHooks<any>
type Subs = readonly (readonly [string, SubsectionTable<any, any>])[]

/** @param inside name of the subsection that this is; undefined: the table itself */
function partCodec(
  name: string,
  head: Head,
  fields: Record<string, Row>,
  subs: Subs,
  inside: string | undefined,
  tableOf: TableOf,
): TableCodec {
  const rows = Object.entries(fields).map(([key, row]) => rowCodec(key, row, tableOf))
  const subsections = subs
    .filter(([, sub]) => sub.inside === inside)
    .map(([subName, sub]): SubsectionCodec => {
      const version = sub.version ?? 1
      const subHead = { ...hooksOf(sub), version, minimumVersion: sub.minimumVersion ?? version }
      return { name: subName, table: sub, codec: partCodec(subName, subHead, sub.fields, subs, subName, tableOf) }
    })
  const byName = new Map(subsections.map((sub) => [sub.name, sub.codec]))

  function putSubsections(state: any, out: QEMUFileWriter): void {
    trace.vmstate_subsection_save_top({ idstr: name })
    for (const sub of subsections) {
      let needed = false
      runHook('needed', () => {
        needed = sub.table.needed(state)
      })
      if (!needed) continue
      trace.vmstate_subsection_save_loop({ name, sub: sub.name })
      putSubsectionHeader(out, sub.name, sub.codec.version)
      sub.codec.save(state, out, sub.codec.version)
    }
  }

  const self: TableCodec = {
    name,
    version: head.version,
    rows,
    subsections,
    hooks: head,
    putRows(state, out, version) {
      for (const row of rows) {
        if (!exists(row.row, state, version)) continue
        if (trace.vmstate_save_state_loop.enabled) traceSave(name, row, state)
        try {
          row.put(state, out, version)
        } catch (error) {
          throw locateInRow(error, row.key, undefined)
        }
      }
    },
    *loadRows(state, input, version) {
      for (const row of rows) {
        const present = exists(row.row, state, version)
        if (trace.vmstate_load_state_field.enabled)
          trace.vmstate_load_state_field({ name, field: row.key, exists: present })
        if (!present) continue
        const offset = input.position
        try {
          if (row.bytes === undefined) yield* row.load!(state, input, version)
          else {
            if (input.available < row.bytes) {
              yield row.bytes
              if (input.available < row.bytes) throw truncated('', offset, row.bytes, input.available)
            }
            row.take!(state, input, version)
          }
        } catch (error) {
          trace.vmstate_load_field_error({ field: row.key, ret: -1 })
          throw locateInRow(error, row.key, offset)
        }
      }
    },
    save(state, out, version) {
      trace.vmstate_save_state_top({ idstr: name })
      try {
        if (head.preSave) runHook('preSave', () => head.preSave!(state))
        try {
          self.putRows(state, out, version)
          putSubsections(state, out)
        } finally {
          if (head.postSave) runHook('postSave', () => head.postSave!(state))
        }
      } catch (error) {
        throw inside === undefined ? error : locateInRow(error, name, undefined)
      }
    },
    loadSubsections: (state, input) => loadSubsections(name, byName, state, input),
    *load(state, input, version) {
      trace.vmstate_load_state({ name, version_id: version })
      if (version > head.version || version < head.minimumVersion)
        trace.vmstate_load_state_end({ name, reason: version > head.version ? 'too new' : 'too old', val: -1 })
      checkVersion(head, version, input.position)
      yield* self.loadChecked(state, input, version)
    },
    *loadChecked(state, input, version) {
      if (head.preLoad) runHook('preLoad', () => head.preLoad!(state))
      yield* self.loadRows(state, input, version)
      yield* self.loadSubsections(state, input)
      if (head.postLoad) runHook('postLoad', () => head.postLoad!(state, version))
      trace.vmstate_load_state_end({ name, reason: 'end', val: 0 })
    },
  }
  return self
}

/** A row is about to be written. */
export function traceSave(name: string, { key, row }: RowCodec, state: unknown): void {
  trace.vmstate_save_state_loop({ name, field: key, n_elems: row.array ? countNow(row.array.count, state) : 1 })
}

const hooksOf = (t: VmstateHooks<any>): VmstateHooks<any> => ({
  preSave: t.preSave && ((s) => t.preSave!(s)),
  postSave: t.postSave && ((s) => t.postSave!(s)),
  preLoad: t.preLoad && ((s) => t.preLoad!(s)),
  postLoad: t.postLoad && ((s, v) => t.postLoad!(s, v)),
})

export const exists = (row: Row, state: any, version: number): boolean =>
  row.when ? row.when(state, version) : row.since <= version

function checkVersion(head: { version: number; minimumVersion: number }, version: number, offset: number): void {
  if (version > head.version || version < head.minimumVersion) {
    throw new VmstateVersionError('', version, head.minimumVersion, head.version, { offset })
  }
}

export function putSubsectionHeader(out: QEMUFileWriter, name: string, version: number): void {
  out.putByte(SUBSECTION)
  out.putStr8(name)
  out.putBe32(version)
}

/** Loads what follows, as long as it carries the table's name as a prefix. Spec: vmstate.md section 6. */
function* loadSubsections(
  prefix: string,
  known: ReadonlyMap<string, TableCodec>,
  state: any,
  input: QEMUFileReader,
): Generator<number, void> {
  trace.vmstate_subsection_load({ parent: prefix })
  const ends = (reason: string, name = '') =>
    trace.vmstate_subsection_load_bad({ parent: prefix, sub: name, sub2: reason })
  for (;;) {
    yield* ensure(input, 1)
    if (input.peekByte(0) !== SUBSECTION) return trace.vmstate_subsection_load_good({ parent: prefix })
    const offset = input.position
    yield* ensure(input, 2)
    const length = input.peekByte(1)
    if (length < prefix.length + 1) return ends('(short)')
    yield* ensure(input, 2 + length)
    if (input.available < 2 + length) return ends('(peek fail)')
    const name = text.decode(Uint8Array.from({ length }, (_, i) => input.peekByte(2 + i)))
    if (!name.startsWith(prefix)) return ends('(prefix)', name)
    const codec = known.get(name)
    if (!codec) ends('(lookup)', name)
    if (!codec) throw new VmstateSubsectionError(name, { offset })
    input.skip(2 + length)
    try {
      yield* ensure(input, 4)
      yield* codec.load(state, input, input.getBe32())
    } catch (error) {
      ends('(child)', name)
      throw locateInRow(error, name, offset)
    }
  }
}
const text = new TextDecoder()
