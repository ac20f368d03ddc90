/**
 * Priority numbers of the local interrupts. Spec: RISC-V AIA, "Default priority order" and "Machine-level interrupt priorities".
 */

/** By interrupt number, as the reference machine numbers its default order; lower comes first, 255: it has no place there. */
const DEFAULT = [
  255, 20, 24, 17, 255, 21, 25, 18, 255, 19, 23, 16, 22, 255, 255, 255, 36, 33, 30, 27, 14, 11, 8, 5, 255, 255, 255,
  255, 255, 255, 255, 255, 37, 35, 34, 32, 31, 29, 28, 26, 15, 13, 12, 10, 9, 7, 6, 4,
]
const COUNT = 64
const NONE = 255
/** Of the external interrupt of each level, whose own number is always 0: its place in the default order. */
export const EXTERNAL = { M: 11, S: 9 } as const

const defaultPriority = (interrupt: number): number => DEFAULT[interrupt] ?? NONE

const priorities = (external: number): Uint8Array => {
  const list = Uint8Array.from({ length: COUNT }, (_, i) => defaultPriority(i))
  list[external] = 0
  return list
}
/** What software that sets no priorities finds. */
export const miprioReset = (): Uint8Array => priorities(EXTERNAL.M)
export const siprioReset = (): Uint8Array => priorities(EXTERNAL.S)
/** Guest interrupts 1 and 5, and the local ones from 13 to 23. */
export const hviprioReset = (): Uint8Array =>
  Uint8Array.from({ length: COUNT }, (_, i) => (i === 1 || i === 5 || (i >= 13 && i <= 23) ? defaultPriority(i) : 0))

/**
 * Which of several interrupts comes first at a level whose external interrupt is `external`.
 * @param ready bits of mip @param priority by interrupt number @returns -1: none is ready
 */
export function firstInterrupt(ready: number, priority: Uint8Array, external: number): number {
  let first = -1
  let best = Infinity
  for (let bits = ready; bits !== 0; bits &= bits - 1) {
    const interrupt = 31 - Math.clz32(bits & -bits)
    const ahead = defaultPriority(interrupt)
    const own = priority[interrupt]
    // Without a number of its own it stands before or behind all that have one, by its place beside the external one.
    const rank = own || (interrupt === external ? ahead : ahead < defaultPriority(external) ? 1 : NONE)
    // Equal numbers: the default order decides.
    const key = rank * 256 + ahead
    if (key >= best) continue
    best = key
    first = interrupt
  }
  return first
}

/** An interrupt as mtopi and stopi show it; 0: none. */
export function topi(interrupt: number, priority: Uint8Array, external: number): bigint {
  if (interrupt < 0) return 0n
  const shown = priority[interrupt] || (defaultPriority(interrupt) > defaultPriority(external) ? NONE : 0)
  return BigInt((interrupt << 16) | shown)
}
