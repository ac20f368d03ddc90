import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { systemErrorReason } from '@ferryvm/core/node'
import { TlsCredentialsError } from './errors.ts'

/** No file of credentials comes near that. */
export const MAX_FILE_BYTES = 1 << 20

/**
 * A regular file of at most 1 MiB. A pipe would make us wait for its other end, a device for ever: neither is opened for
 * reading. Blocking, as whoever asks has nothing else to do.
 *
 * @throws TlsCredentialsError not there, not readable, no regular file, or too large
 */
export function readBoundedFile(path: string): Buffer<ArrayBuffer> {
  let fd: number | undefined
  try {
    // Without O_NONBLOCK the opening of a pipe waits.
    fd = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
    const kind = fstatSync(fd)
    if (kind.isDirectory()) throw new TlsCredentialsError(`${path} cannot be read: it is a directory`)
    if (!kind.isFile()) throw new TlsCredentialsError(`${path} cannot be read: it is no regular file`)
    // What it has now, not what it had when it was looked at: a file may grow.
    const buffer = Buffer.alloc(Math.min(kind.size, MAX_FILE_BYTES) + 1)
    let length = 0
    for (let count = 1; count > 0 && length < buffer.length; length += count) {
      count = readSync(fd, buffer, length, buffer.length - length, null)
    }
    if (kind.size > MAX_FILE_BYTES || length > MAX_FILE_BYTES) {
      throw new TlsCredentialsError(
        `${path} has ${Math.max(kind.size, length)} bytes, at most ${MAX_FILE_BYTES} are read`,
      )
    }
    return buffer.subarray(0, length)
  } catch (cause) {
    if (cause instanceof TlsCredentialsError) throw cause
    throw new TlsCredentialsError(`${path} cannot be read: ${systemErrorReason(cause)}`, { cause })
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

export const readBoundedText = (path: string): string => readBoundedFile(path).toString('utf8')

/** undefined: there is no such file. @throws TlsCredentialsError */
export function readTextIfThere(path: string): string | undefined {
  try {
    return readBoundedText(path)
  } catch (error) {
    if (((error as Error).cause as { code?: string } | undefined)?.code === 'ENOENT') return undefined
    throw error
  }
}
