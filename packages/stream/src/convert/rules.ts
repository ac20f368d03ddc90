import type { Scalar } from '../state/state-node.ts'

/** One step on the fields of a section, struct or subsection. Names are the description's. */
export type FieldRule =
  /** Leaves a field out. `unless`: then the guest depends on it, and the conversion is refused. */
  | { readonly drop: string; readonly unless?: { readonly not: Scalar; readonly because: string } }
  /** New fields behind one that is there. */
  | { readonly after: string; readonly insert: readonly NewField[] }
  /** New fields in the place of one. */
  | { readonly replace: string; readonly by: readonly NewField[] }
  /** The same value in another type, perhaps under another name. `cut`: upper bits mean nothing; else they must be 0. */
  | { readonly field: string; readonly type: string; readonly name?: string; readonly cut?: boolean }
  | { readonly set: string; readonly value: Scalar }
  /** `allowed`: other bits mean that the guest uses something the receiver does not have. */
  | {
      readonly bits: string
      readonly on?: bigint
      readonly off?: bigint
      readonly allowed?: bigint
      readonly because?: string
    }
  /** Each element of an array of structs; `version`: of their vmstate, which only the description says. */
  | { readonly each: string; readonly version: number; readonly rules: readonly FieldRule[] }
export interface NewField {
  readonly name: string
  readonly type: string
  /** A number of bytes for `unused_buffer`: that many zeros. */
  readonly value: Scalar
}

export type SubsectionRule =
  | { readonly name: string; readonly from: number; readonly to: number; readonly rules: readonly FieldRule[] }
  /** The receiver does not know it. Refused where any of it is not zero, unless it does not matter. */
  | { readonly name: string; readonly drop: 'if zero' | 'always'; readonly because: string }

export interface SectionRule {
  readonly idstr: string
  readonly from: number
  readonly to: number
  readonly rules: readonly FieldRule[]
  readonly subsections?: readonly SubsectionRule[]
}

/** All that changes on the way to a release. What is not named here is the same in both. */
export interface Conversion {
  readonly to: '7.2' | '10.0'
  readonly machine: string
  readonly sections: readonly SectionRule[]
  readonly dropSections: readonly {
    readonly idstr: string
    readonly because: string
    /** A value that makes the guest depend on the section. */
    readonly unless?: { readonly field: string; readonly is: Scalar; readonly because: string }
  }[]
  readonly dropBlocks: readonly string[]
  readonly dropCommands: readonly { readonly id: number; readonly because: string }[]
  /** Written before the END of RAM, if it is not there. */
  readonly switchoverStart: boolean
}
