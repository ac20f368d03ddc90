import {
  type ByteSource,
  bytesSource,
  channelSource,
  diffStreams,
  editStream,
  explainStream,
  explainText,
  inspectStream,
  parseAssignment,
  qemu72,
  qemu100,
  reportJson,
  reportText,
  rewriteStream,
  type StreamEdits,
  upgradeStream,
} from '@ferryvm/stream'
import { deviceTables } from '../../apps/emu/src/stream/tables.ts'
import type { Random } from '../lockstep/random.ts'
import { type Finding, onlyTyped } from './finding.ts'

const bounds = { sectionBytes: 1 << 20 }
const sameAgain: StreamEdits['section'] = ({ version }, state) => state && { version, state }
const nowhere = { write() {} }
const ier = parseAssignment('serial/0:ier=5')

/** What `emu inspect`, `diff`, `explain`, `edit` and `upgrade` do with a damaged stream. */
export async function fuzzTools(
  damaged: Uint8Array,
  original: Uint8Array,
  random: Random,
): Promise<Finding | undefined> {
  const source = (): ByteSource => {
    const seekable = bytesSource(damaged)
    return random.chance(0.5) ? seekable : channelSource({ read: (into) => seekable.read(into) })
  }
  const options = { bounds, ...(random.chance(0.5) && { tables: deviceTables }) }
  const report = await inspectStream(source(), options)
  if (report.bytes > damaged.length) return { what: `inspect read ${report.bytes} of ${damaged.length} bytes` }
  switch (random.below(6)) {
    case 0:
      if (JSON.stringify(reportJson(report)).length > 100 * damaged.length + (1 << 20))
        return { what: 'a report of no size' }
      return undefined
    case 1:
      for (const line of reportText(report)) if (line.length > 1 << 20) return { what: 'a line of no length' }
      return undefined
    case 2:
      await diffStreams(source(), bytesSource(original), options)
      return undefined
    case 3:
      for (const receiver of [qemu72, qemu100]) for (const _ of explainText(explainStream(report, receiver), 'x'));
      return undefined
    case 4:
      return onlyTyped(() =>
        random.chance(0.5)
          ? upgradeStream(source(), nowhere, random.pick(['7.2', '10.0'] as const), {
              ...options,
              force: true,
              nudge: true,
            })
          : editStream(source(), nowhere, [ier], options),
      )
    default:
      return fuzzRewrite(damaged, source(), random.chance(0.5), options)
  }
}

/** What can be read whole comes out as it went in; what cannot is refused. */
async function fuzzRewrite(
  damaged: Uint8Array,
  source: ByteSource,
  decoding: boolean,
  options: object,
): Promise<Finding | undefined> {
  let at = 0
  let same = true
  const compare = {
    write(bytes: Uint8Array) {
      same &&= Buffer.compare(bytes, damaged.subarray(at, at + bytes.length)) === 0
      at += bytes.length
    },
  }
  let refused = false
  const finding = await onlyTyped(async () => {
    try {
      await rewriteStream(source, compare, decoding ? { keepDescription: true, section: sameAgain } : {}, options)
    } catch (error) {
      refused = true
      throw error
    }
  })
  if (finding) return finding
  if (!refused && (!same || at !== damaged.length))
    return { what: `rewriting changed bytes (${at} of ${damaged.length} written)` }
  return undefined
}
