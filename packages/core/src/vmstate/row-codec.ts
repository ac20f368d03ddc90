import { VmstateMismatchError, VmstateRangeError } from '../errors/vmstate-error.ts'
import type { QEMUFileWriter } from '../qemufile/qemufile.ts'
import {
  countNow,
  elementCodec,
  ensure,
  inElement,
  NULL_MARKER,
  newElement,
  RUN_BYTES,
  type TableOf,
} from './elements.ts'
import { locateInRow } from './locate.ts'
import type { ArrayForm, Row } from './row.ts'
import type { ElementCodec, RowCodec } from './table-codec.ts'

/** @param tableOf codecs of nested tables: an engine gives its own */
export function rowCodec(key: string, row: Row, tableOf: TableOf): RowCodec {
  const element = elementCodec(row, tableOf)
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
    if (values) needLength(values, start + count)
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
        if (values) needLength(values, start + fixed)
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
  if (typeof form.count === 'number') {
    if (form.storage === 'typed' || form.pointers) needLength(values, form.start + count)
    return values
  }
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

function needLength(values: { readonly length: number }, due: number): void {
  if (values.length < due) throw new VmstateRangeError('', `${due} elements are due; the state has ${values.length}`)
}
