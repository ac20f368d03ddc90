/** Why compiled code was left, as `info jit` counts it: numbers of LAYOUT.leaves. */
export const LEAVE = {
  /** The budget was used up or someone asked: at a loop or a jump. */
  poll: 0,
  /** A load, store or atomic whose page has no TLB entry (not yet, or never: devices, pages of code, clean pages). */
  load: 1,
  store: 2,
  atomic: 3,
  /** A floating-point result with flags or a form that the fast way does not produce. */
  float: 4,
  /** ecall, xret, fences, wfi, what is illegal. */
  system: 5,
  /** To code that is not compiled, or not part of the region. */
  edge: 6,
  /** Another page of the region is not where it was. */
  page: 7,
  /** As `load` and `store`, for several accesses at once; or these do not lie in one page. */
  group: 8,
} as const
/** For people. */
export const LEAVE_MEANS: Readonly<Record<LeaveName, string>> = {
  poll: 'time to look at interrupts and requests',
  load: 'a load without a TLB entry',
  store: 'a store without a TLB entry',
  atomic: 'an atomic access without a TLB entry',
  float: 'floating point that needs softfloat',
  system: 'an instruction of the privileged architecture, or an illegal one',
  edge: 'to code that is not compiled',
  page: 'a page of the region is mapped elsewhere',
  group: 'loads or stores without a TLB entry, or across a page boundary',
}
export type LeaveName = keyof typeof LEAVE
export const LEAVE_NAMES = Object.keys(LEAVE) as readonly LeaveName[]
