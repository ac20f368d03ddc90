/** Bits of LAYOUT.request32: why a hart should leave guest code. Set by any thread; the hart's thread clears them. */
export const Request = {
  /** Park between two instructions until the bit is cleared. The only bit that the requester clears. */
  pause: 1,
  /** An interrupt input or mtimecmp changed. */
  irq: 2,
  /** LAYOUT.flushWanted32 moved: empty the write TLB, then say so in flushDone32. */
  flushWrite: 4,
  /** Bits were set in the stale-code bitmap. */
  staleCode: 8,
  /** RAM mappings changed, or memory grew. */
  mappings: 16,
  /** Forget all translations and decoded code; registers may have changed. */
  flushAll: 32,
  /** Leave the thread for good. */
  exit: 64,
  /** A page that the hart waits for has arrived. */
  page: 128,
  /** A profiler asks where the hart is. */
  sample: 256,
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
