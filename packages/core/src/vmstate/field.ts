/** Names of the field encodings as the stream's JSON description prints them. All integers are big-endian. */
export type WireType =
  | 'bool'
  | 'uint8'
  | 'uint16'
  | 'uint32'
  | 'uint64'
  | 'int8'
  | 'int16'
  | 'int32'
  | 'int64'
  | 'buffer'
  | 'bitmap'
  | 'timer'
  | 'struct'
  | 'qtailq'
  | 'unused_buffer'
  | (string & {})

declare const stateType: unique symbol

/**
 * One row of a vmstate table: pure data, so that the same row can be interpreted, compiled and described.
 * `T` is what the row contributes to the state object.
 */
export interface Field<T> {
  readonly wire: WireType
  /** First version_id whose stream has this row; 0 = always. Older streams leave the value that is there. */
  readonly since: number
  /** Phantom; a method type, so that a class member of a narrower array or literal type still matches. */
  readonly [stateType]?: { of(value: T): void }['of']
}

/** A row without state behind it: retired bytes, a check, a temporary. Contributes nothing to the state type. */
export interface Padding {
  readonly wire: WireType
  readonly bytes: number
  readonly since: number
  readonly padding: true
}

/** Keys are the members of the state; unless a row says `wireName`, they are also the names on the wire. */
export interface FieldTable {
  readonly [key: string]: Field<any> | Padding
}

/** The state type that a table describes. */
export type StateOf<F extends FieldTable> = {
  -readonly [K in keyof F as F[K] extends Padding ? never : K]: F[K] extends Field<infer T> ? T : never
}

export interface PresenceOptions {
  since?: number
  /**
   * The row is present only when this holds; `since` is then not looked at. Must give the same answer on both sides, so
   * it depends on earlier rows (and on what a migration cannot change) only.
   * @param version the version being written, or the sender's while loading
   */
  when?(state: any, version: number): boolean
  /** Name in the JSON description, where it is not the key: `env.gpr`, or one name twice as in fw_cfg. */
  wireName?: string
}
export interface FieldOptions<T> extends PresenceOptions {
  /** Value after reset and before load. Arrays and objects are copied. */
  reset?: T
}
