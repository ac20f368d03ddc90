import type { FieldNode, Runs, StateNode, Value } from '../state/state-node.ts'
import { isBytes, isStateNode } from '../state/state-node.ts'
import type { StreamProblem } from '../walk/visitor.ts'
import type { RamReport, SectionReport, StreamReport } from './report.ts'
import { hexOf, valueJson } from './report-json.ts'

export interface ReportTextOptions {
  /** Values of fields. Default true. */
  readonly fields?: boolean
  /** Bytes of a buffer that are shown. Default 32. */
  readonly bufferBytes?: number
}

/** A report for people, line by line. */
export function* reportText(report: StreamReport, options: ReportTextOptions = {}): Generator<string> {
  const { configuration, ram, description } = report
  yield `${report.bytes} bytes${report.version === undefined ? '' : `, stream version ${report.version}`}${
    configuration ? `, machine ${configuration.machine}` : ''
  }${report.complete ? '' : ', incomplete'}`
  if (configuration?.uuid) yield `uuid ${configuration.uuid}`
  if (configuration?.pageBits) yield `page bits ${configuration.pageBits}`
  if (configuration?.capabilities) yield `capabilities ${configuration.capabilities.join(', ')}`
  if (ram) yield* ramText(ram)
  yield ''
  yield '    offset  kind     id  version      bytes  section'
  const commands = [...report.commands]
  for (const section of report.sections) {
    while (commands[0] && commands[0].offset < section.offset) yield commandText(commands.shift()!)
    yield sectionText(section)
    if (options.fields !== false && section.state) {
      if (section.layoutSource === 'table') yield '              (no description: read by our table)'
      if (section.layoutSource === 'none') yield '              (nobody describes these bytes)'
      yield* stateText(section.state, '              ', options)
    }
  }
  for (const command of commands) yield commandText(command)
  if (description) yield `${address(description.offset)}  description, ${description.bytes} bytes`
  for (const problem of report.problems) yield problemText(problem)
}

const address = (offset: number): string => offset.toString(16).padStart(10, ' ')
const commandText = ({ offset, id, name, payload }: StreamReport['commands'][number]): string =>
  `${address(offset)}  command ${name ?? id}${payload.length > 0 ? ` ${hexOf(payload.subarray(0, 32))}` : ''}`

function sectionText({
  kind,
  offset,
  sectionId,
  idstr,
  instanceId,
  version,
  bytes,
  count,
  packaged,
  cut,
}: SectionReport): string {
  const cells = [
    address(offset),
    kind.padEnd(5),
    String(sectionId).padStart(5),
    String(version).padStart(7),
    String(bytes).padStart(9),
  ]
  const notes = `${count > 1 ? ` (${count} parts)` : ''}${packaged ? ' (packaged)' : ''}${cut ? ' (cut short)' : ''}`
  return `${cells.join('  ')}  ${idstr}/${instanceId}${notes}`
}

function* ramText({ pageBytes, totalBytes, blocks, flushes }: RamReport): Generator<string> {
  yield ''
  yield `RAM: ${size(totalBytes)} in ${blocks.length} blocks, pages of ${pageBytes} bytes${flushes > 0 ? `, ${flushes} multifd flushes` : ''}`
  yield '        length      pages       zero     normal     xbzrle     packed       sent  block'
  for (const b of blocks) {
    const cells = [
      size(b.usedLength).padStart(14),
      String(b.mapped ? b.mapped.pageCount : b.distinctPages).padStart(9),
      String(b.zeroPages).padStart(9),
      String(b.normalPages).padStart(9),
      String(b.xbzrlePages).padStart(9),
      String(b.compressedPages).padStart(9),
      size(b.streamBytes).padStart(9),
    ]
    const notes = [
      b.gpa !== undefined ? `at 0x${b.gpa.toString(16)}` : '',
      b.hostPageBytes !== undefined ? `host pages of ${size(b.hostPageBytes)}` : '',
      b.mapped ? `mapped, pages at 0x${b.mapped.pagesOffset.toString(16)}` : '',
    ].filter((n) => n !== '')
    yield `${cells.join('  ')}  ${b.idstr}${notes.length > 0 ? ` (${notes.join(', ')})` : ''}`
  }
}

function* stateText(node: StateNode, indent: string, options: ReportTextOptions): Generator<string> {
  for (const field of node.fields) yield* fieldText(field, indent, options)
  for (const sub of node.subsections) {
    yield `${indent}${sub.name} (version ${sub.version})`
    yield* stateText(sub, `${indent}  `, options)
  }
}

function* fieldText(field: FieldNode, indent: string, options: ReportTextOptions): Generator<string> {
  const { name, type, array } = field
  const runs = field.runs?.()
  if (runs) {
    yield* runsText(field, runs, indent, options)
    return
  }
  const { values } = field
  const simple = values.every((v) => typeof v !== 'object')
  if (!array) yield* valueText(name, values[0]!, type, indent, options)
  else if (simple) yield `${indent}${name} = ${listText(values.map((v) => scalarText(v, type)))}`
  else yield* runsText(field, sameRuns(values), indent, options)
}

/** Queues and pages of zeros: an element that is as the one before is not printed again. */
function* runsText(
  { name, type }: FieldNode,
  runs: Runs,
  indent: string,
  options: ReportTextOptions,
): Generator<string> {
  let i = 0
  for (const { value, count } of runs) {
    yield* valueText(`${name}[${i}]`, value, type, indent, options)
    if (count === 2) yield `${indent}${name}[${i + 1}] is the same`
    else if (count > 2) yield `${indent}${name}[${i + 1}..${i + count - 1}] are the same`
    i += count
  }
}

function sameRuns(values: readonly Value[]): Runs {
  const found: { value: Value; count: number; text: string }[] = []
  for (const value of values) {
    const text = JSON.stringify(valueJson(value))
    const last = found.at(-1)
    if (last?.text === text) last.count++
    else found.push({ value, count: 1, text })
  }
  return found
}

function* valueText(
  name: string,
  value: Value,
  type: string,
  indent: string,
  options: ReportTextOptions,
): Generator<string> {
  if (isBytes(value)) yield `${indent}${name} = ${bytesText(value, options.bufferBytes ?? 32)}`
  else if (isStateNode(value)) {
    yield `${indent}${name}`
    yield* stateText(value, `${indent}  `, options)
  } else if (typeof value !== 'object') yield `${indent}${name} = ${scalarText(value, type)}`
  else if (value.kind === 'list') {
    yield `${indent}${name}: ${value.items.length} elements`
    for (const [i, item] of value.items.entries()) yield* valueText(`[${i}]`, item, type, `${indent}  `, options)
  } else {
    yield `${indent}${name}: ${value.nodes.length} nodes`
    for (const { key, value: v } of value.nodes) {
      yield* valueText('key', key, 'uint64', `${indent}  `, options)
      yield* valueText('value', v, type, `${indent}  `, options)
    }
  }
}

/** Registers and addresses are read in hex, counts in decimal: what is large is shown both ways. */
export function scalarText(value: Value, type = ''): string {
  if (typeof value === 'boolean') return String(value)
  if (type === 'timer' && value === -1n) return 'not armed'
  const number = value as number | bigint
  if (number < 0 || number < 10) return String(number)
  return typeof number === 'number' && number < 1 << 16 ? `${number}` : `0x${number.toString(16)}`
}

/** `[0 (31 times), 7]` instead of thirty-one zeros. */
function listText(texts: readonly string[]): string {
  const parts: string[] = []
  for (let i = 0; i < texts.length; ) {
    let to = i + 1
    while (to < texts.length && texts[to] === texts[i]) to++
    if (to - i > 2) parts.push(`${texts[i]} (${to - i} times)`)
    else for (let k = i; k < to; k++) parts.push(texts[k]!)
    i = to
  }
  return `[${parts.join(', ')}]`
}

export function bytesText(bytes: Uint8Array, most: number): string {
  if (bytes.length > 0 && bytes.every((b) => b === 0)) return `${bytes.length} bytes of 00`
  const printable = [...bytes.subarray(0, 64)]
  const nul = printable.indexOf(0)
  const text = nul > 3 ? printable.slice(0, nul) : []
  const quoted = text.every((b) => b >= 0x20 && b < 0x7f) && text.length > 0 ? ` "${String.fromCharCode(...text)}"` : ''
  const more = bytes.length > most ? `... (${bytes.length} bytes)` : ''
  return `${hexOf(bytes.subarray(0, most))}${more}${quoted}`
}

export const problemText = ({ offset, message, expected, section, fatal, damage }: StreamProblem): string =>
  `${fatal ? 'stopped' : damage ? 'damaged' : 'note'} at offset 0x${offset.toString(16)}${section ? ` in ${section}` : ''}: ${message}${
    expected ? `; expected ${expected}` : ''
  }`

/** Bytes with a unit that keeps them exact where that is short. */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  let value = bytes
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[unit]}`
}
