import type { Channel } from '@ferryvm/core'

/** Where a stream comes from. Memory of the tools stays constant, whatever its length. */
export interface ByteSource {
  /** Bytes in all, where that is known. */
  readonly size?: number
  /** All of it, where it is in memory: it is then read in place. */
  readonly bytes?: Uint8Array<ArrayBuffer>
  /** Fills the start of `into` with what comes next. Returns 1..into.length, or 0 at the end. */
  read(into: Uint8Array): number | Promise<number>
  /** Seekable sources only: fills the start of `into` from that offset; 0 at the end. Does not move `read`. */
  readAt?(into: Uint8Array, offset: number): number | Promise<number>
  /** Seekable sources only: `read` goes on that many bytes later. */
  skip?(bytes: number): void
}

/** A stream that is in memory. */
export function bytesSource(bytes: Uint8Array): ByteSource {
  const at = (into: Uint8Array, offset: number): number => {
    const part = bytes.subarray(offset, offset + into.length)
    into.set(part)
    return part.length
  }
  const source = seekable(bytes.length, at)
  // Browsers decode no text in shared memory: it is copied, a window at a time.
  return bytes.buffer instanceof ArrayBuffer ? { ...source, bytes: bytes as Uint8Array<ArrayBuffer> } : source
}

/** What a pipe or a socket delivers: read once, in order. */
export const channelSource = (channel: Pick<Channel, 'read'>): ByteSource => ({ read: (into) => channel.read(into) })

/** A file that a page was given, or any blob. */
export function blobSource(blob: Blob): ByteSource {
  return seekable(blob.size, async (into, offset) => {
    const part = new Uint8Array(await blob.slice(offset, offset + into.length).arrayBuffer())
    into.set(part)
    return part.length
  })
}

/** Part of Node's FileHandle, so that this package needs no Node. */
export interface PositionedReader {
  read(
    into: Uint8Array,
    offset: number,
    length: number,
    position: number,
  ): { bytesRead: number } | Promise<{ bytesRead: number }>
}
/**
 * A regular file, opened by the caller: `fileSource(await open(path), (await stat(path)).size)`. A command that does nothing
 * else meanwhile is faster with `{ read: (...a) => ({ bytesRead: readSync(fd, ...a) }) }`.
 * @param start the stream begins at this offset (`file:` addresses have one)
 */
export function fileSource(file: PositionedReader, size: number, start = 0): ByteSource {
  return seekable(Math.max(0, size - start), (into, offset) => {
    const read = file.read(into, 0, into.length, start + offset)
    return 'bytesRead' in read ? read.bytesRead : read.then(({ bytesRead }) => bytesRead)
  })
}

function seekable(size: number, readAt: NonNullable<ByteSource['readAt']>): ByteSource {
  let position = 0
  return {
    size,
    readAt,
    read(into) {
      const count = readAt(into, position)
      const advance = (n: number) => {
        position += n
        return n
      }
      return typeof count === 'number' ? advance(count) : count.then(advance)
    },
    skip(bytes) {
      position += bytes
    },
  }
}
