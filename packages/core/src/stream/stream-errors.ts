import { FerryError } from '../errors/ferry-error.ts'
import { StreamFormatError } from '../errors/stream-error.ts'

const hex = (n: number) => `0x${n.toString(16)}`

/** The first four bytes are not "QEVM": whatever this is, it is no migration stream. */
export class StreamMagicError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_MAGIC'
  readonly found: number
  constructor(found: number, offset: number) {
    super(offset, `not a migration stream: it starts with ${hex(found)} instead of "QEVM"`)
    this.found = found
  }
}

/** A stream of another format version. */
export class StreamVersionError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_VERSION'
  readonly version: number
  constructor(version: number, offset: number) {
    super(offset, `stream format version ${version} is not supported, only 3`)
    this.version = version
  }
}

/** The sender's machine is not like ours, or it did not say what it is. `field` names the row of the section. */
export class ConfigurationError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_CONFIGURATION'
  readonly field: string
  constructor(field: string, message: string, offset: number) {
    super(offset, `configuration${field && ` > ${field}`}: ${message}`)
    this.field = field
  }
}

/** A byte that starts no element we know. */
export class UnknownElementError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_ELEMENT'
  readonly type: number
  constructor(type: number, previous: string | undefined, offset: number) {
    super(offset, `${hex(type)} starts no known element${previous ? ` after section ${previous}` : ''}`)
    this.type = type
  }
}

/** The sender has a device that this machine has not. */
export class UnknownSectionError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_UNKNOWN_SECTION'
  readonly idstr: string
  readonly instanceId: number
  constructor(idstr: string, instanceId: number, offset: number) {
    super(
      offset,
      idstr === ''
        ? 'a section has an empty name'
        : `section ${printable(idstr)}/${instanceId} is unknown: this machine has no such device`,
    )
    this.idstr = idstr
    this.instanceId = instanceId
  }
}

/** The sender's version of a section is newer than ours. */
export class SectionVersionError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_SECTION_VERSION'
  readonly idstr: string
  readonly instanceId: number
  readonly incoming: number
  readonly maximum: number
  constructor(idstr: string, instanceId: number, incoming: number, maximum: number, offset: number) {
    super(offset, `section ${idstr}/${instanceId} has version ${incoming}; this build reads up to ${maximum}`)
    this.idstr = idstr
    this.instanceId = instanceId
    this.incoming = incoming
    this.maximum = maximum
  }
}

/** A PART or END of a section that was never started, or a FULL where a live section was expected. */
export class SectionSequenceError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_SECTION_SEQUENCE'
  readonly sectionId: number
  constructor(message: string, sectionId: number, offset: number) {
    super(offset, message)
    this.sectionId = sectionId
  }
}

/** What follows a section's state is not its footer: the two sides disagree on the length of that state. */
export class SectionFooterError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_FOOTER'
  readonly idstr: string
  readonly instanceId: number
  constructor(idstr: string, instanceId: number, problem: string, offset: number) {
    super(offset, `section ${idstr}/${instanceId}: ${problem}`)
    this.idstr = idstr
    this.instanceId = instanceId
  }
}

/** A COMMAND that is unknown, has a wrong length, or comes at the wrong time. */
export class StreamCommandError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_COMMAND'
  readonly command: number
  constructor(command: number, message: string, offset: number) {
    super(offset, `command ${command}: ${message}`)
    this.command = command
  }
}

/** The state of one section could not be read; `cause` says why (a row, a value, the end of the stream). */
export class SectionLoadError extends StreamFormatError {
  override readonly code = 'FERRY_STREAM_SECTION_LOAD'
  readonly idstr: string
  readonly instanceId: number
  constructor(idstr: string, instanceId: number, offset: number, cause: unknown) {
    const inner = cause instanceof StreamFormatError ? cause : undefined
    const why = inner?.detail ?? (cause instanceof Error ? cause.message : String(cause))
    super(inner?.offset ?? offset, `section ${idstr}/${instanceId}: ${why}`, { cause })
    this.idstr = idstr
    this.instanceId = instanceId
  }
}

/** The state of one section could not be written; the guest goes on here. */
export class SectionSaveError extends FerryError {
  override readonly code = 'FERRY_STREAM_SECTION_SAVE'
  readonly idstr: string
  readonly instanceId: number
  constructor(idstr: string, instanceId: number, cause: unknown) {
    super(`section ${idstr}/${instanceId} cannot be saved: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    })
    this.idstr = idstr
    this.instanceId = instanceId
  }
}

/** Names come from the wire: no control characters, no kilobytes. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?').slice(0, 80)
}
