import { FerryError } from '@ferryvm/core'

/**
 * The file that a running guest's pages come from is not what it was, or another one. The guest stays, and waits for the pages
 * that have not come; `migrate-recover` names a file to go on with.
 */
export class LazySourceError extends FerryError {
  readonly code = 'FERRY_LAZY_SOURCE'
  /** In the file, bytes. */
  readonly offset: number | undefined
  constructor(problem: string, offset?: number) {
    super(problem)
    this.offset = offset
  }
}
