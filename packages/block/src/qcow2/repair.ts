/** Puts the counts of a qcow2 image right, from what its tables use. */
import { compareCounts, countUses, type Qcow2CheckResult } from './check.ts'
import { isCopied, mappingAt, offsetAt, setCopied, tableView } from './entries.ts'
import type { Qcow2Image } from './qcow2-image.ts'

export interface RepairResult {
  readonly leaksFixed: number
  readonly corruptionsFixed: number
  /** What was wrong before. */
  readonly found: Qcow2CheckResult
}

/** See {@link repairRefcounts}. */
export function repairQcow2(image: Qcow2Image, what: 'leaks' | 'all'): Promise<RepairResult> {
  return image.lock.exclusive(async () => {
    await image.map.flush()
    return repairRefcounts(image, what)
  })
}

/**
 * With the image's lock held alone, and nothing in memory that the file has not.
 * @param what `leaks` lowers counts that are too high, which is safe whatever else is wrong; `all` also raises those too low, and
 *   corrects the marks that follow from counts
 */
export async function repairRefcounts(image: Qcow2Image, what: 'leaks' | 'all' = 'all'): Promise<RepairResult> {
  image.map.forget()
  const uses = await countUses(image)
  let leaksFixed = 0
  let corruptionsFixed = 0
  await compareCounts(image, uses, async (cluster, count, used) => {
    if (count < used && what === 'leaks') return
    await image.refcounts.set(cluster, used)
    if (count < used) corruptionsFixed++
    else leaksFixed++
  })
  if (what === 'all') corruptionsFixed += await repairMarks(image, uses.counts)
  // What the tables say wrongly of themselves cannot be repaired by counting.
  const unrepaired = uses.result.corruptions > corruptionsFixed
  if (what === 'all' && !unrepaired) image.header.corrupt = false
  await image.setDirty(what === 'leaks' ? image.header.dirty : unrepaired)
  return { leaksFixed, corruptionsFixed, found: uses.result }
}

async function repairMarks(image: Qcow2Image, counts: Uint32Array): Promise<number> {
  const { file, header, clusterBytes, map } = image
  const l1 = map.l1.slice()
  const l1View = tableView(l1)
  const bytes = new Uint8Array(clusterBytes)
  const table = tableView(bytes)
  let fixed = 0
  const fix = (view: DataView, index: number, host: number): boolean => {
    const own = counts[host / clusterBytes] === 1
    if (own === isCopied(view, index)) return false
    setCopied(view, index, own)
    fixed++
    return true
  }
  for (let i = 0; i < map.l1Entries; i++) {
    const offset = offsetAt(l1View, i)
    if (offset === 0 || offset % clusterBytes !== 0 || offset / clusterBytes >= counts.length) continue
    fix(l1View, i, offset)
    await file.read(offset, bytes)
    let changed = false
    for (let j = 0; j < clusterBytes / 8; j++) {
      const host = offsetAt(table, j)
      if (host % clusterBytes !== 0 || host / clusterBytes >= counts.length) continue
      const mapping = mappingAt(file.name, table, j, header.clusterBits, header.version, offset)
      if ((mapping.type !== 'data' && mapping.type !== 'zero') || mapping.host === 0) continue
      if (fix(table, j, mapping.host)) changed = true
    }
    if (changed) await file.write(offset, bytes)
  }
  await file.write(header.l1TableOffset, l1)
  map.adoptL1(l1)
  return fixed
}
