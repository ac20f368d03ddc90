import { VmstateSubsectionError, VmstateVersionError } from '../errors/vmstate-error.ts'
import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import { ensure, type TableOf } from './elements.ts'
import { locateInRow, runHook, truncated } from './locate.ts'
import type { Row } from './row.ts'
import { rowCodec } from './row-codec.ts'
import type { SubsectionTable, Vmstate, VmstateHooks } from './table.ts'
import type { SubsectionCodec, TableCodec } from './table-codec.ts'

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
    for (const sub of subsections) {
      let needed = false
      runHook('needed', () => {
        needed = sub.table.needed(state)
      })
      if (!needed) continue
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
        try {
          row.put(state, out, version)
        } catch (error) {
          throw locateInRow(error, row.key, undefined)
        }
      }
    },
    *loadRows(state, input, version) {
      for (const row of rows) {
        if (!exists(row.row, state, version)) continue
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
          throw locateInRow(error, row.key, offset)
        }
      }
    },
    save(state, out, version) {
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
      checkVersion(head, version, input.position)
      yield* self.loadChecked(state, input, version)
    },
    *loadChecked(state, input, version) {
      if (head.preLoad) runHook('preLoad', () => head.preLoad!(state))
      yield* self.loadRows(state, input, version)
      yield* self.loadSubsections(state, input)
      if (head.postLoad) runHook('postLoad', () => head.postLoad!(state, version))
    },
  }
  return self
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
  for (;;) {
    yield* ensure(input, 1)
    if (input.peekByte(0) !== SUBSECTION) return
    const offset = input.position
    yield* ensure(input, 2)
    const length = input.peekByte(1)
    if (length < prefix.length + 1) return
    yield* ensure(input, 2 + length)
    if (input.available < 2 + length) return
    const name = text.decode(Uint8Array.from({ length }, (_, i) => input.peekByte(2 + i)))
    if (!name.startsWith(prefix)) return
    const codec = known.get(name)
    if (!codec) throw new VmstateSubsectionError(name, { offset })
    input.skip(2 + length)
    try {
      yield* ensure(input, 4)
      yield* codec.load(state, input, input.getBe32())
    } catch (error) {
      throw locateInRow(error, name, offset)
    }
  }
}
const text = new TextDecoder()
