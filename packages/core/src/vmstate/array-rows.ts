import type { Field, FieldOptions, Padding, PresenceOptions } from './field.ts'
import {
  type ArrayForm,
  asField,
  asPadding,
  type Count,
  type Element,
  makeRow,
  type Row,
  type ScalarType,
} from './row.ts'
import { scalars } from './scalars.ts'

/** Bounds of counts that come from the wire, where a row does not say its own. */
export const DEFAULT_MAX_ELEMENTS = 1 << 16
export const DEFAULT_MAX_BYTES = 1 << 24

export interface ArrayOptions<T> extends FieldOptions<T> {
  /** Only these elements travel: index of the first, and how many. Default: all. */
  range?: readonly [start: number, count: number]
}
export interface CountOptions {
  /** Largest count accepted from the wire. Default: 65536 elements, or 16 MiB of buffer. */
  max?: number
  /** The count is multiplied by this. */
  times?: number
  /** The state keeps this many elements always, and the first `count` of them travel. Default: exactly `count`. */
  capacity?: number
}
export type VarrayOptions<T> = FieldOptions<T> & CountOptions
/** Another row of the same table, or a function of the state for a length that never travels (the number of harts). */
export type LengthFrom = string | ((state: any) => number)

/** @internal */
export function countFrom(from: LengthFrom, o: CountOptions = {}, defaultMax: number = DEFAULT_MAX_ELEMENTS): Count {
  const max = o.max ?? o.capacity ?? defaultMax
  return { from, times: o.times ?? 1, max, capacity: o.capacity }
}

/** @internal */
export function arrayForm(storage: ArrayForm['storage'], length: number, range?: readonly [number, number]): ArrayForm {
  const [start, count] = range ?? [0, length]
  return { count, storage, start, stateLength: length, pointers: false }
}

const storageOf = (type: ScalarType) => (scalars[type].typed ? 'typed' : 'list')

const fixed = <T>(type: ScalarType, length: number, o: ArrayOptions<T> = {}): Field<T> =>
  asField(
    makeRow(scalars[type].wire, { kind: 'scalar', type }, o, { array: arrayForm(storageOf(type), length, o.range) }),
  )

const counted = <T>(type: ScalarType, from: LengthFrom, o: VarrayOptions<T> = {}): Field<T> => {
  const count = countFrom(from, o)
  const array: ArrayForm = { count, storage: storageOf(type), start: 0, stateLength: o.capacity ?? 0, pointers: false }
  return asField(makeRow(scalars[type].wire, { kind: 'scalar', type }, o, { array }))
}

export const u8Array = (length: number, o?: ArrayOptions<Uint8Array>): Field<Uint8Array> => fixed('u8', length, o)
export const u16Array = (length: number, o?: ArrayOptions<Uint16Array>): Field<Uint16Array> => fixed('u16', length, o)
export const u32Array = (length: number, o?: ArrayOptions<Uint32Array>): Field<Uint32Array> => fixed('u32', length, o)
export const u64Array = (length: number, o?: ArrayOptions<BigUint64Array>): Field<BigUint64Array> =>
  fixed('u64', length, o)
export const i8Array = (length: number, o?: ArrayOptions<Int8Array>): Field<Int8Array> => fixed('i8', length, o)
export const i16Array = (length: number, o?: ArrayOptions<Int16Array>): Field<Int16Array> => fixed('i16', length, o)
export const i32Array = (length: number, o?: ArrayOptions<Int32Array>): Field<Int32Array> => fixed('i32', length, o)
export const i64Array = (length: number, o?: ArrayOptions<BigInt64Array>): Field<BigInt64Array> =>
  fixed('i64', length, o)
export const boolArray = (length: number, o?: ArrayOptions<boolean[]>): Field<boolean[]> => fixed('bool', length, o)
export const cpuDoubleArray = (length: number, o?: ArrayOptions<BigUint64Array>): Field<BigUint64Array> =>
  fixed('cpuDouble', length, o)

/** Element count is the value of another row of the same table, listed above this one. The count itself is a row of its own. */
export const u8Varray = (length: LengthFrom, o?: VarrayOptions<Uint8Array>): Field<Uint8Array> =>
  counted('u8', length, o)
export const u16Varray = (length: LengthFrom, o?: VarrayOptions<Uint16Array>): Field<Uint16Array> =>
  counted('u16', length, o)
export const u32Varray = (length: LengthFrom, o?: VarrayOptions<Uint32Array>): Field<Uint32Array> =>
  counted('u32', length, o)
export const u64Varray = (length: LengthFrom, o?: VarrayOptions<BigUint64Array>): Field<BigUint64Array> =>
  counted('u64', length, o)
export const i8Varray = (length: LengthFrom, o?: VarrayOptions<Int8Array>): Field<Int8Array> => counted('i8', length, o)
export const i16Varray = (length: LengthFrom, o?: VarrayOptions<Int16Array>): Field<Int16Array> =>
  counted('i16', length, o)
export const i32Varray = (length: LengthFrom, o?: VarrayOptions<Int32Array>): Field<Int32Array> =>
  counted('i32', length, o)
export const i64Varray = (length: LengthFrom, o?: VarrayOptions<BigInt64Array>): Field<BigInt64Array> =>
  counted('i64', length, o)
export const boolVarray = (length: LengthFrom, o?: VarrayOptions<boolean[]>): Field<boolean[]> =>
  counted('bool', length, o)

/** Any row many times (timers, u64Number, custom rows). Elements are described by the row; its options do not count. */
export function array<T>(element: Field<T>, length: number, o: ArrayOptions<T[]> = {}): Field<T[]> {
  const row = element as unknown as Row
  return asField(makeRow(row.wire, row.element, o, { array: arrayForm('list', length, o.range) }))
}
/** As {@link array}, with the count of another row. */
export function varray<T>(element: Field<T>, length: LengthFrom, o: VarrayOptions<T[]> = {}): Field<T[]> {
  const row = element as unknown as Row
  const array: ArrayForm = {
    count: countFrom(length, o),
    storage: 'list',
    start: 0,
    stateLength: o.capacity ?? 0,
    pointers: false,
  }
  return asField(makeRow(row.wire, row.element, o, { array }))
}
/** Elements that may be missing. Both sides must miss the same ones: load asks the local array. Spec: vmstate.md section 5. */
export function pointerArray<T>(
  element: Field<T>,
  length: number,
  o: FieldOptions<(T | null)[]> = {},
): Field<(T | null)[]> {
  const row = element as unknown as Row
  return asField(makeRow(row.wire, row.element, o, { array: { ...arrayForm('list', length), pointers: true } }))
}

/** Raw bytes. With `range`, only a part of them travels. */
export function buffer(bytes: number, o: ArrayOptions<Uint8Array> = {}): Field<Uint8Array> {
  const [start, size] = o.range ?? [0, bytes]
  const element: Element = { kind: 'buffer', size, start, stateBytes: bytes }
  return asField(makeRow('buffer', element, o))
}
/** Raw bytes, as many as another row says (times `times`). */
export function vbuffer(length: LengthFrom, o: VarrayOptions<Uint8Array> = {}): Field<Uint8Array> {
  const element: Element = {
    kind: 'buffer',
    size: countFrom(length, o, DEFAULT_MAX_BYTES),
    start: 0,
    stateBytes: o.capacity ?? 0,
  }
  return asField(makeRow('buffer', element, o))
}
/** Bits in 64-bit words: bit i of the bitmap is bit i % 64 of word i / 64. `bits`: how many, or which row says so. */
export function bitmap(bits: number | LengthFrom, o: VarrayOptions<BigUint64Array> = {}): Field<BigUint64Array> {
  const size = typeof bits === 'number' ? bits : countFrom(bits, o, DEFAULT_MAX_BYTES)
  return asField(makeRow('bitmap', { kind: 'bitmap', size }, o))
}
/** Retired bytes: zeros are sent, anything is accepted. */
export function unused(bytes: number, o?: PresenceOptions): Padding {
  return asPadding(
    makeRow(
      'unused_buffer',
      { kind: 'unused', bytes },
      { ...o, wireName: o?.wireName ?? 'unused' },
      { padding: true, bytes },
    ),
  )
}
/** `count` times `bytes` retired bytes. */
export function unusedVarray(bytes: number, count: LengthFrom, o: PresenceOptions & { max?: number } = {}): Padding {
  const array: ArrayForm = { count: countFrom(count, o), storage: 'list', start: 0, stateLength: 0, pointers: false }
  const options = { ...o, wireName: o.wireName ?? 'unused' }
  return asPadding(makeRow('unused_buffer', { kind: 'unused', bytes }, options, { padding: true, bytes, array }))
}
