import type { RamHookSender, RamPhase } from '@ferryvm/core'
import type { PageEncoder, RamRecordWriter, RamSaveSession } from './page-encoding.ts'
import { RAM_HOOK } from './ram-records.ts'

const PHASES = { start: 'setup', part: 'round', end: 'finish' } as const

/** Pages that the channel moves beside the stream: a HOOK record says when. Spec: ram.md section 2, protocol.md section 11. */
export function hookedPages(sender: RamHookSender): PageEncoder {
  let session: RamSaveSession
  /** The section's HOOK has gone out, and `end` has not been called. */
  let begun = false
  /** Of the pages without contents that `sender` has told us of. */
  let zeroPages = 0
  async function begin(phase: RamPhase, out: RamRecordWriter): Promise<void> {
    begun = true
    out.marker(RAM_HOOK)
    await out.f.flush()
    await sender.begin(phase, session.blocks)
  }
  return {
    begin(next) {
      session = next
      begun = false
    },
    encode(block, offset, out) {
      session.stats.normalPages++
      if (!begun) {
        const phase = session.completing ? 'finish' : 'round'
        return begin(phase, out)
          .then(() => sender.savePage(block, offset, block.pageBytes))
          .then(() => true)
      }
      const pending = sender.savePage(block, offset, block.pageBytes)
      return pending ? pending.then(() => true) : true
    },
    async sectionEnds(section, out) {
      const phase = PHASES[section]
      if (!begun) await begin(phase, out)
      await sender.end(phase)
      begun = false
      const { stats } = session
      const more = sender.stats.zeroPages - zeroPages
      zeroPages += more
      stats.zeroPages += more
      stats.normalPages -= more
    },
    get bytesBeside() {
      return sender.stats.bytes
    },
  }
}
