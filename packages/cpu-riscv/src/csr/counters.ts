import type { HartState } from '../hart/hart-state.ts'
import { csrOffset, LAYOUT } from '../hart/layout.ts'

/**
 * mcycle and minstret both count retired instructions; mhpmcounter3 and up hold what was written.
 * Spec: privileged ISA, "Hardware Performance Monitor".
 */
const value = (hart: HartState, index: number): bigint => hart.get(LAYOUT.mhpmcounter + index * 8)
const previous = (hart: HartState, index: number): bigint => hart.get(LAYOUT.mhpmprev + index * 8)
const INHIBIT = csrOffset('mcountinhibit')

export function counterRuns(hart: HartState, index: number): boolean {
  return (index === 0 || index === 2) && !(hart.get(INHIBIT) & (1n << BigInt(index)))
}

export function readCounter(hart: HartState, index: number): bigint {
  if (!counterRuns(hart, index)) return value(hart, index)
  return BigInt.asUintN(64, hart.get(LAYOUT.instret) - previous(hart, index) + value(hart, index))
}

export function writeCounter(hart: HartState, index: number, to: bigint): void {
  hart.set(LAYOUT.mhpmcounter + index * 8, to)
  if (counterRuns(hart, index)) hart.set(LAYOUT.mhpmprev + index * 8, hart.get(LAYOUT.instret))
}

/** Counters keep their value when they stop or go on. */
export function setInhibit(hart: HartState, mask: bigint): void {
  const cycle = readCounter(hart, 0)
  const instret = readCounter(hart, 2)
  const before = hart.get(INHIBIT)
  hart.set(INHIBIT, mask)
  if ((before ^ mask) & 1n) writeCounter(hart, 0, cycle)
  if ((before ^ mask) & 4n) writeCounter(hart, 2, instret)
}
