import type { BlockBackend } from '@ferryvm/core'
import { openImage } from './open-image.ts'

/**
 * A disk whose sectors are the bytes of a file, which other processes may have open too.
 * @throws ImageOpenError it cannot be opened or is no regular file or block device
 */
export async function rawFile(path: string, options: { readonly readOnly?: boolean } = {}): Promise<BlockBackend> {
  const { backend } = await openImage(path, { format: 'raw', readOnly: options.readOnly, unlocked: true })
  return backend
}
