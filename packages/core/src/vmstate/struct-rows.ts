import {
  type ArrayOptions,
  arrayForm,
  countFrom,
  DEFAULT_MAX_ELEMENTS,
  type LengthFrom,
  type VarrayOptions,
} from './array-rows.ts'
import type { Field, FieldOptions, Padding, PresenceOptions } from './field.ts'
import { type ArrayForm, asField, asPadding, type CustomInfo, type Element, makeRow } from './row.ts'
import type { Vmstate } from './table.ts'

/**
 * A nested table, without a header or a version of its own on the wire: it is written and read in the version that the
 * local table has. Its subsections follow its rows.
 */
export const struct = <S>(vmstate: Vmstate<S>, o?: FieldOptions<S>): Field<S> =>
  asField(makeRow('struct', { kind: 'struct', vmstate }, o))
/** A nested table in a fixed version, which gates its `since` rows. */
export const vstruct = <S>(vmstate: Vmstate<S>, version: number, o?: FieldOptions<S>): Field<S> =>
  asField(makeRow('vstruct', { kind: 'struct', vmstate, version }, o))
export const structArray = <S>(vmstate: Vmstate<S>, length: number, o: ArrayOptions<S[]> = {}): Field<S[]> =>
  asField(makeRow('struct', { kind: 'struct', vmstate }, o, { array: arrayForm('list', length, o.range) }))
/** Element count is the value of another row of the same table (checked when the table is defined). */
export function structVarray<S>(vmstate: Vmstate<S>, length: LengthFrom, o: VarrayOptions<S[]> = {}): Field<S[]> {
  const array: ArrayForm = {
    count: countFrom(length, o),
    storage: 'list',
    start: 0,
    stateLength: o.capacity ?? 0,
    pointers: false,
  }
  return asField(makeRow('struct', { kind: 'struct', vmstate }, o, { array }))
}

export interface ListOptions extends PresenceOptions {
  /** Most elements accepted. Default 65536. */
  max?: number
}
const listRow = <S>(wire: string, vmstate: Vmstate<S>, o: ListOptions = {}): Field<S[]> =>
  asField(makeRow(wire, { kind: 'list', vmstate, max: o.max ?? DEFAULT_MAX_ELEMENTS }, o))
/**
 * Linked list on the wire (one byte before each element, zero at the end). Elements are read in version `since` of this
 * row, which must lie in the range of their table.
 */
export const list = <S>(vmstate: Vmstate<S>, o?: ListOptions): Field<S[]> => listRow('qtailq', vmstate, o)
/** The same bytes as {@link list}; only the description says `qlist`. */
export const qlist = <S>(vmstate: Vmstate<S>, o?: ListOptions): Field<S[]> => listRow('qlist', vmstate, o)

export interface TreeNode<K, V> {
  key: K
  value: V
}
/** A balanced tree: node count, then key and value of each node in key order. */
export function gtree<K, V>(
  key: Vmstate<K>,
  value: Vmstate<V>,
  o: ListOptions & { compare?: (a: K, b: K) => number } = {},
): Field<TreeNode<K, V>[]> {
  const element: Element = { kind: 'gtree', key, value, max: o.max ?? DEFAULT_MAX_ELEMENTS, compare: o.compare }
  return asField(makeRow('gtree', element, o))
}
/** A tree whose keys are the 64-bit numbers themselves; sent in numeric order. */
export function gtreeDirectKey<V>(value: Vmstate<V>, o: ListOptions = {}): Field<Map<bigint, V>> {
  return asField(makeRow('gtree', { kind: 'gtree', value, max: o.max ?? DEFAULT_MAX_ELEMENTS }, o))
}

/**
 * Rows computed from the state: `from` makes a temporary that `vmstate` saves, `into` takes over what was loaded (also
 * into the temporary that `from` made). Loaded in version `since` of this row.
 */
export function tmp<S, T>(
  vmstate: Vmstate<T>,
  info: { from(state: S): T; into(state: S, tmp: T, version: number): void },
  o?: PresenceOptions,
): Padding {
  const element: Element = { kind: 'tmp', vmstate, from: info.from, into: info.into }
  return asPadding(makeRow('tmp', element, o, { padding: true, bytes: 0 }))
}

/** Escape hatch: own encoding. `get` is a generator for the reason given at VmstateCodec.load. */
export const custom = <T>(info: CustomInfo<T>, o?: FieldOptions<T>): Field<T> =>
  asField(makeRow(info.wire, { kind: 'custom', info }, o))

/**
 * No bytes: a check of the rows above, at its place in the table. When it does not hold, load (and save) throws
 * VmstateMismatchError with the message.
 */
export function validate(
  message: string,
  holds: (state: any, version: number) => boolean,
  o?: Omit<PresenceOptions, 'when'>,
): Padding {
  return asPadding(makeRow('validate', { kind: 'validate', message, holds }, o, { padding: true, bytes: 0 }))
}
