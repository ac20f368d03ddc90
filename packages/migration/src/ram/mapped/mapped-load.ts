import { nextTurn, PAGE_BYTES, type RamBlock, type SeekableChannel } from '@ferryvm/core'
import type { PageRecord, RamLoadSession } from '../page-decoding.ts'
import type { IsZeroPage } from '../zero-page.ts'
import { type MappedBlock, mappedBlockField } from './mapped-block.ts'
import { MAPPED_RUN_BYTES } from './mapped-layout.ts'

/** Pages that are not in the file are looked at in pieces of this many, before the event loop gets a turn. */
const PAGES_PER_TURN = 4096

/** Reads every block as its entry in the block list passes. Spec: ram.md section 7. */
export function mappedRamSession(
  file: SeekableChannel,
  isZero: IsZeroPage,
  readers: number,
  stats: { normalPages: number; zeroPages: number },
): RamLoadSession {
  async function loadBlock({ block, pagesAt, bitmap }: MappedBlock, { fail }: PageRecord): Promise<void> {
    const underWay = new Set<Promise<void>>()
    let failure: unknown
    for (const { begin, end } of runs(bitmap, block.sizeBytes / PAGE_BYTES)) {
      const into = block.bytes.subarray(begin * PAGE_BYTES, end * PAGE_BYTES)
      const reading = file
        .readAt(into, pagesAt + begin * PAGE_BYTES)
        .then((count) => {
          if (count < into.length) throw fail('the file ends within its pages')
          stats.normalPages += end - begin
        })
        .catch((error) => void (failure ??= error))
        .finally(() => underWay.delete(reading))
      underWay.add(reading)
      if (underWay.size >= readers) await Promise.race(underWay)
      if (failure) break
    }
    await Promise.all(underWay)
    if (failure) throw failure
    await clearOthers(block, bitmap)
  }

  /** The sender's memory had zeros there; ours may have a kernel that was loaded for a boot. */
  async function clearOthers(block: RamBlock, bitmap: Uint8Array): Promise<void> {
    const pages = block.sizeBytes / PAGE_BYTES
    for (let page = 0; page < pages; page++) {
      if (page % PAGES_PER_TURN === PAGES_PER_TURN - 1) await nextTurn()
      if (bitmap[page >>> 3]! & (1 << (page & 7))) continue
      const at = page * PAGE_BYTES
      if (!isZero(block.offset + at)) block.bytes.fill(0, at, at + PAGE_BYTES)
      stats.zeroPages++
    }
  }

  return { pagesElsewhere: true, blockFields: [mappedBlockField(file, loadBlock)] }
}

/** Runs of set bits, none longer than what is read at once. */
function* runs(bitmap: Uint8Array, pages: number): Generator<{ begin: number; end: number }> {
  const isSet = (page: number) => (bitmap[page >>> 3]! & (1 << (page & 7))) !== 0
  const longest = MAPPED_RUN_BYTES / PAGE_BYTES
  for (let page = 0; page < pages; ) {
    if (!isSet(page)) {
      page++
      continue
    }
    const begin = page
    while (page < pages && page - begin < longest && isSet(page)) page++
    yield { begin, end: page }
  }
}
