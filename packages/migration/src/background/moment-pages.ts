import type { PageEncoder, RamSaveSession } from '../ram/page-encoding.ts'
import { RAM_PAGE, RAM_ZERO } from '../ram/ram-records.ts'
import type { PageContents } from './memory-moment.ts'

/** ZERO and PAGE records of a memory that is written meanwhile. @param detect send pages of zeros as such */
export function momentPages(contents: PageContents, detect: boolean): PageEncoder {
  let stats: RamSaveSession['stats']
  return {
    begin(session) {
      stats = session.stats
    },
    encode(block, offset, out) {
      if (detect && contents.isZero(block, offset)) {
        out.page(RAM_ZERO, block, offset)
        out.f.putByte(0)
        stats.zeroPages++
      } else {
        out.page(RAM_PAGE, block, offset)
        out.f.putBuffer(contents.bytes(block, offset))
        stats.normalPages++
      }
      contents.done(block, offset)
      return true
    },
  }
}
