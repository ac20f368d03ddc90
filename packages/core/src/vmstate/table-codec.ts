import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import type { Row } from './row.ts'
import type { SubsectionTable, VmstateHooks } from './table.ts'

/**
 * How one element of a row travels. Either of fixed size (`bytes`, `take`) or not (`load`).
 * `current` is the value in the state; objects are changed in place and returned.
 */
export interface ElementCodec {
  readonly bytes?: number
  put(value: any, out: QEMUFileWriter, state: any, version: number): void
  /** Only with `bytes`, and only when that many are available. */
  take?(input: QEMUFileReader, current: any, state: any, version: number): any
  load?(input: QEMUFileReader, current: any, state: any, version: number): Generator<number, any>
}

/** One row, ready to run. */
export interface RowCodec {
  readonly key: string
  readonly row: Row
  readonly element: ElementCodec
  /** Size of the whole row, where it is fixed and small enough to be asked for at once. */
  readonly bytes?: number
  put(state: any, out: QEMUFileWriter, version: number): void
  take?(state: any, input: QEMUFileReader, version: number): void
  load?(state: any, input: QEMUFileReader, version: number): Generator<number, void>
}

export interface SubsectionCodec {
  readonly name: string
  readonly table: SubsectionTable<any, any>
  readonly codec: TableCodec
}

/** A table or a subsection, interpreted row by row. */
export interface TableCodec {
  readonly name: string
  readonly version: number
  readonly rows: readonly RowCodec[]
  readonly subsections: readonly SubsectionCodec[]
  readonly hooks: VmstateHooks<any>
  /** Rows only: no hooks, no subsections. Replaced by what was generated. */
  putRows(state: any, out: QEMUFileWriter, version: number): void
  loadRows(state: any, input: QEMUFileReader, version: number): Generator<number, void>
  loadSubsections(state: any, input: QEMUFileReader): Generator<number, void>
  save(state: any, out: QEMUFileWriter, version: number): void
  load(state: any, input: QEMUFileReader, version: number): Generator<number, void>
  /** Without the check of the version range. */
  loadChecked(state: any, input: QEMUFileReader, version: number): Generator<number, void>
}
