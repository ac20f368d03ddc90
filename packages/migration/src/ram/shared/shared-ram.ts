/**
 * Blocks that are kept in a file which both ends have (`x-ignore-shared`): the stream lists them, with their addresses, and their
 * pages go into the file instead. Spec: ram.md sections 2 and 9.
 */
import { PAGE_BYTES, type PhysicalMap, type RamBlock } from '@ferryvm/core'
import type { RamLoadSession } from '../page-decoding.ts'
import type { PageEncoder } from '../page-encoding.ts'

/** Written at once. */
const RUN_BYTES = 2 ** 20
const WRITERS = 4

export const isShared = (block: RamBlock): boolean => block.backing?.shared === true

/** Takes every page of a shared block, and writes it to its file; and says in the block list where blocks are. Stands first. */
export class SharedPages implements PageEncoder {
  readonly #map: PhysicalMap
  readonly #underWay = new Set<Promise<void>>()
  #run: { readonly block: RamBlock; readonly begin: number; end: number } | undefined
  #failure: { readonly error: unknown } | undefined
  bytesBeside = 0

  constructor(map: PhysicalMap) {
    this.#map = map
  }

  blockEntry(block: RamBlock, f: Parameters<NonNullable<PageEncoder['blockEntry']>>[1]): void {
    f.putBe64(BigInt(this.#map.addressOf(block)))
  }

  encode(block: RamBlock, offset: number): boolean | Promise<boolean> {
    if (!isShared(block)) return false
    const run = this.#run
    if (run?.block === block && run.end === offset && offset - run.begin < RUN_BYTES) {
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

  /** Whoever reads the end of the stream finds everything in the file. */
  sectionEnds(): Promise<void> {
    return this.#settled()
  }

  cleanup(): void {
    this.#run = undefined
  }

  /** @returns a promise when so many writes are under way that the next has to wait */
  #write(): Promise<void> | undefined {
    if (this.#failure) throw this.#failure.error
    const run = this.#run
    this.#run = undefined
    if (!run) return undefined
    const { block, begin, end } = run
    const writing = block
      .backing!.write(block.bytes.subarray(begin, end), begin)
      .then(
        () => void (this.bytesBeside += end - begin),
        (error) => void (this.#failure ??= { error }),
      )
      .finally(() => this.#underWay.delete(writing))
    this.#underWay.add(writing)
    return this.#underWay.size < WRITERS ? undefined : Promise.race(this.#underWay)
  }

  async #settled(): Promise<void> {
    this.#write()
    await Promise.all(this.#underWay)
    if (this.#failure) throw this.#failure.error
  }
}

/** How a destination takes them: the file is read when the sender's guest stands, at the end of the section. */
export function sharedRamSession(
  map: PhysicalMap,
  blocks: readonly RamBlock[],
): Required<Pick<RamLoadSession, 'blockFields' | 'ignores' | 'sectionEnds'>> {
  return {
    ignores: isShared,
    blockFields: [
      {
        bytes: 8,
        load(f, { block, fail }) {
          const theirs = f.getBe64()
          const ours = BigInt(map.addressOf(block))
          if (isShared(block) && theirs !== ours) {
            throw fail(`the sender's is at 0x${theirs.toString(16)}, ours at 0x${ours.toString(16)}`)
          }
        },
      },
    ],
    async sectionEnds(section) {
      if (section !== 'end') return
      for (const block of blocks) if (isShared(block)) await block.backing!.read(block.bytes)
    },
  }
}
