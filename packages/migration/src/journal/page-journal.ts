import { bufferWriter, nextTurn, PAGE_BYTES, type RamBlock, type SeekableChannel, StreamSaver } from '@ferryvm/core'
import { configurationOf, type MigrationContext, resolveUri } from '../context.ts'
import { MigrationUriError } from '../errors.ts'
import {
  type BlockPlace,
  bitmapBytes,
  encodeHeader,
  fnv1a,
  type JournalHeader,
  journalLayout,
  newHeader,
  slotAt,
} from './journal-format.ts'

/** Written at once. */
const RUN_PAGES = 256
/** Pages that are looked at before the event loop turns. */
const PAGES_PER_TURN = 4096

interface Entry extends BlockPlace {
  readonly block: RamBlock
  readonly known: Uint8Array
  readonly content: Uint8Array
}

/** Writes one side's journal. Whatever it says is in the file when its promise resolves, in that order. */
export class PageJournal implements AsyncDisposable {
  readonly #file: SeekableChannel
  readonly #header: JournalHeader
  readonly #entries: readonly Entry[]
  readonly #devicesAt: number
  readonly #isZero: MigrationContext['isZero']
  #last: Promise<void> = Promise.resolve()
  #closed = false

  private constructor(
    file: SeekableChannel,
    header: JournalHeader,
    blocks: readonly RamBlock[],
    isZero: MigrationContext['isZero'],
  ) {
    this.#file = file
    this.#header = header
    this.#isZero = isZero
    const { places, devicesAt } = journalLayout(header.blocks)
    this.#devicesAt = devicesAt
    this.#entries = blocks.map((block, i) => ({
      ...places[i]!,
      block,
      known: new Uint8Array(bitmapBytes(block.sizeBytes)),
      content: new Uint8Array(bitmapBytes(block.sizeBytes)),
    }))
  }

  /** Overwrites the file. @returns undefined: none is wanted @throws the transport's error */
  static async begin(context: MigrationContext, role: JournalHeader['role']): Promise<PageJournal | undefined> {
    const { machine, transports, journal: uri, log, isZero } = context
    if (uri === undefined) return undefined
    const { transport, address } = resolveUri(transports, uri)
    if (!transport.features.has('seekable')) throw new MigrationUriError(uri, 'a page journal is a file: address')
    const file = (await transport.connect(address, { signal: new AbortController().signal, log })) as SeekableChannel
    const blocks = machine.migratableBlocks()
    const ram = machine.sections.entries().find(({ live, idstr }) => live && idstr === 'ram')!
    const header = newHeader({
      role,
      prefix: prefixOf(context),
      ramSectionId: ram.sectionId,
      blocks: blocks.map(({ idstr, sizeBytes }) => ({ name: idstr, sizeBytes })),
    })
    const journal = new PageJournal(file, header, blocks, isZero)
    await journal.note({})
    return journal
  }

  /** Changes what the header says. */
  note(changes: Partial<JournalHeader>): Promise<void> {
    return this.#inTurn(async () => {
      Object.assign(this.#header, changes)
      this.#header.sequence++
      await this.#file.writeAt([encodeHeader(this.#header)], slotAt(this.#header.sequence))
    })
  }

  /**
   * Writes pages that have not been written yet; nobody changes them any more.
   * @param wanted asked with the page's index in its block
   * @param stop asked between two writes
   */
  async pages(wanted: (block: RamBlock, page: number) => boolean, stop: () => boolean = () => false): Promise<void> {
    for (const { block, known, content, pagesAt, knownAt, contentAt } of this.#entries) {
      const pages = block.sizeBytes / PAGE_BYTES
      let turnAt = PAGES_PER_TURN
      for (let page = 0; page < pages; ) {
        if (stop()) return
        if (page >= turnAt) {
          turnAt = page + PAGES_PER_TURN
          await nextTurn()
        }
        let end = page
        // A run of pages with content; zero pages in front of it are only marked.
        for (; end < pages && end - page < RUN_PAGES; end++) {
          const [at, bit] = [end >>> 3, 1 << (end & 7)]
          if (known[at]! & bit || !wanted(block, end)) break
          known[at]! |= bit
          if (this.#isZero(block.offset + end * PAGE_BYTES)) break
          content[at]! |= bit
        }
        if (end > page) {
          const bytes = block.bytes.subarray(page * PAGE_BYTES, end * PAGE_BYTES)
          await this.#file.writeAt([bytes], pagesAt + page * PAGE_BYTES)
        }
        page = end < pages && end - page < RUN_PAGES ? end + 1 : end
      }
      await this.#file.writeAt([known], knownAt)
      await this.#file.writeAt([content], contentAt)
    }
  }

  /** What {@link deviceTail} returned. */
  async devices(bytes: Uint8Array): Promise<void> {
    await this.#file.writeAt([bytes], this.#devicesAt)
    await this.note({ devices: { at: this.#devicesAt, bytes: bytes.length } })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#last
    await this.#file.close().catch(() => {})
  }

  #inTurn(run: () => Promise<void>): Promise<void> {
    const result = this.#last.then(run)
    this.#last = result.catch(() => {})
    return result
  }
}

/** Header and configuration of a stream without capabilities. */
function prefixOf(context: MigrationContext): string {
  const out = bufferWriter()
  const plain = { ...configurationOf(context), validatedCapabilities: {} }
  new StreamSaver(out, context.machine.sections, { settings: context.settings }).begin(plain)
  return [...out.bytes()].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** Device state of a machine that stands: how a stream ends. */
export async function deviceTail({ machine, settings }: MigrationContext): Promise<Uint8Array> {
  const out = bufferWriter()
  const saver = new StreamSaver(out, machine.sections, { settings })
  await saver.saveDevices()
  saver.end()
  return out.bytes()
}

/** Tells packages apart. */
export const packageDigest = (bytes: Uint8Array): string => `${bytes.length}-${fnv1a(bytes).toString(16)}`
