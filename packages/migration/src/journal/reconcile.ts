/** Puts a guest together from what both sides of a broken postcopy migration left behind. */
import {
  type Channel,
  createQEMUFileWriter,
  Element,
  PAGE_BYTES,
  type QEMUFileWriter,
  type SeekableChannel,
} from '@ferryvm/core'
import { RAM_CONTINUE, RAM_EOS, RAM_MEM_SIZE, RAM_PAGE, RAM_SECTION_VERSION, RAM_ZERO } from '../ram/ram-records.ts'
import { JournalError } from './journal-error.ts'
import {
  type BlockPlace,
  bitmapBytes,
  decodeHeader,
  type JournalBlock,
  type JournalHeader,
  journalLayout,
  SLOT_BYTES,
} from './journal-format.ts'

export interface ReconcileOptions {
  /** The destination has run the guest, or may have, and what it did there is given up. Default false: that is refused. */
  readonly goBack?: boolean
}

export interface ReconcileResult {
  /**
   * - `destination`: the guest as it stood there, with the pages that had not arrived from the source
   * - `switch`: the guest at the moment of the switch, which never ran at the destination
   * - `back`: that too, but the destination has run it since, or may have
   */
  readonly moment: 'destination' | 'switch' | 'back'
  readonly pagesOfSource: number
  readonly pagesOfDestination: number
}

class Journal {
  readonly header: JournalHeader
  readonly #file: SeekableChannel
  readonly #places = new Map<string, { place: BlockPlace; known: Uint8Array; content: Uint8Array }>()

  private constructor(file: SeekableChannel, header: JournalHeader) {
    this.#file = file
    this.header = header
  }

  static async read(file: SeekableChannel, role: JournalHeader['role']): Promise<Journal> {
    const head = new Uint8Array(2 * SLOT_BYTES)
    const length = await file.readAt(head, 0)
    const header = decodeHeader(head.subarray(0, length))
    if (header.role !== role) throw new JournalError(`the journal of the ${role} is one of a ${header.role}`)
    const journal = new Journal(file, header)
    const { places } = journalLayout(header.blocks)
    for (const [i, { name, sizeBytes }] of header.blocks.entries()) {
      const place = places[i]!
      const known = new Uint8Array(bitmapBytes(sizeBytes))
      const content = new Uint8Array(bitmapBytes(sizeBytes))
      // Bitmaps that were never written are those of nothing.
      await file.readAt(known, place.knownAt)
      await file.readAt(content, place.contentAt)
      journal.#places.set(name, { place, known, content })
    }
    return journal
  }

  knows(block: JournalBlock, page: number): boolean {
    return bit(this.#places.get(block.name)?.known, page)
  }

  /** @returns undefined: it is zero */
  async page(block: JournalBlock, page: number): Promise<Uint8Array | undefined> {
    const { place, content } = this.#places.get(block.name)!
    if (!bit(content, page)) return undefined
    return this.#read(place.pagesAt + page * PAGE_BYTES, PAGE_BYTES, `page ${page} of ${block.name}`)
  }

  async devices(): Promise<Uint8Array> {
    const { devices } = this.header
    if (!devices) throw new JournalError(`the ${this.header.role}'s journal has no device state`)
    return this.#read(devices.at, devices.bytes, 'device state')
  }

  async #read(at: number, length: number, what: string): Promise<Uint8Array> {
    const bytes = new Uint8Array(length)
    const got = await this.#file.readAt(bytes, at)
    if (got < length) throw new JournalError(`the ${this.header.role}'s journal ends within its ${what}`)
    return bytes
  }
}

const bit = (bitmap: Uint8Array | undefined, page: number): boolean =>
  bitmap !== undefined && ((bitmap[page >>> 3] ?? 0) & (1 << (page & 7))) !== 0

/**
 * Writes a stream that every loader of that machine takes.
 * @param destination absent: it kept no journal, as stock QEMU does not
 * @throws JournalError why there is no such guest; what was written to `out` by then is to be thrown away
 */
export async function reconcile(
  source: SeekableChannel,
  destination: SeekableChannel | undefined,
  out: Channel,
  { goBack = false }: ReconcileOptions = {},
): Promise<ReconcileResult> {
  const here = await Journal.read(source, 'source')
  const there = destination && (await Journal.read(destination, 'destination'))
  const moment = chooseMoment(here.header, there?.header, goBack)
  const device = await (moment === 'destination' ? there! : here).devices()
  // Where the guest has run its pages are newer; otherwise both are the same, and the source's own are what it sent away.
  const order =
    moment === 'destination' ? [there!, here] : moment === 'switch' && there?.header.saved ? [here, there] : [here]
  for (const { name, sizeBytes } of here.header.blocks) {
    const other = there?.header.saved && there.header.blocks.find((block) => block.name === name)
    if (other && other.sizeBytes !== sizeBytes) throw new JournalError(`block ${name} differs in size at the two ends`)
  }
  lookForHoles(here.header.blocks, order)
  const f = createQEMUFileWriter(out)
  const pages = await writeStream(f, here.header, order, device)
  await f.flush()
  await out.finish?.()
  return {
    moment,
    pagesOfSource: pages.get(here) ?? 0,
    pagesOfDestination: (there && pages.get(there)) ?? 0,
  }
}

function chooseMoment(
  here: JournalHeader,
  there: JournalHeader | undefined,
  goBack: boolean,
): ReconcileResult['moment'] {
  if (here.completed || there?.completed) {
    throw new JournalError('the migration came to its end: the guest is whole at the destination')
  }
  if (!here.devices) throw new JournalError('the source died before the switch: nothing of the guest had been let go')
  if (there?.package !== undefined && there.package !== here.package) {
    throw new JournalError('the two journals belong to different migrations')
  }
  if (there?.ran && there.saved) return 'destination'
  const never = there ? !there.ran : !here.ran
  if (!never && !goBack) {
    const ran = there ? 'has run the guest' : 'may have run the guest, and left no journal'
    throw new JournalError(
      `the destination ${ran}: what it did since the switch is lost. If disks and the network allow it, go back to the switch (--go-back)`,
    )
  }
  return never ? 'switch' : 'back'
}

/** @throws JournalError a page is nowhere */
function lookForHoles(blocks: readonly JournalBlock[], order: readonly Journal[]): void {
  let missing = 0
  for (const block of blocks) {
    for (let page = 0; page < block.sizeBytes / PAGE_BYTES; page++) {
      if (!order.some((journal) => journal.knows(block, page))) missing++
    }
  }
  if (missing === 0) return
  const { whole } = order.find(({ header }) => header.role === 'source')!.header
  const why = whole ? '' : '; the source had not written all of its memory (if it is alive, it still does)'
  throw new JournalError(`${missing} pages of the guest are in neither journal${why}`)
}

async function writeStream(
  f: QEMUFileWriter,
  header: JournalHeader,
  order: readonly Journal[],
  device: Uint8Array,
): Promise<Map<Journal, number>> {
  const counts = new Map<Journal, number>()
  const { blocks, ramSectionId } = header
  const footer = () => {
    f.putByte(Element.SECTION_FOOTER)
    f.putBe32(ramSectionId)
  }
  const section = (type: number) => {
    f.putByte(type)
    f.putBe32(ramSectionId)
  }
  f.putBuffer(Uint8Array.from(header.prefix.match(/../g)!, (pair) => Number.parseInt(pair, 16)))
  section(Element.SECTION_START)
  f.putStr8('ram')
  f.putBe32(0)
  f.putBe32(RAM_SECTION_VERSION)
  f.putBe64(BigInt(blocks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)) | BigInt(RAM_MEM_SIZE))
  for (const { name, sizeBytes } of blocks) {
    f.putStr8(name)
    f.putBe64(BigInt(sizeBytes))
  }
  f.putBe64(BigInt(RAM_EOS))
  footer()
  section(Element.SECTION_END)
  for (const block of blocks) {
    let named = 0
    for (let page = 0; page < block.sizeBytes / PAGE_BYTES; page++) {
      const journal = order.find((j) => j.knows(block, page))!
      counts.set(journal, (counts.get(journal) ?? 0) + 1)
      const bytes = await journal.page(block, page)
      f.putBe64(BigInt(page * PAGE_BYTES) | BigInt((bytes ? RAM_PAGE : RAM_ZERO) | named))
      if (!named) f.putStr8(block.name)
      named = RAM_CONTINUE
      if (bytes) f.putBuffer(bytes)
      else f.putByte(0)
      if (f.buffered > 2 ** 20) await f.flush()
    }
  }
  f.putBe64(BigInt(RAM_EOS))
  footer()
  f.putBufferAsync(device)
  return counts
}
