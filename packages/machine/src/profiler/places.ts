import type { HartSample } from '@ferryvm/core'

/** Where a hart was: an address in a privilege mode, or one of the two states in which it executes nothing. */
export type Place = { readonly mode: number; readonly pc: bigint } | 'idle' | 'stopped'

const IDLE = 0
const STOPPED = 1
const DEFAULT_CAPACITY = 1 << 16
const PAGE = 4095n

/** Numbers places. Its memory is bounded: after so many addresses, new ones count as their page, then as 0. */
export class Places {
  readonly #capacity: number
  readonly #list: Place[] = ['idle', 'stopped']
  readonly #byMode = [new Map<bigint, number>(), new Map<bigint, number>(), undefined, new Map<bigint, number>()]

  constructor(capacity = DEFAULT_CAPACITY) {
    this.#capacity = capacity
  }

  get list(): readonly Place[] {
    return this.#list
  }

  number({ pc, mode, state }: HartSample): number {
    if (state === 'idle') return IDLE
    if (state === 'stopped') return STOPPED
    const known = this.#byMode[mode]!
    const found = known.get(pc)
    if (found !== undefined) return found
    const length = this.#list.length
    const as = length < this.#capacity ? pc : length < 2 * this.#capacity ? pc & ~PAGE : 0n
    const instead = known.get(as)
    if (instead !== undefined) return instead
    this.#list.push({ mode, pc: as })
    known.set(as, length)
    return length
  }
}
