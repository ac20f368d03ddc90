import type { BlockBackend } from '@ferryvm/core'
import { ImageIoError } from '../errors.ts'
import type { ImageFile } from '../image-file.ts'

const SECTOR = 512

export interface RawImageOptions {
  /**
   * The format was guessed. A guest could write a header into its first sector that makes the disk another format's image the next
   * time, with any file of the host as its backing file: that one write fails.
   */
  readonly guarded?: (firstSector: Uint8Array) => string | undefined
}

/** A disk whose sectors are the bytes of a file. A last part of less than 512 bytes is not shown to the guest. */
export async function rawImage(file: ImageFile, { guarded }: RawImageOptions = {}): Promise<BlockBackend> {
  const size = await file.size()
  const capacityBytes = size - (size % SECTOR)
  return {
    capacityBytes,
    readOnly: file.readOnly,
    async read(offset, into) {
      const there = await file.read(offset, into)
      if (there === into.length) return
      throw new ImageIoError(
        file.name,
        'read',
        offset + there,
        new Error('the file ends there: somebody made it shorter'),
      )
    },
    async write(offset, from) {
      if (guarded && offset < SECTOR) {
        const first = new Uint8Array(SECTOR)
        await file.read(0, first)
        first.set(from.subarray(0, SECTOR - offset), offset)
        const format = guarded(first)
        if (format) {
          const why = new Error(`the guest makes it look like a ${format} image; give format=raw to allow that`)
          throw new ImageIoError(file.name, 'write', offset, why)
        }
      }
      await file.write(offset, from)
    },
    flush: () => file.flush(),
    close: () => file.close(),
  }
}
