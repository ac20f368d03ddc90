import { FerryError } from '@ferryvm/core'

/** Everything that is wrong with an image. `image` is its path. */
export abstract class ImageError extends FerryError {
  readonly image: string
  constructor(image: string, problem: string, options?: ErrorOptions) {
    super(`${image}: ${problem}`, options)
    this.image = image
  }
}

/** It cannot be opened or made: no such file, a directory, no permission. */
export class ImageOpenError extends ImageError {
  readonly code = 'FERRY_IMAGE_OPEN'
}

/** Another process has it open in a way that does not go with ours. */
export class ImageLockedError extends ImageError {
  readonly code = 'FERRY_IMAGE_LOCKED'
}

/** Reading or writing failed half-way: a full disk, a medium that broke. */
export class ImageIoError extends ImageError {
  readonly code = 'FERRY_IMAGE_IO'
  /** Where in the file, bytes. */
  readonly offset: number
  constructor(image: string, what: string, offset: number, cause: unknown) {
    super(image, `cannot ${what} at offset ${offset}: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    })
    this.offset = offset
  }
}

/** A field of the header says what no image can be: nothing was read or changed by it. */
export class ImageFormatError extends ImageError {
  readonly code = 'FERRY_IMAGE_FORMAT'
  /** As the format's specification calls it. */
  readonly field: string
  /** Of the field in the file, bytes. */
  readonly offset: number
  constructor(image: string, field: string, offset: number, problem: string) {
    super(image, `${field} (offset ${offset}): ${problem}`)
    this.field = field
    this.offset = offset
  }
}

/** The image is of a kind, or uses a feature, that is not supported. */
export class ImageFeatureError extends ImageError {
  readonly code = 'FERRY_IMAGE_FEATURE'
}

/** A table inside the image contradicts itself. Nothing more is written to the image. */
export class ImageCorruptError extends ImageError {
  readonly code = 'FERRY_IMAGE_CORRUPT'
  /** Which table. */
  readonly table: string
  /** Of the entry in the file, bytes. */
  readonly offset: number
  constructor(image: string, table: string, offset: number, problem: string) {
    super(image, `${table} (offset ${offset}): ${problem}`)
    this.table = table
    this.offset = offset
  }
}

/** A backing file that is, through others or directly, backed by itself, or a chain without end. */
export class BackingChainError extends ImageError {
  readonly code = 'FERRY_IMAGE_BACKING_CHAIN'
}

/** A size or option of a new image is none, or does not go with the others. */
export class ImageOptionError extends ImageError {
  readonly code = 'FERRY_IMAGE_OPTION'
}

/** There is no such snapshot, there is one already, or the image cannot have one. */
export class ImageSnapshotError extends ImageError {
  readonly code = 'FERRY_IMAGE_SNAPSHOT'
}
