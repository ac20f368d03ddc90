import type { StateNode } from '../state/state-node.ts'
import type { LayoutSource, RamBlockEntry, SectionKind, StreamProblem } from '../walk/visitor.ts'

/** Everything that is in a stream, but for the contents of RAM. */
export interface StreamReport {
  /** Bytes read. */
  readonly bytes: number
  /** Of the format; absent: not even that could be read. */
  readonly version?: number
  readonly configuration?: ConfigurationReport
  readonly commands: readonly CommandReport[]
  /** In stream order; PARTs of one section that follow each other are one entry. */
  readonly sections: readonly SectionReport[]
  readonly ram?: RamReport
  readonly description?: { readonly offset: number; readonly bytes: number }
  /** End of stream was reached. */
  readonly complete: boolean
  /** Bytes behind all of it. */
  readonly trailingBytes: number
  readonly problems: readonly StreamProblem[]
}
export interface ConfigurationReport {
  readonly machine: string
  readonly pageBits?: number
  readonly capabilities?: readonly string[]
  readonly uuid?: string
}
export interface CommandReport {
  readonly offset: number
  readonly id: number
  readonly name?: string
  readonly payload: Uint8Array
}
export interface SectionReport {
  readonly kind: SectionKind
  readonly offset: number
  readonly sectionId: number
  readonly idstr: string
  readonly instanceId: number
  readonly version: number
  /** Payload, without header and footer; of folded PARTs together. */
  readonly bytes: number
  /** How many PARTs this stands for. */
  readonly count: number
  readonly packaged: boolean
  /** The stream breaks off inside of it. */
  readonly cut?: true
  /** FULL sections. */
  readonly layoutSource?: LayoutSource
  readonly state?: StateNode
}
export interface RamReport {
  readonly pageBytes: number
  readonly totalBytes: number
  readonly blocks: readonly RamBlockReport[]
  /** Ends of a multifd round. */
  readonly flushes: number
}
export interface RamBlockReport extends RamBlockEntry {
  readonly zeroPages: number
  readonly normalPages: number
  readonly xbzrlePages: number
  readonly compressedPages: number
  /** Pages that came at least once. */
  readonly distinctPages: number
  /** Bytes of its records, words and names counted. */
  readonly streamBytes: number
}
