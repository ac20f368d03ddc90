import { resolve } from 'node:path'
import { isZeroFilled } from '@ferryvm/core'
import { ImageOptionError } from '../errors.ts'
import { type CreateImageOptions, createImage } from './create-image.ts'
import { openImage } from './open-image.ts'

export interface ConvertImageOptions extends Omit<CreateImageOptions, 'size' | 'backingFile' | 'backingFormat'> {
  /** Of the source; default: what it looks like. */
  readonly sourceFormat?: string
  /** Clusters that get shorter by it; qcow2 only. */
  readonly compress?: boolean
  /** Bytes of the disk that are done. */
  readonly progress?: (done: number, total: number) => void
}

/** Bytes that are on their way at a time. */
const CHUNK_BYTES = 2 << 20

/**
 * Writes what a disk contains, with everything below it, into an image of its own.
 * @throws ImageError; the source is never changed
 */
export async function convertImage(from: string, to: string, options: ConvertImageOptions): Promise<void> {
  if (options.compress && options.format !== 'qcow2')
    throw new ImageOptionError(to, 'only qcow2 images have compressed clusters')
  if (resolve(from) === resolve(to)) throw new ImageOptionError(to, 'it is the source too')
  const source = await openImage(from, { format: options.sourceFormat, readOnly: true })
  try {
    const total = source.backend.capacityBytes
    await createImage(to, { ...options, size: total })
    const target = await openImage(to, { format: options.format })
    try {
      const chunkBytes = options.compress ? target.qcow2!.clusterBytes : CHUNK_BYTES
      const chunk = new Uint8Array(chunkBytes)
      for (let at = 0; at < total; at += chunkBytes) {
        const part = chunk.subarray(0, Math.min(chunkBytes, total - at))
        await source.backend.read(at, part)
        if (options.compress) await target.qcow2!.writeCompressed(at, part)
        else await writeUnlessZero(target.backend, at, part, target.qcow2?.clusterBytes ?? 65536)
        options.progress?.(at + part.length, total)
      }
      await target.backend.flush()
    } finally {
      await target.backend.close?.()
    }
  } finally {
    await source.backend.close?.()
  }
}

/** A new image reads as zeros where nothing was written. */
async function writeUnlessZero(
  backend: { write(offset: number, from: Uint8Array): Promise<void> },
  offset: number,
  bytes: Uint8Array,
  unit: number,
): Promise<void> {
  let from = 0
  for (let at = 0; at <= bytes.length; at += unit) {
    const part = bytes.subarray(at, at + unit)
    if (part.length > 0 && !isZeroFilled(part)) continue
    if (at > from) await backend.write(offset + from, bytes.subarray(from, Math.min(at, bytes.length)))
    from = at + unit
  }
  if (from < bytes.length) await backend.write(offset + from, bytes.subarray(from))
}
