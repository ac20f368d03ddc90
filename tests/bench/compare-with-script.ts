/** Whether a report has every value that analyze-migration found in the same stream. */
import { type Json, type StreamReport, stateJson } from '@ferryvm/stream'

/** @returns how many values were compared, and where they differ */
export function compareWithScript(
  theirs: { [section: string]: Json },
  report: StreamReport,
): { values: number; differ: string[] } {
  const result = { values: 0, differ: [] as string[] }
  for (const [key, data] of Object.entries(theirs)) {
    const [, idstr, id] = /^(.*) \((\d+)\)$/s.exec(key) ?? []
    if (idstr === 'ram') {
      const sizes = (data as { 'section sizes': { [block: string]: string } })['section sizes']
      for (const [block, size] of Object.entries(sizes)) {
        result.values++
        const ours = report.ram?.blocks.find((b) => b.idstr === block)
        if (ours?.usedLength !== Number(size)) result.differ.push(`ram ${block}`)
      }
      continue
    }
    const section = report.sections.find((s) => s.sectionId === Number(id) && s.idstr === idstr)
    if (!section?.state) result.differ.push(key)
    else {
      const { fields, subsections } = stateJson(section.state) as {
        fields: { [k: string]: Json }
        subsections?: { [k: string]: Json }
      }
      compare(data, { ...fields, ...subsections }, key, result)
    }
  }
  return result
}

function compare(
  theirs: Json,
  ours: Json | undefined,
  path: string,
  result: { values: number; differ: string[] },
): void {
  if (Array.isArray(theirs)) {
    const list = Array.isArray(ours) ? ours : [ours!]
    if (list.length !== theirs.length) result.differ.push(path)
    theirs.forEach((item, i) => {
      compare(item, list[i], `${path}[${i}]`, result)
    })
  } else if (typeof theirs === 'object' && theirs !== null) {
    // Subsections stand among the fields there, and nested in `subsections` with theirs under `fields` here.
    const { fields, subsections, ...own } = (ours ?? {}) as { [key: string]: Json }
    const mine = { ...own, ...(fields as object), ...(subsections as object) } as { [key: string]: Json }
    for (const [name, value] of Object.entries(theirs)) compare(value, mine[name], `${path}.${name}`, result)
  } else {
    result.values++
    if (!sameLeaf(String(theirs), ours)) result.differ.push(path)
  }
}

/** Numbers are `0x0f`, negative ones `0xff (-1)`, bytes `0a 0b`; what is bytes there may be taken apart here. */
function sameLeaf(theirs: string, ours: Json | undefined): boolean {
  if (ours === undefined) return false
  if (typeof ours === 'object') return true
  const number = /^(0x[0-9a-f]+)(?: \((-\d+)\))?$/.exec(theirs)
  if (number) return BigInt(number[2] ?? number[1]!) === BigInt(ours!)
  if (typeof ours === 'boolean') return theirs.toLowerCase() === String(ours)
  const bytes = theirs.split(' ')
  if (bytes.join('') === ours) return true
  // A timer is eight bytes there.
  return (
    /^-?\d+$/.test(String(ours)) && BigInt(`0x${bytes.join('')}`) === BigInt.asUintN(8 * bytes.length, BigInt(ours))
  )
}
