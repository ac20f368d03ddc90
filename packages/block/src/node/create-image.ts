import { stat, unlink } from 'node:fs/promises'
import { ImageOptionError } from '../errors.ts'
import type { ImageFormat } from '../probe-format.ts'
import { type CreateQcow2Options, createQcow2 } from '../qcow2/create-qcow2.ts'
import { openImageFile } from './node-image-file.ts'
import { backingPath, openImage } from './open-image.ts'

export interface CreateImageOptions extends Omit<CreateQcow2Options, 'size'> {
  readonly format: ImageFormat
  /** Bytes; default: the size of the backing file. Rounded up to whole sectors. */
  readonly size?: number
}

/**
 * Makes an image, or an empty one of what was there.
 * @returns its size, bytes
 * @throws ImageOptionError, ImageOpenError, ImageLockedError: nothing has changed then @throws ImageIoError
 */
export async function createImage(path: string, options: CreateImageOptions): Promise<number> {
  const { format, backingFile, backingFormat } = options
  let { size } = options
  if (backingFile !== undefined) {
    if (format === 'raw') throw new ImageOptionError(path, 'a raw image has no backing file')
    if (backingFormat === undefined) {
      throw new ImageOptionError(
        path,
        'a backing file needs its format (-F): what it looks like can change under a guest',
      )
    }
    const backing = await openImage(backingPath(path, backingFile), {
      format: backingFormat,
      readOnly: true,
      unlocked: true,
    })
    size ??= backing.backend.capacityBytes
    await backing.backend.close?.()
  }
  if (size === undefined) throw new ImageOptionError(path, 'the size is missing')
  if (!Number.isSafeInteger(size) || size < 0)
    throw new ImageOptionError(path, `a disk of ${size} bytes is none that a file can hold`)
  size = Math.ceil(size / 512) * 512
  const existed = await stat(path).then(
    () => true,
    () => false,
  )
  const file = await openImageFile(path, { create: true })
  try {
    if (format === 'qcow2') await createQcow2(file, { ...options, size })
    else {
      await file.truncate(0)
      await file.truncate(size)
    }
    await file.close()
  } catch (error) {
    await file.close()
    if (!existed) await unlink(path).catch(() => {})
    throw error
  }
  return size
}
