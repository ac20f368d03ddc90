import type { Step } from './region.ts'
import { usesOf } from './registers.ts'
import { rowAccess } from './row-kind.ts'

/** Bytes from the first to the last access of a group: the longer, the more often it lies across a page boundary. */
const MAX_SPAN = 512

/**
 * Loads (or stores) of a block that have the same base register, with the same value in it: one look into the TLB is enough for
 * all of them, as long as they lie in one page.
 */
export interface AccessGroup {
  readonly write: boolean
  readonly base: number
  /** Least distance from the base. */
  low: number
  /** Greatest one. */
  high: number
  /** The widest access, in bytes, and a distance at which an address has to be aligned to it. */
  bytes: number
  aligned: number
  readonly members: Step[]
}

/** @returns by step: the group that it is part of, if that has other members */
export function groupAccesses(steps: readonly Step[]): ReadonlyMap<Step, AccessGroup> {
  const groups: AccessGroup[] = []
  const open = new Map<string, AccessGroup>()
  for (const step of steps) {
    const { row, operands } = step.decoded
    const access = rowAccess(row)
    if (access && operands.rs1 !== 0) {
      const key = `${operands.rs1} ${access.write}`
      let group = open.get(key)
      if (!group || !join(group, step, operands.imm, access.bytes)) {
        const { imm, rs1 } = operands
        group = { ...access, base: rs1, low: imm, high: imm, aligned: imm, members: [step] }
        groups.push(group)
        open.set(key, group)
      }
    }
    // A write of sstatus may change what loads and stores go through.
    if (row.extension === 'zicsr') open.clear()
    for (const register of usesOf(step).writes) for (const write of [true, false]) open.delete(`${register} ${write}`)
  }
  const byStep = new Map<Step, AccessGroup>()
  for (const group of groups) if (group.members.length > 1) for (const step of group.members) byStep.set(step, group)
  return byStep
}

/** Every member is aligned when the widest one is. */
function join(group: AccessGroup, step: Step, at: number, bytes: number): boolean {
  const low = Math.min(group.low, at)
  const high = Math.max(group.high, at)
  if (high - low > MAX_SPAN || (at - group.aligned) % Math.min(bytes, group.bytes) !== 0) return false
  if (bytes > group.bytes) {
    group.bytes = bytes
    group.aligned = at
  }
  group.low = low
  group.high = high
  group.members.push(step)
  return true
}

/** The least distance at or above the greatest one that an address may be tested for both page and alignment at. */
export function checkedAt({ high, aligned, bytes }: AccessGroup): number {
  const beyond = (((aligned - high) % bytes) + bytes) % bytes
  return high + beyond
}
