import type { MigrationPriority } from '../registry/migration-priority.ts'
import type { Field, FieldTable, Padding, StateOf } from './field.ts'

type Simplify<T> = { [K in keyof T]: T[K] } & {}
type Merge<U> = (U extends unknown ? (u: U) => void : never) extends (i: infer I) => void ? I : never
type SubState<Subs extends Record<string, FieldTable>> = [keyof Subs] extends [never]
  ? unknown
  : Merge<{ [N in keyof Subs]: StateOf<Subs[N]> }[keyof Subs]>
/** Rows of the table and of all its subsections, in one object. */
export type FullState<F extends FieldTable, Subs extends Record<string, FieldTable>> = Simplify<
  StateOf<F> & SubState<Subs>
>

/** A hook that throws a VmstateError refuses; whatever else it throws arrives wrapped in VmstateHookError. */
export interface VmstateHooks<S> {
  /** Before the first row is written. */
  preSave?(state: S): void
  /** After the last one, also when a row failed; not after a failed `preSave`. */
  postSave?(state: S): void
  /** The place for defaults of rows that the sender may not have. */
  preLoad?(state: S): void
  /** Throw VmstateMismatchError to refuse the incoming state. `version` is the sender's version_id. */
  postLoad?(state: S, version: number): void
}

export interface SubsectionTable<F, S> extends VmstateHooks<S> {
  /** Default 1. */
  readonly version?: number
  /** Defaults to `version`. */
  readonly minimumVersion?: number
  readonly fields: F
  /** Full name of another subsection of this table, inside of which this one travels. */
  readonly inside?: string
  /** Asked when saving only: a subsection that arrives is loaded. */
  needed(state: S): boolean
}

export interface VmstateTable<F extends FieldTable, Subs extends Record<string, FieldTable>>
  extends VmstateHooks<FullState<F, Subs>> {
  /** idstr on the wire. */
  readonly name: string
  readonly version: number
  /** Oldest version_id this table can load; defaults to `version`. */
  readonly minimumVersion?: number
  readonly priority?: MigrationPriority
  readonly fields: F
  /**
   * Keyed by full wire name ("serial/recv_fifo"), which must start with the table's name. Sent only when `needed`; rows
   * land in the same state object.
   */
  readonly subsections?: { readonly [N in keyof Subs]: SubsectionTable<Subs[N], FullState<F, Subs>> }
  /** False leaves the whole section out when saving. */
  needed?(state: FullState<F, Subs>): boolean
}

type RowsOf<T, F> = { readonly [K in keyof F]: K extends keyof T ? Field<T[K]> | Padding : Padding }
export interface ClassTable<T, F extends FieldTable, Subs extends Record<string, FieldTable>> extends VmstateHooks<T> {
  readonly name: string
  readonly version: number
  readonly minimumVersion?: number
  readonly priority?: MigrationPriority
  readonly fields: F & RowsOf<T, F>
  readonly subsections?: { readonly [N in keyof Subs]: SubsectionTable<Subs[N] & RowsOf<T, Subs[N]>, T> }
  needed?(state: T): boolean
  /** Makes an object with reset values; needed only where elements of this table are created while loading. */
  create?(): T
}

/** An opaque, walkable description of a state type `S`. */
export interface Vmstate<S> extends VmstateHooks<S> {
  readonly name: string
  readonly version: number
  readonly minimumVersion: number
  readonly priority: MigrationPriority
  readonly table: VmstateTable<any, any>
  needed?(state: S): boolean
  /** Fresh object with reset values; always the same key order, hence one hidden class. */
  createState(): S
  /** Puts the reset values back, in place: arrays, timers and structs stay the objects that they are. */
  resetState(state: S): void
}
export type StateOfVmstate<V> = V extends Vmstate<infer S> ? S : never
