import { constants } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'
import { systemErrorReason } from '@ferryvm/core/node'
import { ImageIoError, ImageOpenError } from '../errors.ts'
import type { ImageFile } from '../image-file.ts'
import { lockImage } from './image-lock.ts'

export interface OpenFileOptions {
  readonly readOnly?: boolean
  /** Makes it, empty, if it is not there; what was there stays until it is overwritten. */
  readonly create?: boolean
  /** Also when another process has it open for writing: what is read may change meanwhile. */
  readonly unlocked?: boolean
}

const reasonOf = (cause: unknown): Error => new Error(systemErrorReason(cause), { cause })

/** @throws ImageOpenError it is no regular file or block device, or cannot be opened @throws ImageLockedError */
export async function openImageFile(path: string, options: OpenFileOptions = {}): Promise<ImageFile> {
  const readOnly = options.readOnly ?? false
  const refuse = (problem: string, cause?: unknown): never => {
    throw new ImageOpenError(path, problem, { cause })
  }
  // Opening a pipe would wait for its other end.
  const before = await stat(path).catch(() => undefined)
  if (before?.isDirectory()) refuse('it is a directory')
  if (before && !before.isFile() && !before.isBlockDevice()) refuse('it is neither a file nor a block device')
  const flags = (readOnly ? constants.O_RDONLY : constants.O_RDWR) | (options.create ? constants.O_CREAT : 0)
  let handle: FileHandle
  try {
    handle = await open(path, flags, 0o644)
  } catch (cause) {
    return refuse(systemErrorReason(cause), cause)
  }
  try {
    if (!options.unlocked) await lockImage(path, handle.fd, !readOnly)
    return new NodeImageFile(path, handle, readOnly, before?.isBlockDevice() === true)
  } catch (error) {
    await handle.close()
    throw error
  }
}

class NodeImageFile implements ImageFile {
  readonly name: string
  readonly readOnly: boolean
  readonly #handle: FileHandle
  readonly #isDevice: boolean
  #unflushed = false

  constructor(path: string, handle: FileHandle, readOnly: boolean, isDevice: boolean) {
    this.name = path
    this.#handle = handle
    this.readOnly = readOnly
    this.#isDevice = isDevice
  }

  async size(): Promise<number> {
    if (this.#isDevice) return deviceSize(this.#handle)
    return (await this.#handle.stat()).size
  }

  async read(offset: number, into: Uint8Array): Promise<number> {
    try {
      for (let done = 0; done < into.length; ) {
        const { bytesRead } = await this.#handle.read(into, done, into.length - done, offset + done)
        if (bytesRead === 0) {
          into.fill(0, done)
          return done
        }
        done += bytesRead
      }
      return into.length
    } catch (cause) {
      throw new ImageIoError(this.name, 'read', offset, reasonOf(cause))
    }
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    this.#unflushed = true
    try {
      for (let done = 0; done < from.length; ) {
        const { bytesWritten } = await this.#handle.write(from, done, from.length - done, offset + done)
        done += bytesWritten
      }
    } catch (cause) {
      throw new ImageIoError(this.name, 'write', offset, reasonOf(cause))
    }
  }

  async truncate(bytes: number): Promise<void> {
    this.#unflushed = true
    if (this.#isDevice) return
    await this.#handle.truncate(bytes).catch((cause) => {
      throw new ImageIoError(this.name, 'change the size', bytes, reasonOf(cause))
    })
  }

  async flush(): Promise<void> {
    if (!this.#unflushed) return
    this.#unflushed = false
    await this.#handle.datasync().catch((cause) => {
      this.#unflushed = true
      throw new ImageIoError(this.name, 'bring to the medium', 0, reasonOf(cause))
    })
  }

  close(): Promise<void> {
    return this.#handle.close()
  }
}

/** `stat` says 0 for devices: the last byte that can be read is searched for. */
async function deviceSize(handle: FileHandle): Promise<number> {
  const byte = new Uint8Array(1)
  const exists = async (at: number) => (await handle.read(byte, 0, 1, at).catch(() => ({ bytesRead: 0 }))).bytesRead > 0
  let low = 0
  let high = 1
  while (await exists(high - 1)) {
    low = high
    high *= 2
  }
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (await exists(middle - 1)) low = middle
    else high = middle
  }
  return low
}
