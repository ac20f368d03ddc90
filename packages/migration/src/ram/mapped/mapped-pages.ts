import { PAGE_BYTES, type QEMUFileWriter, type RamBlock, type SeekableChannel } from '@ferryvm/core'
import type { PageContents } from '../../background/memory-moment.ts'
import type { PageEncoder, RamSaveSession } from '../page-encoding.ts'
import type { IsZeroPage } from '../zero-page.ts'
import { bitmapBytes, MAPPED_RUN_BYTES, writeMappedHeader } from './mapped-layout.ts'

interface Mapping {
  readonly bitmapAt: number
  readonly pagesAt: number
  readonly bitmap: Uint8Array
}

/** Neighbouring pages that are to be written together. */
interface Run {
  readonly block: RamBlock
  readonly begin: number
  end: number
  /** Each page; absent: they are written from guest memory. */
  readonly copies?: Uint8Array[]
}

export interface MappedPagesOptions {
  /** Absent: pages of zeros are written like others. */
  readonly isZero?: IsZeroPage
  /** Writes that may be under way at once. */
  readonly writers: number
  /** Of a memory that is written meanwhile. */
  readonly contents?: PageContents
}

/** Every page has its place in the file, and is written there again when the guest has written it again. Spec: ram.md section 7. */
export class MappedPages implements PageEncoder {
  readonly #file: SeekableChannel
  readonly #options: MappedPagesOptions
  readonly #mappings = new Map<RamBlock, Mapping>()
  readonly #underWay = new Set<Promise<void>>()
  #stats: RamSaveSession['stats'] | undefined
  #run: Run | undefined
  #failure: { readonly error: unknown } | undefined
  bytesBeside = 0

  constructor(file: SeekableChannel, options: MappedPagesOptions) {
    this.#file = file
    this.#options = options
  }

  begin(session: RamSaveSession): void {
    this.#stats = session.stats
  }

  async blockEntry(block: RamBlock, f: QEMUFileWriter): Promise<void> {
    const layout = await writeMappedHeader(this.#file, f, block.sizeBytes)
    this.#mappings.set(block, { ...layout, bitmap: new Uint8Array(bitmapBytes(block.sizeBytes)) })
  }

  encode(block: RamBlock, offset: number): boolean | Promise<boolean> {
    const { bitmap } = this.#mappings.get(block)!
    const { contents } = this.#options
    const page = offset / PAGE_BYTES
    const bit = 1 << (page & 7)
    if (this.#zero(block, offset)) {
      bitmap[page >>> 3]! &= ~bit
      this.#stats!.zeroPages++
      contents?.done(block, offset)
      return true
    }
    bitmap[page >>> 3]! |= bit
    this.#stats!.normalPages++
    const run = this.#run
    if (run?.block === block && run.end === offset && offset - run.begin < MAPPED_RUN_BYTES) {
      this.#copy(run, offset)
      run.end += PAGE_BYTES
      return true
    }
    const pending = this.#write()
    this.#run = { block, begin: offset, end: offset + PAGE_BYTES, copies: contents && [] }
    this.#copy(this.#run, offset)
    return pending ? pending.then(() => true) : true
  }

  #zero(block: RamBlock, offset: number): boolean {
    const { isZero, contents } = this.#options
    return isZero !== undefined && (contents ? contents.isZero(block, offset) : isZero(block.offset + offset))
  }

  #copy({ block, copies }: Run, offset: number): void {
    const { contents } = this.#options
    copies?.push(contents!.bytes(block, offset).slice())
    contents?.done(block, offset)
  }

  /** A page that is written again must not overtake itself. */
  wrapped(): Promise<void> {
    return this.#settled()
  }

  async sectionEnds(section: 'start' | 'part' | 'end'): Promise<void> {
    await this.#write()
    if (section !== 'end') return
    await this.#settled()
    for (const { bitmap, bitmapAt } of this.#mappings.values()) await this.#file.writeAt([bitmap], bitmapAt)
  }

  cleanup(): void {
    this.#mappings.clear()
    this.#run = undefined
  }

  /** @returns a promise when so many writes are under way that the next has to wait */
  #write(): Promise<void> | undefined {
    if (this.#failure) throw this.#failure.error
    const run = this.#run
    this.#run = undefined
    if (!run) return undefined
    const { block, begin, end, copies } = run
    const writing = this.#file
      .writeAt(copies ?? [block.bytes.subarray(begin, end)], this.#mappings.get(block)!.pagesAt + begin)
      .then(
        () => void (this.bytesBeside += end - begin),
        (error) => void (this.#failure ??= { error }),
      )
      .finally(() => this.#underWay.delete(writing))
    this.#underWay.add(writing)
    return this.#underWay.size < this.#options.writers ? undefined : Promise.race(this.#underWay)
  }

  async #settled(): Promise<void> {
    await this.#write()
    await Promise.all(this.#underWay)
    if (this.#failure) throw this.#failure.error
  }
}
