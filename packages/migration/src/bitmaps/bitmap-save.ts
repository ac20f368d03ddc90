import { type DirtyBitmap, DirtyBitmapError, isZeroFilled, type QEMUFileWriter } from '@ferryvm/core'
import type { BlockDevice } from '../block/block-save.ts'
import { trace } from '../migration-trace.ts'
import type { BitmapMapping } from './bitmap-mapping.ts'
import {
  BITMAP_ENABLED,
  BITMAPS_BITMAP_NAME,
  BITMAPS_BITS,
  BITMAPS_COMPLETE,
  BITMAPS_DEVICE_NAME,
  BITMAPS_EOS,
  BITMAPS_START,
  BITMAPS_ZEROES,
  BITS_ALIGN_BYTES,
  bytesOfBits,
  chunkSectors,
  SECTOR_BYTES,
} from './bitmap-records.ts'

interface Sent {
  /** As the stream calls the disk. */
  readonly device: string
  /** As the stream calls the bitmap. */
  readonly name: string
  readonly bitmap: DirtyBitmap
  readonly sectors: number
}

/** Sending half of the section `dirty-bitmap`: what the bitmaps are goes first, their bits when the guest stands. */
export class BitmapSaver {
  #sent: readonly Sent[] = []
  #last: Sent | undefined

  /** Between {@link begin} and {@link end}, with bitmaps. */
  get active(): boolean {
    return this.#sent.length > 0
  }

  /** Bytes of bits that the peer lacks. */
  get remainingBytes(): number {
    return this.#sent.reduce((sum, { bitmap }) => sum + bitmap.log.bits.length, 0)
  }

  /** From now on nothing else can work with them. @throws DirtyBitmapError one is in use, or its name does not fit; nothing was begun */
  begin(devices: readonly BlockDevice[], mapping: BitmapMapping | undefined): void {
    const sent = devices.flatMap(({ name, node = name, backend }) => {
      const nodeMapping = mapping?.find((m) => m['node-name'] === node)
      if (mapping && !nodeMapping) return []
      return (backend.bitmaps?.all ?? []).flatMap((bitmap): Sent[] => {
        const alias = nodeMapping ? nodeMapping.bitmaps.find((b) => b.name === bitmap.name)?.alias : bitmap.name
        if (alias === undefined) return []
        const device = nodeMapping?.alias ?? name
        return [{ device, name: alias, bitmap, sectors: backend.capacityBytes / SECTOR_BYTES }]
      })
    })
    for (const { device, name, bitmap } of sent) {
      if (bitmap.busy)
        throw new DirtyBitmapError(
          bitmap.name,
          `Bitmap '${bitmap.name}' is currently in use by another operation and cannot be used`,
        )
      for (const text of [device, name]) {
        if (new TextEncoder().encode(text).length > 255)
          throw new DirtyBitmapError(bitmap.name, `Cannot migrate bitmap: the name '${text}' is longer than 255 bytes`)
      }
    }
    for (const { bitmap } of sent) bitmap.busy = true
    this.#sent = sent
    this.#last = undefined
  }

  /** However it ended: the bitmaps are as they were. */
  end(): void {
    for (const { bitmap } of this.#sent) bitmap.busy = false
    this.#sent = []
  }

  /** The START: which there are. */
  setup(f: QEMUFileWriter): void {
    for (const sent of this.#sent) {
      trace.send_bitmap_header_enter({})
      this.#header(f, BITMAPS_START, sent)
      f.putBe32(sent.bitmap.log.granularityBytes)
      f.putByte(sent.bitmap.recording ? BITMAP_ENABLED : 0)
    }
    f.putByte(BITMAPS_EOS)
  }

  /** The guest is stopped, and with it all that marks them. */
  async complete(f: QEMUFileWriter): Promise<void> {
    trace.dirty_bitmap_save_complete_enter({})
    for (const sent of this.#sent) {
      const { log } = sent.bitmap
      const step = chunkSectors(log.granularityBytes)
      for (let start = 0; start < sent.sectors; start += step) {
        this.#bits(f, sent, start, Math.min(step, sent.sectors - start))
        await f.flush()
      }
    }
    for (const sent of this.#sent) this.#header(f, BITMAPS_COMPLETE, sent)
    f.putByte(BITMAPS_EOS)
    await f.flush()
    trace.dirty_bitmap_save_complete_finish({})
  }

  #bits(f: QEMUFileWriter, sent: Sent, start: number, sectors: number): void {
    const { bits, granularityBytes } = sent.bitmap.log
    const first = (start * SECTOR_BYTES) / granularityBytes
    const from = bits.subarray(first / 8, first / 8 + bytesOfBits((sectors * SECTOR_BYTES) / granularityBytes))
    const zero = isZeroFilled(from)
    const data = new Uint8Array(zero ? 0 : Math.ceil(from.length / BITS_ALIGN_BYTES) * BITS_ALIGN_BYTES)
    if (!zero) data.set(from)
    const flags = this.#header(f, BITMAPS_BITS | (zero ? BITMAPS_ZEROES : 0), sent)
    trace.send_bitmap_bits({ flags, start_sector: start, nr_sectors: sectors, data_size: data.length })
    f.putBe64(BigInt(start))
    f.putBe32(sectors)
    if (zero) return
    f.putBe64(BigInt(data.length))
    f.putBuffer(data)
  }

  #header(f: QEMUFileWriter, kind: number, sent: Sent): number {
    const device = this.#last?.device === sent.device ? 0 : BITMAPS_DEVICE_NAME
    const flags = kind | device | (this.#last === sent ? 0 : BITMAPS_BITMAP_NAME)
    this.#last = sent
    f.putByte(flags)
    if (flags & BITMAPS_DEVICE_NAME) f.putStr8(sent.device)
    if (flags & BITMAPS_BITMAP_NAME) f.putStr8(sent.name)
    return flags
  }
}
