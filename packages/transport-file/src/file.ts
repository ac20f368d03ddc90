import { constants } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'
import {
  ChannelClosedError,
  type ChannelFeature,
  defineTraceEvents,
  defineTransport,
  type Listener,
  type SeekableChannel,
  singleChannelListener,
  type Transport,
  type TransportContext,
  UnsupportedFeatureError,
} from '@ferryvm/core'
import { type FileAddress, formatFileAddress, parseFileAddress } from './address.ts'
import { FileChangedError, FileIoError, FileOpenError } from './errors.ts'

const trace = defineTraceEvents({
  migration_file_outgoing: { filename: 'str' },
  migration_file_incoming: { filename: 'str' },
})

/** One direction only: nobody answers from a file. */
const FEATURES: ReadonlySet<ChannelFeature> = new Set<ChannelFeature>(['seekable'])
/** writev takes at most this many buffers on Linux. */
const IOV_MAX = 1024

/** `file:path[,offset=SIZE]`. Spec: protocol.md section 7. */
export function file(): Transport<FileAddress> {
  return defineTransport<FileAddress>({
    scheme: 'file',
    features: FEATURES,
    parseAddress: parseFileAddress,
    formatAddress: formatFileAddress,
    async connect(address, { signal }) {
      trace.migration_file_outgoing({ filename: address.path })
      signal.throwIfAborted()
      return new FileWriter(await openForWriting(address), address)
    },
    listen: openListener,
  })
}

async function openListener(address: FileAddress, context: TransportContext): Promise<Listener<FileAddress>> {
  trace.migration_file_incoming({ filename: address.path })
  context.signal.throwIfAborted()
  const handle = await openForReading(address)
  return singleChannelListener(address, new FileReader(handle, address, await versionOf(handle)), context.signal)
}

/** What is before the offset stays (a header of somebody's format), what is behind it goes. */
async function openForWriting({ path, offset }: FileAddress): Promise<FileHandle> {
  await refusePipe(path, 'write', `exec:cat > ${path}`)
  const handle = await open(path, constants.O_CREAT | constants.O_WRONLY, 0o600).catch((cause) => {
    throw new FileOpenError(path, 'write', cause)
  })
  try {
    // A block device has its size.
    if ((await handle.stat()).isFile()) await handle.truncate(offset)
    return handle
  } catch (cause) {
    await handle.close()
    throw new FileOpenError(path, `cut to ${offset} bytes`, cause)
  }
}

async function openForReading({ path, offset }: FileAddress): Promise<FileHandle> {
  await refusePipe(path, 'read', `exec:cat ${path}`)
  const handle = await open(path, constants.O_RDONLY).catch((cause) => {
    throw new FileOpenError(path, 'read', cause)
  })
  const info = await handle.stat()
  const problem = info.isDirectory()
    ? 'it is a directory'
    : info.isFile() && info.size <= offset
      ? `it has ${info.size} bytes, and the stream would begin at ${offset}`
      : undefined
  if (!problem) return handle
  await handle.close()
  throw new FileOpenError(path, 'read', new Error(problem))
}

/** Opening one would wait for its other end, in a way that nothing can interrupt. */
async function refusePipe(path: string, what: string, instead: string): Promise<void> {
  const info = await stat(path).catch(() => undefined)
  if (info?.isFIFO()) throw new FileOpenError(path, what, new Error(`it is a named pipe; use ${instead}`))
}

/** What both directions share: calls one after the other, and an end that waits for the call under way. */
abstract class FileChannel implements SeekableChannel {
  readonly features = FEATURES
  protected readonly handle: FileHandle
  protected readonly path: string
  position: number
  /** Calls beside the stream. */
  readonly #beside = new Set<Promise<unknown>>()
  #last: Promise<unknown> = Promise.resolve()
  #closed: ChannelClosedError | undefined
  #closing: Promise<void> | undefined

  constructor(handle: FileHandle, { path, offset }: FileAddress) {
    this.handle = handle
    this.path = path
    this.position = offset
  }

  abstract read(into: Uint8Array): Promise<number>
  abstract write(buffers: readonly Uint8Array[]): Promise<void>
  abstract readAt(into: Uint8Array, position: number): Promise<number>
  abstract writeAt(buffers: readonly Uint8Array[], position: number): Promise<void>

  seek(position: number): void {
    this.position = position
  }

  protected throwIfClosed(): void {
    if (this.#closed) throw this.#closed
  }

  /** A descriptor that was closed under a call could be another file by then. */
  protected inTurn<T>(what: string, run: () => Promise<T>): Promise<T> {
    const result = this.#last.then(async () => {
      this.throwIfClosed()
      try {
        return await run()
      } catch (error) {
        throw this.#closed ?? new FileIoError(this.path, what, this.position, error)
      }
    })
    this.#last = result.catch(() => {})
    return result
  }

  /** At a position of its own, while the stream goes on. */
  protected async beside<T>(what: string, position: number, run: () => Promise<T>): Promise<T> {
    this.throwIfClosed()
    const result = run().catch((error) => {
      if (error instanceof FileChangedError) throw error
      throw this.#closed ?? new FileIoError(this.path, what, position, error)
    })
    const settled = result.catch(() => {}).finally(() => this.#beside.delete(settled))
    this.#beside.add(settled)
    return result
  }

  async shutdown(): Promise<void> {
    this.throwIfClosed()
    throw new UnsupportedFeatureError('shutdown', 'file:')
  }

  close(reason?: Error): Promise<void> {
    this.#closed ??= reason
      ? new ChannelClosedError(`the channel is closed: ${reason.message}`, { cause: reason })
      : new ChannelClosedError()
    this.#closing ??= Promise.all([this.#last, ...this.#beside])
      .then(() => this.handle.close())
      .catch(() => {})
    return this.#closing
  }
}

class FileWriter extends FileChannel {
  async read(): Promise<number> {
    this.throwIfClosed()
    throw new UnsupportedFeatureError('return-path', 'file:')
  }

  write(buffers: readonly Uint8Array[]): Promise<void> {
    return this.inTurn('write', async () => {
      this.position = await this.#writeAll(buffers, this.position)
      this.throwIfClosed()
    })
  }

  writeAt(buffers: readonly Uint8Array[], position: number): Promise<void> {
    return this.beside('write', position, () => this.#writeAll(buffers, position).then(() => {}))
  }

  async readAt(): Promise<number> {
    this.throwIfClosed()
    throw new UnsupportedFeatureError('return-path', 'file:')
  }

  async #writeAll(buffers: readonly Uint8Array[], position: number): Promise<number> {
    let rest = buffers.filter((buffer) => buffer.length > 0)
    while (rest.length > 0) {
      this.throwIfClosed()
      let { bytesWritten } = await this.handle.writev(rest.slice(0, IOV_MAX) as Uint8Array<ArrayBuffer>[], position)
      position += bytesWritten
      while (rest.length > 0 && bytesWritten >= rest[0]!.length) bytesWritten -= rest.shift()!.length
      if (bytesWritten > 0) rest = [rest[0]!.subarray(bytesWritten), ...rest.slice(1)]
    }
    return position
  }

  /** On the medium, not only in the system's cache: the guest lives nowhere else afterwards. */
  finish(): Promise<void> {
    return this.inTurn('write', async () => {
      await this.handle.sync().catch((error) => {
        // A device such as /dev/null has nothing to bring to a medium.
        if (error.code !== 'EINVAL' && error.code !== 'ENOTSUP') throw error
      })
      this.throwIfClosed()
    })
  }
}

/** A file that somebody writes to has another one. */
async function versionOf(handle: FileHandle): Promise<string> {
  const { dev, ino, size, mtimeNs } = await handle.stat({ bigint: true })
  return [dev, ino, size, mtimeNs].join(':')
}

class FileReader extends FileChannel {
  readonly version: string
  #reading = false

  constructor(handle: FileHandle, address: FileAddress, version: string) {
    super(handle, address)
    this.version = version
  }

  unchanged(): Promise<void> {
    return this.beside('look at', this.position, async () => {
      if ((await versionOf(this.handle)) !== this.version) throw new FileChangedError(this.path)
    })
  }

  async read(into: Uint8Array): Promise<number> {
    if (into.length === 0) throw new RangeError('a read needs room for one byte')
    if (this.#reading) throw new TypeError('a read of this channel is already waiting')
    this.#reading = true
    try {
      return await this.inTurn('read', async () => {
        const { bytesRead } = await this.handle.read(into, 0, into.length, this.position)
        this.throwIfClosed()
        this.position += bytesRead
        return bytesRead
      })
    } finally {
      this.#reading = false
    }
  }

  readAt(into: Uint8Array, position: number): Promise<number> {
    return this.beside('read', position, async () => {
      let filled = 0
      while (filled < into.length) {
        const { bytesRead } = await this.handle.read(into, filled, into.length - filled, position + filled)
        if (bytesRead === 0) break
        filled += bytesRead
      }
      return filled
    })
  }

  async writeAt(): Promise<void> {
    this.throwIfClosed()
    throw new UnsupportedFeatureError('return-path', 'file:')
  }

  async write(): Promise<void> {
    this.throwIfClosed()
    throw new UnsupportedFeatureError('return-path', 'file:')
  }
}
