import { nextTurn, PAGE_BYTES, type QEMUFileReader, type RamBlock, type SeekableChannel } from '@ferryvm/core'
import type { BlockField, PageRecord, RamLoadSession } from '../page-decoding.ts'
import type { IsZeroPage } from '../zero-page.ts'
import { bitmapBytes, MAPPED_HEADER_BYTES, MAPPED_RUN_BYTES, MAPPED_VERSION } from './mapped-layout.ts'

/** Pages that are not in the file are looked at in pieces of this many, before the event loop gets a turn. */
const PAGES_PER_TURN = 4096

/** Reads every block as its entry in the block list passes. Spec: ram.md section 7. */
export function mappedRamSession(
  file: SeekableChannel,
  isZero: IsZeroPage,
  readers: number,
  stats: { normalPages: number; zeroPages: number },
): RamLoadSession {
  const field: BlockField = {
    bytes: MAPPED_HEADER_BYTES,
    load(f, { block, fail }) {
      const version = f.getBe32()
      if (version > MAPPED_VERSION) throw fail(`mapped-ram version ${version}; only ${MAPPED_VERSION} is known`)
      const [pageBytes, bitmapAt, pagesAt] = [f.getBe64(), f.getBe64(), f.getBe64()].map(Number) as [
        number,
        number,
        number,
      ]
      if (pageBytes !== PAGE_BYTES) throw fail(`mapped pages of ${pageBytes} bytes; ours have ${PAGE_BYTES}`)
      const limit = Number.MAX_SAFE_INTEGER - block.sizeBytes
      if (bitmapAt > limit || pagesAt > limit) throw fail('its place in the file is beyond 2^53')
      if (pagesAt % PAGE_BYTES !== 0) throw fail(`its pages begin at 0x${pagesAt.toString(16)}, within a page`)
      return loadBlock(f, { block, fail }, bitmapAt, pagesAt)
    },
  }

  async function loadBlock(
    f: QEMUFileReader,
    { block, fail }: Pick<PageRecord, 'block' | 'fail'>,
    bitmapAt: number,
    pagesAt: number,
  ): Promise<void> {
    const bitmap = new Uint8Array(bitmapBytes(block.sizeBytes))
    const missing = (what: string) => fail(`the file ends within its ${what}`)
    if ((await file.readAt(bitmap, bitmapAt)) < bitmap.length) throw missing('bitmap')
    const underWay = new Set<Promise<void>>()
    let failure: unknown
    for (const { begin, end } of runs(bitmap, block.sizeBytes / PAGE_BYTES)) {
      const into = block.bytes.subarray(begin * PAGE_BYTES, end * PAGE_BYTES)
      const reading = file
        .readAt(into, pagesAt + begin * PAGE_BYTES)
        .then((count) => {
          if (count < into.length) throw missing('pages')
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
    // What was read ahead is no part of the stream.
    f.skip(f.available)
    file.seek(pagesAt + block.sizeBytes)
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

  return { pagesElsewhere: true, blockFields: [field] }
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
