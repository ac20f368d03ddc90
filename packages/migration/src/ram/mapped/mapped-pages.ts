import { PAGE_BYTES, type QEMUFileWriter, type RamBlock, type SeekableChannel } from '@ferryvm/core'
import type { PageEncoder, RamSaveSession } from '../page-encoding.ts'
import type { IsZeroPage } from '../zero-page.ts'
import { bitmapBytes, MAPPED_HEADER_BYTES, MAPPED_RUN_BYTES, MAPPED_VERSION, mappedLayout } from './mapped-layout.ts'

interface Mapping {
  readonly bitmapAt: number
  readonly pagesAt: number
  readonly bitmap: Uint8Array
}

/** Every page has its place in the file, and is written there again when the guest has written it again. Spec: ram.md section 7. */
export class MappedPages implements PageEncoder {
  readonly #file: SeekableChannel
  readonly #isZero: IsZeroPage | undefined
  readonly #writers: number
  readonly #mappings = new Map<RamBlock, Mapping>()
  readonly #underWay = new Set<Promise<void>>()
  #stats: RamSaveSession['stats'] | undefined
  /** Neighbouring pages that are to be written together. */
  #run: { readonly block: RamBlock; readonly begin: number; end: number } | undefined
  #failure: { readonly error: unknown } | undefined
  bytesBeside = 0

  /** @param writers writes that may be under way at once */
  constructor(file: SeekableChannel, isZero: IsZeroPage | undefined, writers: number) {
    this.#file = file
    this.#isZero = isZero
    this.#writers = writers
  }

  begin(session: RamSaveSession): void {
    this.#stats = session.stats
  }

  async blockEntry(block: RamBlock, f: QEMUFileWriter): Promise<void> {
    await f.flush()
    const { bitmapAt, pagesAt } = mappedLayout(this.#file.position, block.sizeBytes)
    f.putBe32(MAPPED_VERSION)
    f.putBe64(BigInt(PAGE_BYTES))
    f.putBe64(BigInt(bitmapAt))
    f.putBe64(BigInt(pagesAt))
    await f.flush()
    if (this.#file.position !== bitmapAt) throw new RangeError(`a header of ${MAPPED_HEADER_BYTES} bytes was expected`)
    this.#file.seek(pagesAt + block.sizeBytes)
    this.#mappings.set(block, { bitmapAt, pagesAt, bitmap: new Uint8Array(bitmapBytes(block.sizeBytes)) })
  }

  encode(block: RamBlock, offset: number): boolean | Promise<boolean> {
    const { bitmap } = this.#mappings.get(block)!
    const page = offset / PAGE_BYTES
    const bit = 1 << (page & 7)
    if (this.#isZero?.(block.offset + offset)) {
      bitmap[page >>> 3]! &= ~bit
      this.#stats!.zeroPages++
      return true
    }
    bitmap[page >>> 3]! |= bit
    this.#stats!.normalPages++
    const run = this.#run
    if (run?.block === block && run.end === offset && offset - run.begin < MAPPED_RUN_BYTES) {
      run.end += PAGE_BYTES
      return true
    }
    const pending = this.#write()
    this.#run = { block, begin: offset, end: offset + PAGE_BYTES }
    return pending ? pending.then(() => true) : true
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
    const { block, begin, end } = run
    const writing = this.#file
      .writeAt([block.bytes.subarray(begin, end)], this.#mappings.get(block)!.pagesAt + begin)
      .then(
        () => void (this.bytesBeside += end - begin),
        (error) => void (this.#failure ??= { error }),
      )
      .finally(() => this.#underWay.delete(writing))
    this.#underWay.add(writing)
    return this.#underWay.size < this.#writers ? undefined : Promise.race(this.#underWay)
  }

  async #settled(): Promise<void> {
    await this.#write()
    await Promise.all(this.#underWay)
    if (this.#failure) throw this.#failure.error
  }
}
