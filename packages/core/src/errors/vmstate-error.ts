import { FerryError } from './ferry-error.ts'

export interface VmstateErrorOptions extends ErrorOptions {
  readonly section?: string
  readonly offset?: number
}

/**
 * Something about the state of a device: saving, loading or describing it failed.
 * The parts of {@link path} are filled in from the inside out while the error leaves rows, structs and the section.
 */
export class VmstateError extends FerryError {
  readonly code: `FERRY_${string}` = 'FERRY_VMSTATE'
  readonly #detail: string
  #section: string
  #row: string
  #offset: number | undefined

  /** @param row dotted path of the row in its section (`recv_fifo.num`); empty: the section as a whole */
  constructor(row: string, detail: string, options: VmstateErrorOptions = {}) {
    super('', options)
    this.#detail = detail
    this.#section = options.section ?? ''
    this.#row = row
    this.#offset = options.offset
    this.#compose()
  }

  /** e.g. `serial/0 > recv_fifo.num` */
  get path(): string {
    return [this.#section, this.#row].filter((part) => part !== '').join(' > ')
  }

  /** Section or vmstate name: `serial/0`. Empty until somebody knew it. */
  get section(): string {
    return this.#section
  }

  get row(): string {
    return this.#row
  }

  /** Byte offset in the stream where the row began, if loading. */
  get offset(): number | undefined {
    return this.#offset
  }

  /** The error happened inside this row: `num` becomes `recv_fifo.num`. The first offset given stays. */
  insideRow(row: string, offset?: number): this {
    this.#row = this.#row === '' ? row : this.#row.startsWith('[') ? row + this.#row : `${row}.${this.#row}`
    this.#offset ??= offset
    this.#compose()
    return this
  }

  /** The error happened in this section; replaces what a table said about itself. */
  inSection(section: string): this {
    this.#section = section
    this.#compose()
    return this
  }

  #compose(): void {
    const before = this.message
    const where = this.path === '' ? '' : `${this.path}: `
    const offset = this.#offset === undefined ? '' : ` (stream offset 0x${this.#offset.toString(16)})`
    this.message = `${where}${this.#detail}${offset}`
    // The stack starts with the message of the moment the error was made; uncaught errors print the stack.
    if (this.stack !== undefined) {
      const head = before === '' ? this.name : `${this.name}: ${before}`
      const start = before === '' ? this.stack.indexOf('\n') : this.stack.indexOf(head) + head.length
      this.stack = `${this.name}: ${this.message}${start < 0 ? '' : this.stack.slice(start)}`
    }
  }
}

/** The sender's version_id is outside of what this build reads. */
export class VmstateVersionError extends VmstateError {
  override readonly code = 'FERRY_VMSTATE_VERSION'
  readonly incoming: number
  readonly minimum: number
  readonly maximum: number
  constructor(row: string, incoming: number, minimum: number, maximum: number, options?: VmstateErrorOptions) {
    super(row, `cannot load version ${incoming}; this build reads ${minimum} to ${maximum}`, options)
    this.incoming = incoming
    this.minimum = minimum
    this.maximum = maximum
  }
}

/** The incoming state does not fit this machine: an `equal` row differs, a check or a `postLoad` refused it. */
export class VmstateMismatchError extends VmstateError {
  override readonly code = 'FERRY_VMSTATE_MISMATCH'
}

/** A value or a count is outside of what its row allows. */
export class VmstateRangeError extends VmstateError {
  override readonly code = 'FERRY_VMSTATE_RANGE'
}

/** The stream ended inside a row. */
export class VmstateTruncatedError extends VmstateError {
  override readonly code = 'FERRY_VMSTATE_TRUNCATED'
}

/** The sender has a subsection that this table does not know. */
export class VmstateSubsectionError extends VmstateError {
  override readonly code = 'FERRY_VMSTATE_SUBSECTION'
  readonly subsection: string
  constructor(subsection: string, options?: VmstateErrorOptions) {
    // The name comes from the wire: quoted, so that control characters do no harm.
    const name = JSON.stringify(subsection.slice(0, 80))
    super('', `unknown subsection ${name}; the sender has state that this build does not know`, options)
    this.subsection = subsection
  }
}

/** A hook or a custom row of a table threw. Wrapped once. */
export class VmstateHookError extends VmstateError {
  override readonly code = 'FERRY_VMSTATE_HOOK'
  readonly hook: string
  constructor(hook: string, cause: unknown, options?: VmstateErrorOptions) {
    super('', `${hook} failed: ${cause instanceof Error ? cause.message : String(cause)}`, { ...options, cause })
    this.hook = hook
  }
}

/** A table contradicts itself; thrown while it is defined. */
export class VmstateDefinitionError extends VmstateError {
  override readonly code = 'FERRY_VMSTATE_DEFINITION'
}

/** Holds across two installed copies of this package. */
export function isVmstateError(e: unknown): e is VmstateError {
  return FerryError.isInstance(e) && e.code.startsWith('FERRY_VMSTATE') && 'insideRow' in e
}
