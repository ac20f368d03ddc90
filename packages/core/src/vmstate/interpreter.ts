import {
  VmstateMismatchError,
  VmstateRangeError,
  VmstateSubsectionError,
  VmstateVersionError,
} from '../errors/vmstate-error.ts'
import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import { countNow, elementCodec, ensure, inElement, NULL_MARKER, newElement, RUN_BYTES } from './elements.ts'
import { locateInRow, runHook, truncated } from './locate.ts'
import type { ArrayForm, Row } from './row.ts'
import type { SubsectionTable, Vmstate, VmstateHooks } from './table.ts'
import type { ElementCodec, RowCodec, SubsectionCodec, TableCodec } from './table-codec.ts'

export const SUBSECTION = 0x05

const interpreted = new WeakMap<Vmstate<any>, TableCodec>()

export function interpret(vmstate: Vmstate<any>): TableCodec {
  let codec = interpreted.get(vmstate)
  if (!codec) {
    const { table } = vmstate
    const subs = Object.entries((table.subsections ?? {}) as Record<string, SubsectionTable<any, any>>)
    codec = tableCodec(vmstate.name, vmstate, table.fields, subs, undefined)
    interpreted.set(vmstate, codec)
  }
  return codec
}

type Head = { readonly version: number; readonly minimumVersion: number } & VmstateHooks<any>
type Subs = readonly (readonly [string, SubsectionTable<any, any>])[]

/** @param inside name of the subsection that this is; undefined: the table itself */
function tableCodec(
  name: string,
  head: Head,
  fields: Record<string, Row>,
  subs: Subs,
  inside: string | undefined,
): TableCodec {
  const rows = Object.entries(fields).map(([key, row]) => rowCodec(key, row))
  const subsections = subs
    .filter(([, sub]) => sub.inside === inside)
    .map(([subName, sub]): SubsectionCodec => {
      const version = sub.version ?? 1
      const subHead = { ...hooksOf(sub), version, minimumVersion: sub.minimumVersion ?? version }
      return { name: subName, table: sub, codec: tableCodec(subName, subHead, sub.fields, subs, subName) }
    })
  const byName = new Map(subsections.map((sub) => [sub.name, sub.codec]))

  function putAll(state: any, out: QEMUFileWriter, version: number): void {
    for (const row of rows) {
      if (!exists(row.row, state, version)) continue
      try {
        row.put(state, out, version)
      } catch (error) {
        throw locateInRow(error, row.key, undefined)
      }
    }
    for (const sub of subsections) {
      let needed = false
      runHook('needed', () => {
        needed = sub.table.needed(state)
      })
      if (needed) {
        putSubsectionHeader(out, sub.name, sub.codec.version)
        sub.codec.save(state, out, sub.codec.version)
      }
    }
  }

  const self: TableCodec = {
    name,
    version: head.version,
    rows,
    subsections,
    hooks: head,
    hasSubsections: subsections.length > 0,
    save(state, out, version) {
      try {
        if (head.preSave) runHook('preSave', () => head.preSave!(state))
        try {
          putAll(state, out, version)
        } finally {
          if (head.postSave) runHook('postSave', () => head.postSave!(state))
        }
      } catch (error) {
        throw inside === undefined ? error : locateInRow(error, name, undefined)
      }
    },
    *load(state, input, version) {
      checkVersion(head, version, input.position)
      yield* self.loadChecked(state, input, version)
    },
    *loadChecked(state, input, version) {
      if (head.preLoad) runHook('preLoad', () => head.preLoad!(state))
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
      yield* loadSubsections(name, byName, state, input)
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

export function checkVersion(head: { version: number; minimumVersion: number }, version: number, offset: number): void {
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
export function* loadSubsections(
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

function rowCodec(key: string, row: Row): RowCodec {
  const element = elementCodec(row, interpret)
  if (row.array) return arrayCodec(key, row, row.array, element)
  const { bytes, take } = element
  if (bytes !== undefined && take) {
    return {
      key,
      row,
      element,
      bytes,
      put: (state, out, version) => element.put(state[key], out, state, version),
      // `take` may return the object it changed in place; a class may have no setter for that.
      take: row.padding
        ? (state, input, version) => take(input, undefined, state, version)
        : (state, input, version) => assign(state, key, take(input, state[key], state, version)),
    }
  }
  return {
    key,
    row,
    element,
    put: (state, out, version) => element.put(state[key], out, state, version),
    *load(state, input, version) {
      const value = yield* element.load!(input, state[key], state, version)
      if (!row.padding) assign(state, key, value)
    },
  }
}

/** Objects are changed in place, so that an unchanged one needs no setter. */
function assign(state: any, key: string, value: unknown): void {
  if (typeof value !== 'object' || state[key] !== value) state[key] = value
}

function arrayCodec(key: string, row: Row, form: ArrayForm, element: ElementCodec): RowCodec {
  const { start, pointers } = form
  const fixed = typeof form.count === 'number' ? form.count : undefined
  const shared = { key, row, element }

  const put = (state: any, out: QEMUFileWriter, version: number): void => {
    const count = countNow(form.count, state)
    if (count === 0) return
    const values = row.padding ? undefined : state[key]
    if (values && values.length < start + count) {
      throw new VmstateRangeError('', `${start + count} elements are due; the state has ${values.length}`)
    }
    for (let i = start; i < start + count; i++) {
      if (pointers && values[i] === null) out.putByte(NULL_MARKER)
      else inElement(i, undefined, () => element.put(values?.[i], out, state, version))
    }
  }

  if (fixed !== undefined && !pointers && element.take && fixed * element.bytes! <= RUN_BYTES) {
    const take = element.take
    return {
      ...shared,
      bytes: fixed * element.bytes!,
      put,
      take(state, input, version) {
        const values = row.padding ? undefined : state[key]
        for (let i = start; i < start + fixed; i++) {
          const offset = input.position
          inElement(i, offset, () => {
            const value = take(input, values?.[i], state, version)
            if (values) values[i] = value
          })
        }
      },
    }
  }

  return {
    ...shared,
    put,
    *load(state, input, version) {
      const count = countNow(form.count, state)
      const values = row.padding ? undefined : sizedFor(form, state, key, count)
      for (let i = start; i < start + count; i++) {
        const offset = input.position
        try {
          if (pointers && values[i] === null) {
            yield* ensure(input, 1)
            if (input.getByte() !== NULL_MARKER)
              throw new VmstateMismatchError('', 'the sender has an element where this machine has none')
            continue
          }
          if (values && i >= values.length && form.storage === 'list') values.push(newElement(row))
          let value: unknown
          if (element.take) {
            yield* ensure(input, element.bytes!)
            value = element.take(input, values?.[i], state, version)
          } else value = yield* element.load!(input, values?.[i], state, version)
          if (values) values[i] = value
        } catch (error) {
          throw locateInRow(error, `[${i}]`, offset)
        }
      }
    },
  }
}

/** The array in the state, made to fit `count`; lists grow later, while elements arrive. */
function sizedFor(form: ArrayForm, state: any, key: string, count: number): any {
  const values = state[key]
  if (typeof form.count === 'number') return values
  if (form.count.capacity !== undefined) {
    if (count > values.length) throw new VmstateRangeError('', `${count} elements do not fit ${values.length}`)
    return values
  }
  if (form.storage === 'list') {
    if (values.length > count) values.length = count
    return values
  }
  if (values.length !== count) {
    state[key] = new values.constructor(count)
    return state[key]
  }
  return values
}
