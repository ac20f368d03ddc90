/** mcause values of exceptions. Spec: privileged ISA, "Machine Cause Register". */
export const CAUSE = {
  fetchMisaligned: 0,
  fetchAccess: 1,
  illegal: 2,
  breakpoint: 3,
  loadMisaligned: 4,
  loadAccess: 5,
  storeMisaligned: 6,
  storeAccess: 7,
  ecallU: 8,
  ecallS: 9,
  ecallM: 11,
  fetchPage: 12,
  loadPage: 13,
  storePage: 15,
} as const

/** Values of LAYOUT.trapPending32. */
export const Pending = {
  none: 0,
  exception: 1,
  illegal: 2,
  /** A CSR instruction is done except for rd and pc. */
  csrDone: 3,
  /** A page of guest memory has not arrived yet: the instruction runs again when it has. No trap for the guest. */
  missing: 4,
} as const
