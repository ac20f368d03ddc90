import { FerryError } from '@ferryvm/core'
import type { StreamProblem } from './walk/visitor.ts'

/** A stream cannot be rewritten as asked. Nothing that was written of it so far is of use. */
export class StreamRewriteError extends FerryError {
  readonly code = 'FERRY_STREAM_REWRITE'
  /** What is wrong with the stream, if that is the reason. */
  readonly problem: StreamProblem | undefined
  constructor(message: string, problem?: StreamProblem) {
    super(message)
    this.problem = problem
  }
}

/** A field to be set does not exist, or the value is not one for it. */
export class StreamFieldError extends FerryError {
  readonly code = 'FERRY_STREAM_FIELD'
}

/** A saved stream cannot become one of the other release: the guest depends on something that it does not have. */
export class StreamConversionError extends FerryError {
  readonly code = 'FERRY_STREAM_CONVERSION'
  /** All of them, not only the first. */
  readonly reasons: readonly string[]
  constructor(reasons: readonly string[]) {
    super(reasons.join('; '))
    this.reasons = reasons
  }
}

/** The text is not what `-dump-vmstate` writes. */
export class VmstateDumpError extends FerryError {
  readonly code = 'FERRY_VMSTATE_DUMP'
}
