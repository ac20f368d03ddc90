import { fstatSync, openSync, readFileSync, readSync } from 'node:fs'
import type { FileSource } from '@ferryvm/board-virt'
import { UsageError } from './usage-error.ts'

/**
 * Firmware, kernel or initial RAM disk. A file stays open as long as the process runs and is read into guest memory at every
 * reset, so that one that was replaced meanwhile is still there; what is no file (a pipe) is read once and held.
 * @throws UsageError it cannot be read
 */
export function openBootFile(option: string, path: string): Uint8Array | FileSource {
  const attempt = <T>(read: () => T): T => {
    try {
      return read()
    } catch (cause) {
      throw new UsageError(`${option} ${path}: ${(cause as Error).message}`, { cause })
    }
  }
  const file = attempt(() => openSync(path, 'r'))
  const stat = attempt(() => fstatSync(file))
  if (!stat.isFile()) return attempt(() => readFileSync(file))
  return {
    sizeBytes: stat.size,
    read(offset, target) {
      const now = fstatSync(file).size
      if (now !== stat.size) {
        throw new UsageError(`${option} ${path}: has ${now} bytes now; it had ${stat.size} when the machine was made`)
      }
      for (let done = 0; done < target.length; ) {
        const bytes = attempt(() => readSync(file, target, done, target.length - done, offset + done))
        if (bytes === 0) throw new UsageError(`${option} ${path}: ends at ${offset + done} of ${stat.size} bytes`)
        done += bytes
      }
    },
  }
}
