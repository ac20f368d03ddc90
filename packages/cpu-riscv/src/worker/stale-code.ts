import { type HartState, WORD } from '../hart/hart-state.ts'
import { HART_AREA } from '../hart/layout.ts'
import { Request } from './requests.ts'

/**
 * Tells a hart, from any thread, that decoded code of a page is stale. It drops the page at its next fence.i, or at the
 * next poll with `urgent`.
 * @param mem32 all of guest memory
 */
export function markStale(mem32: Int32Array, hart: HartState, page: number, urgent: boolean): void {
  Atomics.or(mem32, (hart.base + HART_AREA.staleCode) / 4 + (page >>> 5), 1 << (page & 31))
  Atomics.or(hart.i32, WORD.staleChunks, 1 << (page >>> 15))
  if (urgent) request(hart, Request.staleCode)
}

/** Makes a hart leave guest code, or its sleep, and look. */
export function request(hart: HartState, bits: number): void {
  Atomics.or(hart.i32, WORD.request, bits)
  Atomics.notify(hart.i32, WORD.request)
}
