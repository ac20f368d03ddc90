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
export type { Conversion, FieldRule, NewField, SectionRule, SubsectionRule } from './convert/rules.ts'
export { CONVERSIONS, type UpgradeOptions, type UpgradeResult, upgradeStream } from './convert/upgrade-stream.ts'
export {
  type BlockDifference,
  diffJson,
  diffStreams,
  diffText,
  type FieldDifference,
  type SectionDifference,
  type StreamDiff,
} from './diff/diff-streams.ts'
export { StreamConversionError, StreamFieldError, StreamRewriteError, VmstateDumpError } from './errors.ts'
export { explainByDump, explainStream, explainText } from './explain/explain-stream.ts'
export type { Finding, FindingKind } from './explain/finding.ts'
export { type MachineRules, qemu72, qemu100, RECEIVERS, type Receiver, type SectionRange } from './explain/receivers.ts'
export { type Inspector, inspectStream } from './inspect/inspect-stream.ts'
export type {
  CommandReport,
  ConfigurationReport,
  RamBlockReport,
  RamReport,
  SectionReport,
  StreamReport,
} from './inspect/report.ts'
export { type Json, reportJson, reportJsonText, stateJson } from './inspect/report-json.ts'
export { problemText, type ReportTextOptions, reportText } from './inspect/report-text.ts'
export { editStream, type FieldAssignment, parseAssignment } from './rewrite/edit-stream.ts'
export { findLeaf, type Leaf, leavesOf, parseValue } from './rewrite/field-path.ts'
export { type RewriteResult, rewriteStream, type SectionEdit, type StreamEdits } from './rewrite/rewrite-stream.ts'
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
export type { FieldNode, ListValue, Runs, StateNode, TreeValue, Value } from './state/state-node.ts'
export { checkDumps, checkText, type VmstateChange } from './vmstate/check.ts'
export {
  type DumpedDevice,
  type DumpedField,
  type DumpedTable,
  dumpTables,
  formatDump,
  parseDump,
  type VmstateDump,
} from './vmstate/dump.ts'
export { defaultBounds, type WalkBounds } from './walk/bounds.ts'
export type { PageCounts } from './walk/page-counts.ts'
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
