import type { BlockBackend } from '@ferryvm/core'

/** A disk that clients may use. */
export interface NbdExport {
  /** What clients ask for; at most 4096 bytes. */
  readonly name: string
  /** For people. */
  readonly description?: string
  readonly backend: BlockBackend
  /** Clients may change it. */
  readonly writable: boolean
}
