import { Element, FerryError, formatSection, STREAM_MAGIC, STREAM_VERSION } from '@ferryvm/core'
import { type DeviceDescription, parseDescription } from '../description/stream-description.ts'
import { StreamRewriteError } from '../errors.ts'
import { ByteBuilder, type ByteSink } from '../source/byte-sink.ts'
import type { ByteSource } from '../source/byte-source.ts'
import { decodeState, encodeState } from '../state/state-codec.ts'
import { describeNode, type StateNode } from '../state/state-node.ts'
import { decodeName, RamFlag } from '../walk/ram-walk.ts'
import type {
  CommandElement,
  ConfigurationElement,
  RamBlockEntry,
  RamBlockList,
  RamRecord,
  SectionHeader,
  StateElement,
  StreamProblem,
  StreamVisitor,
} from '../walk/visitor.ts'
import { type WalkOptions, walkStream } from '../walk/walk-stream.ts'

export interface SectionEdit {
  readonly version: number
  readonly state: StateNode
}

/** What is to be different in the stream that comes out. Without any of it every byte stays. */
export interface StreamEdits {
  /** A look at the configuration; it may throw. */
  configuration?(element: ConfigurationElement): void
  /** False leaves a command out. */
  keepCommand?(command: CommandElement): boolean
  /** Commands to be written before this START, PART or END. */
  commandsBefore?(header: SectionHeader): readonly { id: number; payload: Uint8Array }[]
  /** False leaves a RAM block and its pages out. */
  keepBlock?(block: RamBlockEntry): boolean
  /**
   * A FULL section. Undefined leaves it as it is.
   * @param state undefined: nobody describes the payload
   */
  section?(header: SectionHeader, state: StateNode | undefined): SectionEdit | 'drop' | undefined
  /** Whose habits the description follows, where it changes. Default: those of the text. */
  readonly style?: '7.2' | '10.0'
  /** Sections change in values only: the description stays as it is. */
  readonly keepDescription?: boolean
}

export interface RewriteResult {
  readonly bytes: number
  /** `idstr/instance` of sections that are not as they were. */
  readonly changed: readonly string[]
  readonly dropped: readonly string[]
  readonly problems: readonly StreamProblem[]
}

/**
 * Takes a stream apart and puts it together again, with changes. Constant memory, one pass.
 * @throws StreamRewriteError the stream is damaged, or of a form that does not allow the change
 */
export async function rewriteStream(
  source: ByteSource,
  sink: ByteSink,
  edits: StreamEdits = {},
  options: WalkOptions = {},
): Promise<RewriteResult> {
  const writer = new StreamRewriter(sink, edits)
  await walkStream(source, writer, options)
  const fatal = writer.problems.find((p) => p.fatal || p.damage)
  if (fatal) throw new StreamRewriteError(`the stream is damaged: ${fatal.message}`, fatal)
  return writer.result()
}

const encoder = new TextEncoder()

class StreamRewriter implements StreamVisitor {
  readonly #sink: ByteSink
  readonly #edits: StreamEdits
  readonly #out = new ByteBuilder()
  readonly problems: StreamProblem[] = []
  readonly #changed = new Map<string, SectionEdit | 'drop'>()
  readonly #names: { changed: string[]; dropped: string[] } = { changed: [], dropped: [] }
  #keep: boolean[] = []
  #mapped = false
  #written = 0
  #packageBytes = 0
  #configuration: ConfigurationElement | undefined

  constructor(sink: ByteSink, edits: StreamEdits) {
    this.#sink = sink
    this.#edits = edits
  }

  result(): RewriteResult {
    return { bytes: this.#written, ...this.#names, problems: this.problems }
  }

  settle(): void | Promise<void> {
    this.#written += this.#out.length
    return this.#out.flush(this.#sink)
  }
  problem(problem: StreamProblem): void {
    if (problem.fatal || problem.damage || this.problems.length < 1000) this.problems.push(problem)
  }

  head(): void {
    this.#out.u32(STREAM_MAGIC)
    this.#out.u32(STREAM_VERSION)
  }
  configuration(element: ConfigurationElement): void {
    this.#configuration = element
    this.#edits.configuration?.(element)
    this.#out.put(element.bytes)
  }
  command(command: CommandElement): void {
    if (this.#edits.keepCommand?.(command) === false) this.#alters(command.offset)
    else this.#command(command.id, command.payload)
  }
  #command(id: number, payload: Uint8Array): void {
    const out = this.#out
    out.u8(Element.COMMAND)
    out.u16(id)
    out.u16(payload.length)
    out.put(payload)
  }
  packaged(_offset: number, bytes: number): void {
    this.#packageBytes = bytes
  }
  /** Lengths and file positions of what was written already cannot follow a change. */
  #alters(offset: number): void {
    if (this.#mapped) throw new StreamRewriteError('a mapped-ram stream has positions in it that would have to move')
    if (this.#packageBytes > 0)
      throw new StreamRewriteError(`a package (postcopy) cannot change its length, at offset 0x${offset.toString(16)}`)
  }

  live(header: SectionHeader, bytes: Uint8Array): void {
    for (const { id, payload } of this.#edits.commandsBefore?.(header) ?? []) {
      this.#alters(header.offset)
      this.#command(id, payload)
    }
    this.#out.put(bytes)
  }
  ramBlocks({ totalBytes, blocks }: RamBlockList, header: SectionHeader, bytes: Uint8Array): void {
    this.#keep = blocks.map((block) => this.#edits.keepBlock?.(block) ?? true)
    if (!this.#keep.includes(false)) {
      this.#out.put(bytes)
      return
    }
    this.#alters(header.offset)
    const kept = blocks.filter((_, i) => this.#keep[i])
    const left = blocks.reduce((sum, block, i) => (this.#keep[i] ? sum : sum - block.usedLength), totalBytes)
    this.#names.dropped.push(...blocks.filter((_, i) => !this.#keep[i]).map((b) => b.idstr))
    this.#out.u64(BigInt(left) + BigInt(RamFlag.MEM_SIZE))
    for (const { idstr, usedLength, hostPageBytes, gpa } of kept) {
      this.#out.str8(encoder.encode(idstr))
      this.#out.u64(BigInt(usedLength))
      if (hostPageBytes !== undefined) this.#out.u64(BigInt(hostPageBytes))
      if (gpa !== undefined) this.#out.u64(BigInt(gpa))
    }
  }
  mappedBytes(bytes: Uint8Array): void {
    this.#mapped = true
    this.#out.put(bytes)
  }
  ram(record: RamRecord): void {
    // A record that continues a block follows one of the same block: both stay or both go.
    if (record.block < 0 || this.#keep[record.block]) this.#out.put(record.bytes)
  }
  opaque(_header: SectionHeader, payload: Uint8Array): void {
    this.#out.put(payload)
  }
  liveEnd(header: SectionHeader, _bytes: number, footer: boolean): void {
    if (footer) this.#footer(header)
  }
  #footer({ sectionId }: SectionHeader): void {
    this.#out.u8(Element.SECTION_FOOTER)
    this.#out.u32(sectionId)
  }

  state({ header, headerBytes, payload, payloadOffset, layout }: StateElement, footer: boolean): void {
    let decoded: StateNode | undefined
    try {
      if (this.#edits.section) decoded = layout && decodeState(payload, layout, payloadOffset)
    } catch (error) {
      if (!FerryError.isInstance(error)) throw error
      const section = `${header.idstr}/${header.instanceId}`
      this.problem({ offset: payloadOffset, message: error.message, section, fatal: false })
    }
    const edit = this.#edits.section?.(header, decoded)
    const name = `${header.idstr}/${header.instanceId}`
    if (edit === 'drop') {
      this.#alters(header.offset)
      this.#changed.set(name, edit)
      this.#names.dropped.push(name)
      return
    }
    const bytes = edit ? encodeState(edit.state) : payload
    if (edit) {
      if (bytes.length !== payload.length) this.#alters(header.offset)
      this.#changed.set(name, edit)
      this.#names.changed.push(name)
    }
    this.#out.put(headerBytes.subarray(0, -4))
    this.#out.u32(edit?.version ?? header.version)
    this.#out.put(bytes)
    if (footer) this.#footer(header)
  }
  end(): void {
    this.#out.u8(Element.EOF)
  }
  description(text: Uint8Array, _offset: number, declared: number): void {
    const { style, keepDescription } = this.#edits
    const changed = !keepDescription && (this.#changed.size > 0 || style !== undefined)
    const bytes = changed ? encoder.encode(this.#describe(decodeName(text))) : text
    this.#out.u8(Element.VMDESCRIPTION)
    this.#out.u32(changed ? bytes.length : declared)
    this.#out.put(bytes)
  }
  trailing(bytes: Uint8Array): void {
    this.#out.put(bytes)
  }

  /** Texts of devices that did not change stay as they are. */
  #describe(text: string): string {
    const { pageBytes, configurationText, devices } = parseDescription(text)
    const style = this.#edits.style ?? (configurationText ? '10.0' : '7.2')
    const texts = devices.flatMap((device) => this.#device(device, style))
    const keys = [`"page_size": ${pageBytes ?? 4096}`, `"devices": [${texts.join(', ')}]`]
    if (style === '10.0' && this.#configuration)
      keys.unshift(`"configuration": ${configurationText ?? describeConfiguration(this.#configuration)}`)
    return `{${keys.join(', ')}}`
  }
  #device({ name, instanceId, vmsdName, text }: DeviceDescription, style: '7.2' | '10.0'): string[] {
    const edit = this.#changed.get(`${name}/${instanceId}`)
    if (edit === 'drop') return []
    if (!edit || vmsdName === undefined) return [text]
    const vmstate = { ...describeNode(edit.state, style), version: edit.version }
    return [formatSection({ name, instanceId, vmstate })]
  }
}

/** Spec: stream.md section 6; subsections of the configuration are left out. */
function describeConfiguration({ name }: ConfigurationElement): string {
  const length = encoder.encode(name).length
  const fields = `[{"name": "len", "type": "uint32", "size": 4}, {"name": "name", "type": "buffer", "size": ${length}}]`
  return `{"vmsd_name": "configuration", "version": 1, "fields": ${fields}}`
}
