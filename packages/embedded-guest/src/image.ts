import { imageBase64 } from './image-data.ts'

/** Where the image is loaded and entered: the start of RAM on the `virt` board. */
export const embeddedGuestEntry = 0x8000_0000

/** What the guest does; every member has a default, given in brackets. Rates are per second of guest time, 0 = no limit. */
export interface EmbeddedGuestOptions {
  /** RAM the guest may use, in bytes; 0 asks the device tree. [0] */
  ramBytes?: number
  /** Size of the memory it walks: each pass verifies and rewrites all of it. 0 = none. [16 MiB] */
  dirtyBytes?: number
  /** Bytes of it per second. [8 MiB] */
  dirtyBytesPerSecond?: number
  /** 64-bit words checked and written per page, 1 to 512; few words dirty much memory with little work. [512] */
  dirtyWordsPerPage?: number
  /** How much of the disk is used, from its start; at least 128 KiB. [4 MiB] */
  diskBytes?: number
  /** Disk requests of 8 KiB per second. [500] */
  diskRequestsPerSecond?: number
  /** Disk requests in flight at once, 1 to 8. [8] */
  diskDepth?: number
  /** Through an IOMMU: number of requests between two changes of a mapping; 0 = never. [16] */
  remapEveryRequests?: number
  /** Lines of output per second, at least 1. [10] */
  linesPerSecond?: number
  /** Steps of the chain held in registers per second; 0 computes whenever nothing else is to do. [1 000 000] */
  lcgStepsPerSecond?: number
  /** Use a VT-d unit if the board has one. [true] */
  iommu?: boolean
  /** Use a virtio-blk disk if there is one. [true] */
  disk?: boolean
  /** Use a virtio-rng device if there is one. [true] */
  rng?: boolean
  /** Negotiate VIRTIO_F_EVENT_IDX. [true] */
  eventIdx?: boolean
  /** Negotiate VIRTIO_F_INDIRECT_DESC. [true] */
  indirect?: boolean
  /**
   * Arm the timer again, without calling it an error, when its interrupt does not come any more; and never sleep, so that
   * this is noticed. Stock QEMU arms no timer when it loads a machine, so a guest that is to arrive there needs it. [false]
   */
  rearmTimer?: boolean
  /**
   * Take a timer interrupt that comes too early as it comes, and set the timer again. A machine that hands the guest over to
   * stock QEMU sends the timer as expired, so that the guest wakes there. [false]
   */
  earlyTimer?: boolean
  /** What all contents are derived from; 0n takes the device tree's random seed. [0n] */
  seed?: bigint
}

/** A parameter of the embedded guest is out of range. */
export class GuestParameterError extends RangeError {
  readonly code = 'FERRY_GUEST_PARAMETER'
  override readonly name = 'GuestParameterError'
  readonly parameter: string
  readonly value: number | bigint
  readonly minimum: number | bigint
  readonly maximum: number | bigint

  constructor(parameter: string, value: number | bigint, minimum: number | bigint, maximum: number | bigint) {
    super(`embedded guest: ${parameter} is ${value}; it must be an integer from ${minimum} to ${maximum}`)
    this.parameter = parameter
    this.value = value
    this.minimum = minimum
    this.maximum = maximum
  }
}

/** The parameter block (guest/params.c): little-endian 64-bit words from this offset of the image. */
const PARAMS = 0x100
const MAGIC = 0x3150_4759_5252_4546n // the bytes "FERRYGP1"
const WORDS = 14
const GiB = 2 ** 30

interface NumberRow {
  word: number
  minimum: number
  maximum: number
}

const numbers: Record<string, NumberRow> = {
  ramBytes: { word: 2, minimum: 0, maximum: 16 * GiB },
  dirtyBytes: { word: 3, minimum: 0, maximum: 16 * GiB },
  dirtyBytesPerSecond: { word: 4, minimum: 0, maximum: 64 * GiB },
  dirtyWordsPerPage: { word: 5, minimum: 1, maximum: 512 },
  diskBytes: { word: 6, minimum: 0x2_0000, maximum: 16 * GiB },
  diskRequestsPerSecond: { word: 7, minimum: 0, maximum: 1e6 },
  diskDepth: { word: 8, minimum: 1, maximum: 8 },
  remapEveryRequests: { word: 9, minimum: 0, maximum: 2 ** 32 },
  linesPerSecond: { word: 10, minimum: 1, maximum: 1000 },
  lcgStepsPerSecond: { word: 11, minimum: 0, maximum: 1e10 },
}

/** Members that switch something off when false: bit in the flags word. */
const switches = { iommu: 1n, disk: 2n, eventIdx: 4n, indirect: 8n, rng: 16n }

/**
 * The embedded guest as a flat image: load it at 0x8000_0000 and start hart 0 there in M-mode, as `-bios none -kernel` does.
 * It needs about 8 MiB of RAM besides `dirtyBytes`.
 *
 * @returns a new array; the options are patched into it
 * @throws GuestParameterError an option is out of range
 * @throws TypeError an option does not exist
 */
export function embeddedGuestImage(options: EmbeddedGuestOptions = {}): Uint8Array {
  const image = Uint8Array.from(atob(imageBase64.replaceAll('\n', '')), (c) => c.charCodeAt(0))
  const view = new DataView(image.buffer)
  const word = (index: number) => PARAMS + 8 * index
  if (view.getBigUint64(word(0), true) !== MAGIC || view.getBigUint64(word(1), true) !== BigInt(WORDS * 8)) {
    throw new Error('embedded guest: the image and its loader do not belong together; run build-guest.sh')
  }
  const known = [...Object.keys(numbers), ...Object.keys(switches), 'rearmTimer', 'earlyTimer', 'seed']
  const unknown = Object.keys(options).find((name) => !known.includes(name))
  if (unknown) throw new TypeError(`embedded guest: no option '${unknown}' (there are: ${known.join(', ')})`)
  for (const [name, row] of Object.entries(numbers)) {
    const value = options[name as keyof EmbeddedGuestOptions] as number | undefined
    if (value === undefined) continue
    if (!Number.isInteger(value) || value < row.minimum || value > row.maximum) {
      throw new GuestParameterError(name, value, row.minimum, row.maximum)
    }
    view.setBigUint64(word(row.word), BigInt(value), true)
  }
  let flags = 0n
  for (const [name, bit] of Object.entries(switches)) {
    if (options[name as keyof typeof switches] === false) flags |= bit
  }
  if (options.rearmTimer) flags |= 32n
  if (options.earlyTimer) flags |= 64n
  view.setBigUint64(word(12), flags, true)
  if (options.seed !== undefined) {
    const maximum = 2n ** 64n - 1n
    if (options.seed < 0n || options.seed > maximum) throw new GuestParameterError('seed', options.seed, 0n, maximum)
    view.setBigUint64(word(13), options.seed, true)
  }
  return image
}
