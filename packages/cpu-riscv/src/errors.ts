import { FerryError } from '@ferryvm/core'

/** A guest tried to enter VS or VU mode. The hypervisor CSRs exist, the modes do not yet. */
export class VirtualizationError extends FerryError {
  readonly code = 'FERRY_CPU_VIRTUALIZATION'
  readonly hart: number
  readonly pc: bigint
  constructor(hart: number, pc: bigint) {
    super(
      `hart ${hart}: the xRET at pc 0x${pc.toString(16)} would enter a virtualized mode, which is not supported yet`,
    )
    this.hart = hart
    this.pc = pc
  }
}

/** The thread of a hart failed: a defect of this package, or the host ended it. */
export class HartCrashError extends FerryError {
  readonly code = 'FERRY_CPU_HART_CRASH'
  readonly hart: number
  /** As far as it is known. */
  readonly pc: bigint
  constructor(hart: number, pc: bigint, cause: Error) {
    super(`hart ${hart}: its thread failed near pc 0x${pc.toString(16)}: ${cause.message}`, { cause })
    this.hart = hart
    this.pc = pc
  }
}

/** Harts cannot share memory in this page: it is not cross-origin isolated. */
export class PageNotIsolatedError extends FerryError {
  readonly code = 'FERRY_CPU_PAGE_NOT_ISOLATED'
  constructor() {
    super(
      'harts share memory, which this page may not: serve it with Cross-Origin-Opener-Policy: same-origin and ' +
        'Cross-Origin-Embedder-Policy: require-corp',
    )
  }
}
