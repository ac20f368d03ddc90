import { Inspector } from '../inspect/inspect-stream.ts'
import type { SectionReport, StreamReport } from '../inspect/report.ts'
import { hexOf, type Json, valueJson } from '../inspect/report-json.ts'
import { bytesText, scalarText, size } from '../inspect/report-text.ts'
import { leavesOf } from '../rewrite/field-path.ts'
import type { ByteSource } from '../source/byte-source.ts'
import { isBytes, type StateNode, type Value } from '../state/state-node.ts'
import type { RamBlockList, RamRecord, StateElement, StreamProblem } from '../walk/visitor.ts'
import { type WalkOptions, walkStream } from '../walk/walk-stream.ts'
import { PageHashes } from './page-hashes.ts'

export interface FieldDifference {
  readonly path: string
  /** Absent: the field is on the other side only. */
  readonly a?: Value
  readonly b?: Value
  readonly type: string
}
export interface SectionDifference {
  /** `idstr/instance` */
  readonly name: string
  readonly only?: 'a' | 'b'
  readonly versions?: readonly [a: number, b: number]
  readonly fields: readonly FieldDifference[]
}
export interface BlockDifference {
  readonly idstr: string
  readonly only?: 'a' | 'b'
  readonly lengths?: readonly [a: number, b: number]
  /** Pages whose content after loading differs. */
  readonly pages: number
  /** Byte offsets of the first of them in the block. */
  readonly first: readonly number[]
  /** Pages that came as deltas or packed: not compared. */
  readonly undecided: number
}
export interface StreamDiff {
  /** No difference at all in what a receiver would have. */
  readonly same: boolean
  /** Machine, capabilities, commands: [what, a, b]. */
  readonly general: readonly (readonly [what: string, a: string, b: string])[]
  readonly ram: readonly BlockDifference[]
  readonly sections: readonly SectionDifference[]
  /** Where a stream could not be read, what follows was not compared. */
  readonly problems: { readonly a: readonly StreamProblem[]; readonly b: readonly StreamProblem[] }
}

/** Offsets of pages that are named. */
const FIRST_PAGES = 16

/** Compares what two streams would leave in a receiver: field by field, and RAM block by block. */
export async function diffStreams(a: ByteSource, b: ByteSource, options: WalkOptions = {}): Promise<StreamDiff> {
  const [left, right] = [new HashingInspector(), new HashingInspector()]
  await walkStream(a, left, options)
  await walkStream(b, right, options)
  const [ra, rb] = [left.report(0), right.report(0)]
  const general = generalDifferences(ra, rb)
  const ram = ramDifferences(left, right, ra, rb)
  const sections = sectionDifferences(left, right, ra, rb)
  return {
    same: general.length === 0 && ram.length === 0 && sections.length === 0,
    general,
    ram,
    sections,
    problems: { a: ra.problems, b: rb.problems },
  }
}

class HashingInspector extends Inspector {
  hashes: PageHashes[] = []
  /** By the section that is reported: what is the same byte for byte need not be compared field by field. */
  readonly payloads = new Map<SectionReport, Uint8Array>()
  #pages = 4096
  override state(element: StateElement): void {
    super.state(element)
    this.payloads.set(this.lastSection!, element.payload.slice())
  }
  override ramBlocks(list: RamBlockList): void {
    super.ramBlocks(list)
    this.hashes = list.blocks.map(() => new PageHashes())
  }
  /** Every page is looked at. */
  override counts(): undefined {}
  override ram(record: RamRecord): void {
    super.ram(record)
    const hashes = this.hashes[record.block]
    if (!hashes) return
    const { payloadAt } = record
    if (record.kind === 'page') this.#pages = record.size - payloadAt
    const page = record.pageOffset / this.#pages
    if (record.kind === 'page') hashes.set(page, record.bytes.subarray(payloadAt))
    else if (record.kind === 'zero') hashes.fill(page, record.bytes[payloadAt]!, this.#pages)
    else hashes.undecided.add(page)
  }
}

function generalDifferences(a: StreamReport, b: StreamReport): [string, string, string][] {
  const facts = (r: StreamReport): Record<string, string> => ({
    machine: r.configuration?.machine ?? 'not said',
    uuid: r.configuration?.uuid ?? 'none',
    capabilities: r.configuration?.capabilities?.join(', ') ?? 'none',
    'page bits': String(r.configuration?.pageBits ?? 'not said'),
    commands: r.commands.map((c) => c.name ?? c.id).join(', ') || 'none',
    'end of stream': r.complete ? 'reached' : 'missing',
  })
  const [left, right] = [facts(a), facts(b)]
  return Object.keys(left)
    .filter((what) => left[what] !== right[what])
    .map((what) => [what, left[what]!, right[what]!])
}

function ramDifferences(
  left: HashingInspector,
  right: HashingInspector,
  a: StreamReport,
  b: StreamReport,
): BlockDifference[] {
  const blocks = (r: StreamReport) => new Map(r.ram?.blocks.map((block, i) => [block.idstr, { block, i }]))
  const [as, bs] = [blocks(a), blocks(b)]
  const differences: BlockDifference[] = []
  for (const idstr of new Set([...as.keys(), ...bs.keys()])) {
    const [mine, theirs] = [as.get(idstr), bs.get(idstr)]
    const pageBytes = a.ram?.pageBytes ?? 4096
    if (!mine || !theirs) {
      differences.push({ idstr, only: mine ? 'a' : 'b', pages: 0, first: [], undecided: 0 })
      continue
    }
    const [ha, hb] = [left.hashes[mine.i]!, right.hashes[theirs.i]!]
    let pages = 0
    const first: number[] = []
    for (const page of ha.differences(hb)) {
      pages++
      if (first.length < FIRST_PAGES) first.push(page * pageBytes)
    }
    const undecided = ha.undecided.count + hb.undecided.count
    const lengths = [mine.block.usedLength, theirs.block.usedLength] as const
    const resized = lengths[0] !== lengths[1]
    if (pages > 0 || undecided > 0 || resized)
      differences.push({ idstr, ...(resized && { lengths }), pages, first, undecided })
  }
  return differences
}

function sectionDifferences(
  left: HashingInspector,
  right: HashingInspector,
  a: StreamReport,
  b: StreamReport,
): SectionDifference[] {
  const full = (r: StreamReport) =>
    new Map(r.sections.filter((s) => s.kind === 'full').map((s) => [`${s.idstr}/${s.instanceId}`, s]))
  const [as, bs] = [full(a), full(b)]
  const differences: SectionDifference[] = []
  for (const name of new Set([...as.keys(), ...bs.keys()])) {
    const [mine, theirs] = [as.get(name), bs.get(name)]
    if (!mine || !theirs) {
      differences.push({ name, only: mine ? 'a' : 'b', fields: [] })
      continue
    }
    const [mineBytes, theirBytes] = [left.payloads.get(mine), right.payloads.get(theirs)]
    const same = mine.version === theirs.version && mineBytes && theirBytes && equal(mineBytes, theirBytes)
    const fields = same ? [] : fieldDifferences(mine.state!, theirs.state!)
    const versions = mine.version !== theirs.version && ([mine.version, theirs.version] as const)
    if (fields.length > 0 || versions) differences.push({ name, ...(versions && { versions }), fields })
  }
  return differences
}

function fieldDifferences(a: StateNode, b: StateNode): FieldDifference[] {
  const leaves = (node: StateNode) => new Map([...leavesOf(node)].map((leaf) => [leaf.path, leaf]))
  const [as, bs] = [leaves(a), leaves(b)]
  const differences: FieldDifference[] = []
  for (const path of new Set([...as.keys(), ...bs.keys()])) {
    const [mine, theirs] = [as.get(path), bs.get(path)]
    if (mine && theirs && equal(mine.value, theirs.value)) continue
    const type = (mine ?? theirs)!.field.type
    differences.push({ path, ...(mine && { a: mine.value }), ...(theirs && { b: theirs.value }), type })
  }
  return differences
}

/** A register that is wider in one release than in the other still has the same value. */
function equal(a: Value, b: Value): boolean {
  if (isBytes(a) && isBytes(b)) return a.length === b.length && a.every((byte, i) => byte === b[i])
  // biome-ignore lint/suspicious/noDoubleEquals: 1n and 1 are the same value of a field
  return a == b
}

/** A comparison for people, line by line. `most`: fields shown per section. */
export function* diffText(diff: StreamDiff, most = 40): Generator<string> {
  for (const [what, a, b] of diff.general) yield `${what}: ${a} | ${b}`
  for (const block of diff.ram) {
    if (block.only) {
      yield `RAM ${block.idstr}: only in ${block.only}`
      continue
    }
    const facts = [
      block.lengths ? `length ${size(block.lengths[0])} | ${size(block.lengths[1])}` : '',
      block.pages > 0 ? `${block.pages} pages differ` : '',
      block.undecided > 0 ? `${block.undecided} came as deltas or packed and were not compared` : '',
    ]
    yield `RAM ${block.idstr}: ${facts.filter((f) => f !== '').join(', ')}`
    if (block.first.length > 0)
      yield `  at ${block.first.map((offset) => `0x${offset.toString(16)}`).join(', ')}${block.pages > block.first.length ? ', ...' : ''}`
  }
  for (const { name, only, versions, fields } of diff.sections) {
    yield `${name}:${only ? ` only in ${only}` : ''}${versions ? ` version ${versions[0]} | ${versions[1]}` : ''}`
    for (const field of fields.slice(0, most)) yield `  ${field.path}: ${sideBySide(field)}`
    if (fields.length > most) yield `  ... ${fields.length - most} more`
  }
  for (const side of ['a', 'b'] as const)
    for (const { offset, message } of diff.problems[side])
      yield `note on ${side}: offset 0x${offset.toString(16)}: ${message}`
}

function sideBySide({ a, b, type }: FieldDifference): string {
  if (a instanceof Uint8Array && b instanceof Uint8Array && a.length === b.length && a.length > 16) {
    const at = a.findIndex((byte, i) => byte !== b[i])
    const count = a.filter((byte, i) => byte !== b[i]).length
    const part = (bytes: Uint8Array) => hexOf(bytes.subarray(at, at + 8))
    return `${count} of ${a.length} bytes differ, from ${at} on: ${part(a)} | ${part(b)}`
  }
  const text = (value: Value | undefined) =>
    value === undefined ? 'absent' : isBytes(value) ? bytesText(value, 16) : scalarText(value, type)
  return `${text(a)} | ${text(b)}`
}

/** A comparison for programs; values as in a report. */
export function diffJson(diff: StreamDiff): Json {
  const { sections, ...rest } = diff
  return {
    ...(rest as unknown as { [key: string]: Json }),
    sections: sections.map(({ fields, ...section }) => ({
      ...(section as unknown as { [key: string]: Json }),
      fields: fields.map(({ path, type, a, b }) => ({
        path,
        type,
        ...(a !== undefined && { a: valueJson(a) }),
        ...(b !== undefined && { b: valueJson(b) }),
      })),
    })),
  }
}
