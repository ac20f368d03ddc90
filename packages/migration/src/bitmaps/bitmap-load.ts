import { type DirtyBitmap, type QEMUFileReader, StreamFormatError } from '@ferryvm/core'
import type { BlockDevice } from '../block/block-save.ts'
import { trace } from '../migration-trace.ts'
import type { BitmapMapping, NodeMapping } from './bitmap-mapping.ts'
import {
  BITMAP_AUTOLOAD,
  BITMAP_ENABLED,
  BITMAP_PERSISTENT,
  BITMAPS_BITMAP_NAME,
  BITMAPS_BITS,
  BITMAPS_COMPLETE,
  BITMAPS_DEVICE_NAME,
  BITMAPS_EOS,
  BITMAPS_SECTION_VERSION,
  BITMAPS_START,
  BITMAPS_ZEROES,
  BITS_ALIGN_BYTES,
  bytesOfBits,
  chunkSectors,
  SECTOR_BYTES,
} from './bitmap-records.ts'

/** A chunk of the section `dirty-bitmap` that does not fit this machine's disks. `device` and `bitmap`: as the stream names them, where it does. */
export class DirtyBitmapLoadError extends StreamFormatError {
  override readonly code = 'FERRY_DIRTY_BITMAP_LOAD'
  readonly device: string
  readonly bitmap: string
  constructor(device: string, bitmap: string, message: string, offset: number, options?: ErrorOptions) {
    const path = [device, bitmap].filter((name) => name !== '').map((name) => ` > ${name}`)
    super(offset, `section dirty-bitmap${path.join('')}: ${message}`, options)
    this.device = device
    this.bitmap = bitmap
  }
}

/** More than anybody has; each costs memory. */
const MAX_BITMAPS = 1024
const MAX_ALL_BYTES = 2 ** 28

interface Arriving {
  readonly bitmap: DirtyBitmap
  readonly of: BlockDevice
  readonly device: string
  readonly name: string
  /** Once the guest runs here. */
  readonly enabled: boolean
  complete: boolean
}

type Steps<T = void> = Generator<number | Promise<void>, T>

/** Receiving half of the section `dirty-bitmap`: makes bitmaps, which record from when the guest runs here. */
export class BitmapLoader {
  readonly #devices: () => readonly BlockDevice[]
  readonly #mapping: () => BitmapMapping | undefined
  readonly #text = new TextDecoder()
  #arriving: Arriving[] = []
  #bytes = 0
  #started = false
  #device: { readonly name: string; readonly found: BlockDevice; readonly mapping?: NodeMapping } | undefined
  #bitmapName: string | undefined

  constructor(devices: () => readonly BlockDevice[], mapping: () => BitmapMapping | undefined) {
    this.#devices = devices
    this.#mapping = mapping
  }

  /** Before a stream. */
  begin(): void {
    this.#arriving = []
    this.#bytes = 0
    this.#started = false
    this.#device = undefined
    this.#bitmapName = undefined
  }

  /** The guest begins to run, or to stand, here. */
  guestIsHere(): void {
    this.#started = true
    for (const { bitmap, enabled, complete } of this.#arriving) {
      bitmap.recording = enabled
      bitmap.busy = !complete
    }
  }

  /** After the stream. @throws DirtyBitmapLoadError the bits of one did not come @param offset where the stream ends */
  finish(offset: number): void {
    const missing = this.#arriving.find(({ complete }) => !complete)
    if (!missing) return
    throw new DirtyBitmapLoadError(
      missing.device,
      missing.name,
      'the stream ended before its bits were complete',
      offset,
    )
  }

  /** Nothing of the stream stays. */
  giveUp(): void {
    for (const { bitmap, of } of this.#arriving) of.backend.bitmaps!.remove(bitmap)
    this.begin()
  }

  /** The payload of one START, PART or END. @throws DirtyBitmapLoadError */
  *load(f: QEMUFileReader, version: number): Steps {
    trace.dirty_bitmap_load_enter({})
    if (version !== BITMAPS_SECTION_VERSION)
      throw this.#fail(`version ${version}; only ${BITMAPS_SECTION_VERSION} is known`, f.position)
    for (;;) {
      if (f.available < 1) yield 1
      const at = f.position
      const flags = f.getByte()
      trace.dirty_bitmap_load_header({ flags })
      if (flags === BITMAPS_EOS) break
      const kind = flags & ~(BITMAPS_DEVICE_NAME | BITMAPS_BITMAP_NAME)
      if (![BITMAPS_START, BITMAPS_COMPLETE, BITMAPS_BITS, BITMAPS_BITS | BITMAPS_ZEROES].includes(kind))
        throw this.#fail(`flags 0x${flags.toString(16)} are no valid combination`, at)
      yield* this.#names(f, flags, at)
      if (kind === BITMAPS_START) yield* this.#start(f, at)
      else if (kind === BITMAPS_COMPLETE) this.#complete(at)
      else yield* this.#bits(f, (kind & BITMAPS_ZEROES) !== 0, at)
    }
    trace.dirty_bitmap_load_success({})
  }

  *#names(f: QEMUFileReader, flags: number, at: number): Steps {
    if (flags & BITMAPS_DEVICE_NAME) {
      const name = yield* this.#string(f)
      this.#device = undefined
      this.#bitmapName = undefined
      const mapping = this.#mapping()
      const nodeMapping = mapping?.find(({ alias }) => alias === name)
      const devices = this.#devices()
      const found = mapping
        ? devices.find((device) => nodeMapping?.['node-name'] === (device.node ?? device.name))
        : (devices.find((device) => device.name === name) ?? devices.find((device) => device.node === name))
      if (!found)
        throw new DirtyBitmapLoadError(
          shown(name),
          '',
          mapping && !nodeMapping
            ? 'block-bitmap-mapping has no node of that alias'
            : 'this machine has no disk of that name (-drive id=, node-name=)',
          at,
        )
      if (!found.backend.bitmaps) throw new DirtyBitmapLoadError(shown(name), '', 'that disk has no bitmaps here', at)
      this.#device = { name, found, mapping: nodeMapping }
    }
    if (flags & BITMAPS_BITMAP_NAME) this.#bitmapName = yield* this.#string(f)
    if (!this.#device) throw this.#fail('a chunk without the name of a disk', at)
    if (this.#bitmapName === undefined) throw this.#fail('a chunk without the name of a bitmap', at)
  }

  *#string(f: QEMUFileReader): Steps<string> {
    if (f.available < 1) yield 1
    const bytes = new Uint8Array(f.getByte())
    if (f.available < bytes.length) yield bytes.length
    f.getBuffer(bytes)
    return this.#text.decode(bytes)
  }

  *#start(f: QEMUFileReader, at: number): Steps {
    if (f.available < 5) yield 5
    const granularityBytes = f.getBe32()
    const flags = f.getByte()
    const { found, name: device, mapping } = this.#device!
    const alias = this.#bitmapName!
    if (flags & ~(BITMAP_ENABLED | BITMAP_PERSISTENT | BITMAP_AUTOLOAD))
      throw this.#fail(`its flags 0x${flags.toString(16)} are unknown`, at)
    const mapped = mapping?.bitmaps.find((b) => b.alias === alias)
    if (mapping && !mapped) throw this.#fail('block-bitmap-mapping has no bitmap of that alias', at)
    if (mapped?.transform?.persistent ?? (flags & BITMAP_PERSISTENT) !== 0)
      throw this.#fail(
        'it is to be kept in the image, which is not supported; a mapping with persistent=false takes it',
        at,
      )
    if (this.#arriving.length === MAX_BITMAPS) throw this.#fail(`more than ${MAX_BITMAPS} bitmaps`, at)
    const bits = Math.ceil(found.backend.capacityBytes / Math.max(granularityBytes, SECTOR_BYTES))
    if (this.#bytes + bytesOfBits(bits) > MAX_ALL_BYTES) throw this.#fail('the bitmaps are too large together', at)
    try {
      const options = { granularityBytes, recording: false }
      const bitmap = found.backend.bitmaps!.add(mapped?.name ?? alias, options)
      bitmap.busy = true
      const enabled = (flags & BITMAP_ENABLED) !== 0
      this.#arriving.push({ bitmap, of: found, device, name: alias, enabled, complete: false })
      this.#bytes += bitmap.log.bits.length
      if (this.#started) bitmap.recording = enabled
    } catch (cause) {
      throw this.#fail((cause as Error).message, at, { cause })
    }
  }

  #complete(at: number): void {
    trace.dirty_bitmap_load_complete({})
    const arriving = this.#current(at)
    arriving.complete = true
    if (this.#started) arriving.bitmap.busy = false
  }

  *#bits(f: QEMUFileReader, zeroes: boolean, at: number): Steps {
    if (f.available < 12) yield 12
    const start = f.getBe64()
    const count = f.getBe32()
    trace.dirty_bitmap_load_bits_enter({ first_sector: start, nr_sectors: count })
    const { bitmap, of } = this.#current(at)
    const { log } = bitmap
    const sectors = of.backend.capacityBytes / SECTOR_BYTES
    const place = `${count} sectors at ${start}`
    if (start + BigInt(count) > BigInt(sectors))
      throw this.#fail(`${place} are beyond the end of the disk, which has ${sectors} here`, at)
    if (count > chunkSectors(log.granularityBytes)) throw this.#fail(`${place} are too many for one chunk`, at)
    const firstBit = (Number(start) * SECTOR_BYTES) / log.granularityBytes
    if (firstBit % 64 !== 0) throw this.#fail(`${place} do not begin at a multiple of 64 bits`, at)
    if (zeroes) {
      trace.dirty_bitmap_load_bits_zeroes({})
      return
    }
    if (f.available < 8) yield 8
    const size = f.getBe64()
    const wanted = bytesOfBits((count * SECTOR_BYTES) / log.granularityBytes)
    const padded = Math.ceil(wanted / BITS_ALIGN_BYTES) * BITS_ALIGN_BYTES
    if (size < BigInt(wanted) || size > BigInt(padded))
      throw this.#fail(`${size} bytes of bits for ${place}, instead of ${wanted} to ${padded}`, at)
    if (f.available < Number(size)) yield Number(size)
    const bits = new Uint8Array(Number(size))
    f.getBuffer(bits)
    try {
      log.markBits(firstBit, bits)
    } catch (cause) {
      throw this.#fail((cause as Error).message, at, { cause })
    }
  }

  #current(at: number): Arriving {
    const { name } = this.#device!
    const found = this.#arriving.find((a) => a.device === name && a.name === this.#bitmapName)
    if (!found) throw this.#fail('it was not begun in this stream', at)
    if (found.complete) throw this.#fail('it was complete already', at)
    return found
  }

  #fail(message: string, at: number, options?: ErrorOptions): DirtyBitmapLoadError {
    const [device, bitmap] = [this.#device?.name ?? '', this.#bitmapName ?? '']
    return new DirtyBitmapLoadError(shown(device), shown(bitmap), message, at, options)
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: names from the wire are shown without them
const shown = (name: string): string => name.replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?')
