import { NbdRequestError } from '../errors.ts'
import {
  CHUNK_DONE,
  Chunk,
  errnoName,
  MAX_STRING_BYTES,
  NbdCommand,
  SECTOR_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../protocol.ts'
import { shown } from '../wire.ts'
import type { ClientSession } from './negotiate.ts'

/** A request on its way. */
export interface PendingReply {
  readonly type: number
  readonly offset: number
  readonly length: number
  /** Of a read. */
  readonly into?: Uint8Array
  /** Of a block status, with the context that was agreed on. */
  readonly extent?: (found: { bytes: number; state: number }) => void
  readonly contextId?: number
  /** What of a read has come, in order of coming. */
  ranges?: { at: number; bytes: number }[]
  /** Said in a chunk before the last. */
  error?: NbdRequestError
  resolve(): void
  reject(error: Error): void
}

const MAX_EXTENTS_BYTES = 8 * 65536

/**
 * Takes answers until the server hangs up between two of them.
 * @throws NbdProtocolError, StreamTruncatedError, ChannelClosedError: all that wait have to fail
 */
export async function receiveReplies(session: ClientSession, pending: Map<bigint, PendingReply>): Promise<void> {
  const { reader, structured } = session
  while (!(await reader.atEnd())) {
    const magic = await reader.u32()
    if (magic === SIMPLE_REPLY_MAGIC) await simple(session, pending)
    else if (magic === STRUCTURED_REPLY_MAGIC && structured) await chunk(session, pending)
    else throw reader.wrong('reply magic', `0x${magic.toString(16)}`, 4)
  }
}

async function requestOf(
  { reader }: ClientSession,
  pending: Map<bigint, PendingReply>,
): Promise<[bigint, PendingReply]> {
  const handle = await reader.u64()
  const request = pending.get(handle)
  if (!request) throw reader.wrong('handle', `0x${handle.toString(16)} is of no request that waits`, 8)
  return [handle, request]
}

async function simple(session: ClientSession, pending: Map<bigint, PendingReply>): Promise<void> {
  const { reader, structured } = session
  const errno = await reader.u32()
  const [handle, request] = await requestOf(session, pending)
  const { into } = request
  if (structured && (into || request.extent))
    throw reader.wrong('reply', 'a simple one, where chunks were agreed on', 16)
  if (errno === 0 && into) await reader.into(into)
  pending.delete(handle)
  if (errno === 0) request.resolve()
  else request.reject(new NbdRequestError(errnoName(errno), errno))
}

async function chunk(session: ClientSession, pending: Map<bigint, PendingReply>): Promise<void> {
  const { reader } = session
  const flags = await reader.u16()
  if (flags & ~CHUNK_DONE) throw reader.wrong('chunk flags', `0x${flags.toString(16)}`, 2)
  const type = await reader.u16()
  const [handle, request] = await requestOf(session, pending)
  const length = await reader.u32()
  const wrong = (problem: string, back = 0) => reader.wrong('chunk', problem, back)
  switch (type) {
    case Chunk.NONE:
      if (length !== 0 || !(flags & CHUNK_DONE)) throw wrong(`an empty one with ${length} bytes`, 4)
      break
    case Chunk.OFFSET_DATA: {
      if (length <= 8) throw wrong(`data of ${length} bytes`, 4)
      const target = rangeOf(session, request, await reader.u64(), length - 8)
      await reader.into(target)
      break
    }
    case Chunk.OFFSET_HOLE: {
      if (length !== 12) throw wrong(`a hole of ${length} bytes`, 4)
      const offset = await reader.u64()
      rangeOf(session, request, offset, await reader.u32()).fill(0)
      break
    }
    case Chunk.BLOCK_STATUS: {
      const { extent } = request
      if (!extent || length < 12 || (length - 4) % 8 !== 0 || length > MAX_EXTENTS_BYTES)
        throw wrong(`a block status of ${length} bytes`, 4)
      const context = await reader.u32()
      if (context !== request.contextId) throw wrong(`block status of context ${context}`, 4)
      for (let at = 4; at < length; at += 8) {
        const bytes = await reader.u32()
        if (bytes === 0) throw wrong('an extent of no bytes', 4)
        extent({ bytes, state: await reader.u32() })
      }
      break
    }
    case Chunk.ERROR:
    case Chunk.ERROR_OFFSET: {
      const fixed = type === Chunk.ERROR ? 6 : 14
      if (length < fixed || length > fixed + MAX_STRING_BYTES) throw wrong(`an error of ${length} bytes`, 4)
      const errno = await reader.u32()
      const textBytes = await reader.u16()
      if (textBytes !== length - fixed) throw wrong(`a message of ${textBytes} bytes in ${length}`, 2)
      const text = shown(await reader.bytes('message', textBytes, MAX_STRING_BYTES))
      await reader.skip(fixed - 6)
      if (errno === 0) throw wrong('an error that is none')
      request.error ??= new NbdRequestError(text === '' ? errnoName(errno) : `${text} (${errnoName(errno)})`, errno)
      break
    }
    default:
      throw wrong(`type ${type} is not known`, 14)
  }
  if (!(flags & CHUNK_DONE)) return
  if (!request.error && request.into && !isWhole(request)) throw wrong(`a read of ${request.length} bytes ended early`)
  pending.delete(handle)
  if (request.error) request.reject(request.error)
  else request.resolve()
}

/** Where a part of a read belongs. @throws NbdProtocolError outside of it, or too many parts */
function rangeOf({ reader }: ClientSession, request: PendingReply, offset: bigint, bytes: number): Uint8Array {
  const { into, length } = request
  const at = Number(offset) - request.offset
  if (!into || request.type !== NbdCommand.READ) throw reader.wrong('chunk', 'data that nobody asked for')
  if (bytes === 0 || at < 0 || at + bytes > length)
    throw reader.wrong('offset', `${bytes} bytes at ${offset} are not in what was read`)
  request.ranges ??= []
  request.ranges.push({ at, bytes })
  if (request.ranges.length > length / SECTOR_BYTES) throw reader.wrong('chunk', 'more parts than there are sectors')
  return into.subarray(at, at + bytes)
}

/** Everything came, and nothing twice. */
function isWhole({ ranges = [], length }: PendingReply): boolean {
  let end = 0
  for (const { at, bytes } of ranges.sort((a, b) => a.at - b.at)) {
    if (at !== end) return false
    end += bytes
  }
  return end === length
}
