import { FerryError } from './ferry-error.ts'

/** Compressed data is broken, or holds another amount than it should. */
export class CompressionError extends FerryError {
  readonly code = 'FERRY_COMPRESSION'
}
