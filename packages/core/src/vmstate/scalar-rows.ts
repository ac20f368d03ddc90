import type { Timer } from '../clock/virtual-clock.ts'
import type { Field, FieldOptions } from './field.ts'
import { asField, makeRow, type ScalarType } from './row.ts'
import { scalars } from './scalars.ts'

const scalar = <T>(type: ScalarType, options?: FieldOptions<T>): Field<T> =>
  asField(makeRow(scalars[type].wire, { kind: 'scalar', type }, options))

/** One byte; any non-zero byte loads as true. */
export const bool = (o?: FieldOptions<boolean>): Field<boolean> => scalar('bool', o)
export const u8 = (o?: FieldOptions<number>): Field<number> => scalar('u8', o)
export const u16 = (o?: FieldOptions<number>): Field<number> => scalar('u16', o)
export const u32 = (o?: FieldOptions<number>): Field<number> => scalar('u32', o)
export const i8 = (o?: FieldOptions<number>): Field<number> => scalar('i8', o)
export const i16 = (o?: FieldOptions<number>): Field<number> => scalar('i16', o)
export const i32 = (o?: FieldOptions<number>): Field<number> => scalar('i32', o)
/** 64 bits as bigint. Hot registers belong in u64Array: its buffer can be viewed as Int32Array without copying. */
export const u64 = (o?: FieldOptions<bigint>): Field<bigint> => scalar('u64', o)
export const i64 = (o?: FieldOptions<bigint>): Field<bigint> => scalar('i64', o)
/** 64 bits known to stay below 2^53 (addresses, counters); load throws VmstateRangeError beyond that. */
export const u64Number = (o?: FieldOptions<number>): Field<number> => scalar('u64Number', o)
/** As {@link u64Number}, signed. */
export const i64Number = (o?: FieldOptions<number>): Field<number> => scalar('i64Number', o)
/** The 64 raw bits of an IEEE double, so that NaN payloads survive. */
export const cpuDouble = (o?: FieldOptions<bigint>): Field<bigint> => scalar('cpuDouble', o)

/** Expiry in ns of the timer's clock; -1n: not armed (all ones on the wire). The object stays, its `expireNs` changes. */
export const timer = (o?: FieldOptions<Timer>): Field<Timer> => asField(makeRow('timer', { kind: 'timer' }, o))

const equal = <T>(type: ScalarType, wire: string, hint: string, options?: FieldOptions<T>): Field<T> =>
  asField(makeRow(wire, { kind: 'scalar', type, check: 'equal', hint }, options))

/** Incoming value must equal ours, or load throws VmstateMismatchError carrying `hint`. */
export const u8Equal = (hint: string, o?: FieldOptions<number>): Field<number> => equal('u8', 'uint8 equal', hint, o)
export const u16Equal = (hint: string, o?: FieldOptions<number>): Field<number> => equal('u16', 'uint16 equal', hint, o)
export const u32Equal = (hint: string, o?: FieldOptions<number>): Field<number> => equal('u32', 'uint32 equal', hint, o)
export const i32Equal = (hint: string, o?: FieldOptions<number>): Field<number> => equal('i32', 'int32 equal', hint, o)
/** The description calls this one `int64 equal`. */
export const u64Equal = (hint: string, o?: FieldOptions<bigint>): Field<bigint> => equal('u64', 'int64 equal', hint, o)
/** `int32 le`: the incoming value must lie between 0 and ours, and then replaces it. Nothing to do with byte order. */
export const i32Le = (hint: string, o?: FieldOptions<number>): Field<number> =>
  asField(makeRow('int32 le', { kind: 'scalar', type: 'i32', check: 'le', hint }, o))
