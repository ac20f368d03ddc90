/**
 * Bits of LAYOUT.request32: why a hart should leave guest code. Set by any thread; the hart's thread clears them. Each is more
 * than any budget, so that one comparison with the budget says whether to leave; see wantsOut.
 */
export const Request = {
  /** Park between two instructions until the bit is cleared. The only bit that the requester clears. */
  pause: 1 << 22,
  /** An interrupt input or mtimecmp changed. */
  irq: 1 << 23,
  /** LAYOUT.flushWanted32 moved: empty the write TLB, then say so in flushDone32. */
  flushWrite: 1 << 24,
  /** Bits were set in the stale-code bitmap. */
  staleCode: 1 << 25,
  /** RAM mappings changed, or memory grew. */
  mappings: 1 << 26,
  /** Forget all translations and decoded code; registers may have changed. */
  flushAll: 1 << 27,
  /** Leave the thread for good. */
  exit: 1 << 28,
  /** A page that the hart waits for has arrived. */
  page: 1 << 29,
  /** A profiler asks where the hart is. */
  sample: 1 << 30,
} as const

/** LAYOUT.runState32, written by the hart's thread; others wait on it. */
export const RunState = {
  /** The thread has not reached its loop yet. */
  starting: 0,
  /** Executes guest code or its slow paths. */
  running: 1,
  /** Parked: registers in memory are the truth and may be changed by the device thread. */
  parked: 2,
  /** Waits in a WFI. */
  waiting: 3,
  /** The thread is done (exit, or fatal32 says why). */
  gone: 4,
} as const

/** LAYOUT.fatal32: why a hart stopped for good. */
export const Fatal = {
  none: 0,
  /** xret to a virtualized mode. fatalValue = pc. */
  virtualization: 1,
  /** An exception in our own code; the worker's error event carries it. */
  internal: 2,
} as const
