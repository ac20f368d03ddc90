import type { VmstateDescription } from '@ferryvm/core'
import type { PageCounts } from './page-counts.ts'

/** Something that is not as it should be. The walk goes on where it can. */
export interface StreamProblem {
  /** Bytes from the start of the stream. */
  readonly offset: number
  readonly message: string
  /** What would have been right there. */
  readonly expected?: string
  /** `idstr/instance`, inside a section. */
  readonly section?: string
  /** Nothing after it was read. */
  readonly fatal: boolean
  /** Bytes that hold the stream together are wrong; reading went on, but a copy would not have them. */
  readonly damage?: true
}

export interface ConfigurationElement {
  readonly offset: number
  readonly name: string
  readonly subsections: readonly { readonly name: string; readonly version: number; readonly payload: Uint8Array }[]
  /** The element as it stands in the stream. */
  readonly bytes: Uint8Array
}

export interface CommandElement {
  readonly offset: number
  readonly id: number
  readonly payload: Uint8Array
}

export type SectionKind = 'start' | 'part' | 'end' | 'full'
export interface SectionHeader {
  readonly kind: SectionKind
  /** Of the element byte. */
  readonly offset: number
  readonly sectionId: number
  readonly idstr: string
  readonly instanceId: number
  readonly version: number
  /** Inside a PACKAGED command. */
  readonly packaged: boolean
}

export interface RamBlockEntry {
  readonly idstr: string
  readonly usedLength: number
  /** Bytes of a backing page, where it was sent. */
  readonly hostPageBytes?: number
  /** Guest physical address, with x-ignore-shared. */
  readonly gpa?: number
  readonly mapped?: MappedRam
}
/** Spec: ram.md section 7. */
export interface MappedRam {
  readonly version: number
  readonly pageBytes: number
  readonly bitmapOffset: number
  readonly pagesOffset: number
  /** Pages that are in the file. */
  readonly pageCount: number
}
export interface RamBlockList {
  readonly totalBytes: number
  readonly blocks: readonly RamBlockEntry[]
}

/** One record of RAM. The walker reuses the object; `bytes` is valid during the call only. */
export interface RamRecord {
  kind: 'zero' | 'page' | 'xbzrle' | 'compressed' | 'flush' | 'hook' | 'eos'
  /** Of the record in the stream. */
  offset: number
  /** Index in the block list; -1 for records without a page. */
  block: number
  /** Bytes from the start of the block. */
  pageOffset: number
  /** Of the whole record. */
  size: number
  /** Payload begins here in `bytes`. */
  payloadAt: number
  /** The whole record, as it stands in the stream: a view that is made when it is asked for. */
  readonly bytes: Uint8Array
}

/** How the layout of a section came to be known. */
export type LayoutSource = 'description' | 'table' | 'none'
export interface StateElement {
  readonly header: SectionHeader
  /** As it stands in the stream; the version is in the last four bytes. */
  readonly headerBytes: Uint8Array
  readonly payloadOffset: number
  /** Valid during the call. */
  readonly payload: Uint8Array
  readonly layout?: VmstateDescription
  readonly layoutSource: LayoutSource
}

/** What a walk meets, in stream order. Calls are synchronous; `settle` is awaited whenever the walker waits for input. */
export interface StreamVisitor {
  head?(bytes: Uint8Array): void
  configuration?(element: ConfigurationElement): void
  command?(element: CommandElement): void
  /** START, PART, END: before the payload. `bytes`: the header as it stands in the stream. */
  live?(header: SectionHeader, bytes: Uint8Array): void
  ramBlocks?(list: RamBlockList, header: SectionHeader, bytes: Uint8Array): void
  /** Bytes of a mapped-ram file around its page areas, in pieces. */
  mappedBytes?(bytes: Uint8Array): void
  ram?(record: RamRecord): void
  /** For visitors that only count pages: most records of that block then go there instead of to `ram`. */
  counts?(block: number, pageBytes: number): PageCounts | undefined
  /** Payload of a live section that is not RAM. */
  opaque?(header: SectionHeader, payload: Uint8Array): void
  liveEnd?(header: SectionHeader, payloadBytes: number, footer: boolean): void
  state?(element: StateElement, footer: boolean): void
  /** The stream breaks off inside of this section's payload; these bytes are there. Nothing follows but a problem. */
  cut?(header: SectionHeader, payload: Uint8Array): void
  packaged?(offset: number, bytes: number): void
  end?(offset: number): void
  description?(text: Uint8Array, offset: number, declaredBytes: number): void
  trailing?(bytes: Uint8Array, offset: number): void
  problem?(problem: StreamProblem): void
  settle?(): void | Promise<void>
}
