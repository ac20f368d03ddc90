import { type FileHandle, open } from 'node:fs/promises'
import { DeviceConfigError } from '@ferryvm/core'
import type { BlockBackend } from '../block-backend.ts'

const SECTOR = 512

/**
 * A disk whose sectors are the bytes of a file. A last part of less than 512 bytes is not shown to the guest.
 * @throws DeviceConfigError the file cannot be opened or is no regular file or block device
 */
export async function rawFile(path: string, options: { readonly readOnly?: boolean } = {}): Promise<BlockBackend> {
  const readOnly = options.readOnly ?? false
  let file: FileHandle
  try {
    file = await open(path, readOnly ? 'r' : 'r+')
  } catch (cause) {
    throw new DeviceConfigError('drive', `cannot open '${path}': ${(cause as Error).message}`, { cause })
  }
  const stat = await file.stat()
  if (!stat.isFile() && !stat.isBlockDevice()) {
    await file.close()
    throw new DeviceConfigError('drive', `'${path}' is neither a file nor a block device`)
  }
  return {
    capacityBytes: stat.size - (stat.size % SECTOR),
    readOnly,
    async read(offset, into) {
      for (let done = 0; done < into.length; ) {
        const { bytesRead } = await file.read(into, done, into.length - done, offset + done)
        if (bytesRead === 0) throw new Error(`'${path}' ended at ${offset + done}: somebody made it shorter`)
        done += bytesRead
      }
    },
    async write(offset, from) {
      for (let done = 0; done < from.length; ) {
        const { bytesWritten } = await file.write(from, done, from.length - done, offset + done)
        done += bytesWritten
      }
    },
    flush: () => file.datasync(),
    close: () => file.close(),
  }
}
