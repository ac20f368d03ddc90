const MARK = Symbol.for('@ferryvm/core.FerryError')

/** Every error of ours. One class per thing that a caller can react to; facts are fields, `message` is for people. */
export abstract class FerryError extends Error {
  /** FERRY_<AREA>_<WHAT>; each has an entry in docs/errors.md (a test compares the two lists). */
  abstract readonly code: `FERRY_${string}`
  readonly [MARK] = true

  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
  }

  /** Holds across two installed copies of this package, where `instanceof` does not. */
  static isInstance(e: unknown): e is FerryError {
    return typeof e === 'object' && e !== null && (e as { [MARK]?: boolean })[MARK] === true
  }
}
