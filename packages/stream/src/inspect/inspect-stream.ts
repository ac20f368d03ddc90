import { commandName, FerryError } from '@ferryvm/core'
import type { ByteSource } from '../source/byte-source.ts'
import { decodeState, opaqueState } from '../state/state-codec.ts'
import type { PageCounts } from '../walk/page-counts.ts'
import { decodeName } from '../walk/ram-walk.ts'
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
import { PageSet } from './page-set.ts'
import type { CommandReport, ConfigurationReport, RamBlockReport, SectionReport, StreamReport } from './report.ts'

/** More of them tell nothing new. */
const MAX_PROBLEMS = 1000
const MAX_COMMANDS = 1 << 16

/**
 * Reads a whole stream and says what is in it. What is wrong with the stream is in `problems`; only what is wrong with the
 * source (a file that cannot be read) is thrown.
 */
export async function inspectStream(source: ByteSource, options: WalkOptions = {}): Promise<StreamReport> {
  const inspector = new Inspector()
  let bytes = 0
  await walkStream(source, inspector, {
    ...options,
    progress(position, size) {
      bytes = position
      options.progress?.(position, size)
    },
  })
  return inspector.report(bytes)
}

class BlockCounts implements PageCounts {
  readonly entry: RamBlockEntry
  zeroPages = 0
  normalPages: number
  xbzrlePages = 0
  compressedPages = 0
  streamBytes = 0
  readonly pages = new PageSet()

  constructor(entry: RamBlockEntry) {
    this.entry = entry
    this.normalPages = entry.mapped?.pageCount ?? 0
  }
  get usedLength(): number {
    return this.entry.usedLength
  }
  cameRange(from: number, to: number): void {
    this.pages.addRange(from, to)
  }
}

export class Inspector implements StreamVisitor {
  #version: number | undefined
  #configuration: ConfigurationReport | undefined
  readonly #commands: CommandReport[] = []
  readonly #sections: SectionReport[] = []
  #blocks: BlockCounts[] = []
  #totalBytes = 0
  #pageBytes = 4096
  #flushes = 0
  #description: StreamReport['description']
  #complete = false
  #trailingBytes = 0
  readonly #problems: StreamProblem[] = []

  report(bytes: number): StreamReport {
    const blocks = this.#blocks.map(
      ({ entry, pages, ...counts }): RamBlockReport => ({ ...entry, ...counts, distinctPages: pages.count }),
    )
    const ram = { pageBytes: this.#pageBytes, totalBytes: this.#totalBytes, blocks, flushes: this.#flushes }
    return {
      bytes,
      ...(this.#version !== undefined && { version: this.#version }),
      ...(this.#configuration && { configuration: this.#configuration }),
      commands: this.#commands,
      sections: this.#sections,
      ...(blocks.length > 0 && { ram }),
      ...(this.#description && { description: this.#description }),
      complete: this.#complete,
      trailingBytes: this.#trailingBytes,
      problems: this.#problems,
    }
  }

  /** The latest that was met. */
  get lastSection(): SectionReport | undefined {
    return this.#sections.at(-1)
  }

  head(bytes: Uint8Array): void {
    this.#version = bytes[7]
  }
  configuration({ name, subsections }: ConfigurationElement): void {
    this.#configuration = configurationReport(name, subsections)
  }
  command({ offset, id, payload }: CommandElement): void {
    if (this.#commands.length >= MAX_COMMANDS) return
    const name = commandName(id)
    this.#commands.push({ offset, id, ...(name && { name }), payload })
  }
  ramBlocks({ totalBytes, blocks }: RamBlockList): void {
    this.#totalBytes = totalBytes
    this.#blocks = blocks.map((entry) => new BlockCounts(entry))
  }
  counts(block: number, pageBytes: number): PageCounts | undefined {
    this.#pageBytes = pageBytes
    return this.#blocks[block]
  }
  ram(record: RamRecord): void {
    if (record.block < 0) {
      if (record.kind === 'flush') this.#flushes++
      return
    }
    const block = this.#blocks[record.block]!
    block.streamBytes += record.size
    if (record.pageOffset < block.entry.usedLength) block.pages.add(record.pageOffset / this.#pageBytes)
    if (record.kind === 'zero') block.zeroPages++
    else if (record.kind === 'page') {
      block.normalPages++
      this.#pageBytes = record.size - record.payloadAt
    } else if (record.kind === 'xbzrle') block.xbzrlePages++
    else block.compressedPages++
  }
  liveEnd(header: SectionHeader, bytes: number): void {
    const last = this.#sections.at(-1)
    if (header.kind === 'part' && last?.kind === 'part' && last.sectionId === header.sectionId) {
      this.#sections[this.#sections.length - 1] = { ...last, bytes: last.bytes + bytes, count: last.count + 1 }
    } else this.#sections.push({ ...header, bytes, count: 1 })
  }
  state({ header, payload, payloadOffset, layout, layoutSource }: StateElement): void {
    const entry = { ...header, bytes: payload.length, count: 1 }
    if (layout) {
      try {
        this.#sections.push({ ...entry, layoutSource, state: decodeState(payload, layout, payloadOffset) })
        return
      } catch (error) {
        if (!FerryError.isInstance(error)) throw error
        const offset = (error as { offset?: number }).offset ?? payloadOffset
        const section = `${header.idstr}/${header.instanceId}`
        this.problem({ offset, message: error.message, section, fatal: false })
      }
    }
    this.#sections.push({ ...entry, layoutSource: 'none', state: opaqueState(payload) })
  }
  cut(header: SectionHeader, payload: Uint8Array): void {
    const state = opaqueState(payload)
    this.#sections.push({ ...header, bytes: payload.length, count: 1, cut: true, layoutSource: 'none', state })
  }
  end(): void {
    this.#complete = true
  }
  description(_text: Uint8Array, offset: number, bytes: number): void {
    this.#description = { offset, bytes }
  }
  trailing(bytes: Uint8Array): void {
    this.#trailingBytes += bytes.length
  }
  problem(problem: StreamProblem): void {
    if (this.#problems.length < MAX_PROBLEMS) this.#problems.push(problem)
  }
}

/** Spec: stream.md section 3. */
function configurationReport(machine: string, subsections: ConfigurationElement['subsections']): ConfigurationReport {
  const report: { -readonly [K in keyof ConfigurationReport]: ConfigurationReport[K] } = { machine }
  for (const { name, payload } of subsections) {
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length)
    if (name === 'configuration/target-page-bits') report.pageBits = view.getUint32(0)
    else if (name === 'configuration/uuid') {
      const hex = [...payload].map((b) => b.toString(16).padStart(2, '0')).join('')
      report.uuid = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
    } else {
      const capabilities: string[] = []
      for (let at = 4; at < payload.length; at += 1 + payload[at]!)
        capabilities.push(decodeName(payload.subarray(at + 1, at + 1 + payload[at]!)))
      report.capabilities = capabilities
    }
  }
  return report
}
