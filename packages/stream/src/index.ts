/**
 * Reads, compares, explains, edits and converts QEMU migration streams, of any machine. Needs no emulator and runs in browsers.
 *
 * ```ts
 * import { bytesSource, inspectStream, reportText } from '@ferryvm/stream'
 *
 * const report = await inspectStream(bytesSource(bytes))
 * for (const line of reportText(report)) console.log(line)
 * ```
 */
export { type Inspector, inspectStream } from './inspect/inspect-stream.ts'
export type {
  CommandReport,
  ConfigurationReport,
  RamBlockReport,
  RamReport,
  SectionReport,
  StreamReport,
} from './inspect/report.ts'
export { type Json, reportJson, stateJson } from './inspect/report-json.ts'
export { problemText, type ReportTextOptions, reportText } from './inspect/report-text.ts'
export { type ByteSink, BytesSink } from './source/byte-sink.ts'
export {
  type ByteSource,
  blobSource,
  bytesSource,
  channelSource,
  fileSource,
  type PositionedReader,
} from './source/byte-source.ts'
export { decodeState, encodeState } from './state/state-codec.ts'
export type { FieldNode, ListValue, StateNode, TreeValue, Value } from './state/state-node.ts'
export { defaultBounds, type WalkBounds } from './walk/bounds.ts'
export type { SectionIdentity, TableLookup } from './walk/tables.ts'
export type {
  CommandElement,
  ConfigurationElement,
  MappedRam,
  RamBlockEntry,
  RamBlockList,
  RamRecord,
  SectionHeader,
  SectionKind,
  StateElement,
  StreamProblem,
  StreamVisitor,
} from './walk/visitor.ts'
export { type WalkOptions, walkStream } from './walk/walk-stream.ts'
