import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import type { Field, FieldOptions, Padding, WireType } from './field.ts'
import type { Vmstate } from './table.ts'

export type ScalarType =
  | 'bool'
  | 'u8'
  | 'u16'
  | 'u32'
  | 'u64'
  | 'i8'
  | 'i16'
  | 'i32'
  | 'i64'
  | 'u64Number'
  | 'i64Number'
  | 'cpuDouble'

/** How many elements: a fixed number, the value of another row, or what a function of the state says. */
export interface CountFrom {
  readonly from: string | ((state: any) => number)
  /** The count is multiplied by this. */
  readonly times: number
  /** Upper bound, checked before anything is allocated. */
  readonly max: number
  /** The state always holds this many elements, of which the first `count` travel. */
  readonly capacity?: number
}
export type Count = number | CountFrom

export interface CustomInfo<T> {
  /** Type name in the JSON description. */
  readonly wire: string
  reset(): T
  put(value: T, out: QEMUFileWriter, state: any): void
  /** A generator for the reason given at `VmstateCodec.load`: `yield n` returns once n bytes are available. */
  get(input: QEMUFileReader, current: T, state: any): Generator<number, T>
}

export type Element =
  | { readonly kind: 'scalar'; readonly type: ScalarType; readonly check?: 'equal' | 'le'; readonly hint?: string }
  | { readonly kind: 'timer' }
  | { readonly kind: 'buffer'; readonly size: Count; readonly start: number; readonly stateBytes: number }
  | { readonly kind: 'bitmap'; readonly size: Count }
  | { readonly kind: 'unused'; readonly bytes: number }
  | { readonly kind: 'struct'; readonly vmstate: Vmstate<any>; readonly version?: number }
  | { readonly kind: 'list'; readonly vmstate: Vmstate<any>; readonly max: number }
  | {
      readonly kind: 'gtree'
      readonly key?: Vmstate<any>
      readonly value: Vmstate<any>
      readonly max: number
      readonly compare?: (a: any, b: any) => number
    }
  | {
      readonly kind: 'tmp'
      readonly vmstate: Vmstate<any>
      from(state: any): any
      into(state: any, tmp: any, version: number): void
    }
  | { readonly kind: 'custom'; readonly info: CustomInfo<any> }
  | { readonly kind: 'validate'; readonly message: string; holds(state: any, version: number): boolean }

export interface ArrayForm {
  readonly count: Count
  /** `typed`: the typed array of the scalar; `list`: a JavaScript array. */
  readonly storage: 'typed' | 'list'
  /** Index of the first element that travels. */
  readonly start: number
  /** Elements in the state, where it is more than travels. */
  readonly stateLength: number
  /** Elements may be null; a null is the one byte 0x30. */
  readonly pointers: boolean
}

/** What a row function really returns. Plain data: rows made by another copy of this package work too. */
export interface Row {
  readonly wire: WireType
  readonly since: number
  readonly element: Element
  readonly array?: ArrayForm
  readonly wireName?: string
  readonly reset?: unknown
  when?(state: any, version: number): boolean
  readonly padding?: true
  readonly bytes?: number
}

/** @internal Builds the plain object of a row. */
export function makeRow(wire: string, element: Element, options: FieldOptions<any> = {}, rest: Partial<Row> = {}): Row {
  const row: Record<string, unknown> = { wire, since: options.since ?? 0, element }
  if (options.wireName !== undefined) row.wireName = options.wireName
  if (options.reset !== undefined) row.reset = options.reset
  if (options.when !== undefined) row.when = options.when
  return Object.freeze(Object.assign(row, rest)) as unknown as Row
}

/** The one place where a row gets its public type. */
export const asField = <T>(row: Row): Field<T> => row as unknown as Field<T>
export const asPadding = (row: Row): Padding => row as unknown as Padding
