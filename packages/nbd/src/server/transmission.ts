import { isZeroFilled, type Logger } from '@ferryvm/core'
import {
  CHUNK_DONE,
  Chunk,
  CommandFlag,
  commandName,
  MAX_PAYLOAD_BYTES,
  NbdCommand,
  NbdErrno,
  REQUEST_MAGIC,
  SECTOR_BYTES,
  SIMPLE_REPLY_MAGIC,
  STATE_HOLE,
  STATE_ZERO,
  STRUCTURED_REPLY_MAGIC,
} from '../protocol.ts'
import { encodeText } from '../wire.ts'
import { ALLOCATION_CONTEXT_ID, type ServerSession } from './negotiate.ts'

/** Requests of one client that are worked on at a time, and what they hold in memory. */
const MAX_IN_FLIGHT = 16
const MAX_HELD_BYTES = 64 << 20
/** Written at a time where zeros have to be. */
const ZERO_BYTES = 1 << 20
/** Of one block status. */
const MAX_EXTENTS = 1024

/** Flags that a command may have. */
const ALLOWED_FLAGS: Readonly<Record<number, number>> = {
  [NbdCommand.READ]: CommandFlag.DF,
  [NbdCommand.WRITE]: CommandFlag.FUA,
  [NbdCommand.FLUSH]: 0,
  [NbdCommand.TRIM]: CommandFlag.FUA,
  [NbdCommand.WRITE_ZEROES]: CommandFlag.FUA | CommandFlag.NO_HOLE,
  [NbdCommand.BLOCK_STATUS]: CommandFlag.REQ_ONE,
}

interface Request {
  readonly flags: number
  readonly type: number
  readonly handle: bigint
  readonly offset: number
  readonly length: number
}

/** What is wrong with one request: the client is told, and the connection goes on. */
class Refusal extends Error {
  readonly errno: number
  constructor(errno: number, message: string) {
    super(message)
    this.errno = errno
  }
}

/**
 * Serves one client until it goes.
 * @throws NbdProtocolError, StreamTruncatedError, ChannelClosedError; by then nothing of it is worked on any more
 */
export async function serveRequests(session: ServerSession, log: Logger): Promise<void> {
  await new Transmission(session, log).run()
}

class Transmission {
  readonly #session: ServerSession
  readonly #log: Logger
  readonly #inFlight = new Set<Promise<void>>()
  #heldBytes = 0

  constructor(session: ServerSession, log: Logger) {
    this.#session = session
    this.#log = log
  }

  async run(): Promise<void> {
    const { reader } = this.#session
    try {
      while (!(await reader.atEnd())) {
        const magic = await reader.u32()
        if (magic !== REQUEST_MAGIC) throw reader.wrong('request magic', `0x${magic.toString(16)}`, 4)
        const flags = await reader.u16()
        const type = await reader.u16()
        const handle = await reader.u64()
        const offset = await reader.u64()
        const length = await reader.u32()
        if (type === NbdCommand.DISC) return
        const payload = type === NbdCommand.WRITE ? length : 0
        if (payload > MAX_PAYLOAD_BYTES) throw reader.wrong('length', `a write of ${length} bytes`, 4)
        const held = type === NbdCommand.READ || type === NbdCommand.WRITE ? Math.min(length, MAX_PAYLOAD_BYTES) : 0
        while (
          this.#inFlight.size >= MAX_IN_FLIGHT ||
          (this.#inFlight.size > 0 && this.#heldBytes + held > MAX_HELD_BYTES)
        ) {
          await Promise.race(this.#inFlight)
        }
        const data = new Uint8Array(payload)
        await reader.into(data)
        // Offsets beyond 2^53 are beyond the end of every disk, exact or not.
        this.#start({ flags, type, handle, offset: Number(offset), length }, data, held)
      }
    } finally {
      await Promise.all(this.#inFlight)
    }
  }

  #start(request: Request, data: Uint8Array, held: number): void {
    this.#heldBytes += held
    const done: Promise<void> = this.#answer(request, data)
      // The channel is gone: reading says so too.
      .catch(() => {})
      .finally(() => {
        this.#heldBytes -= held
        this.#inFlight.delete(done)
      })
    this.#inFlight.add(done)
  }

  async #answer(request: Request, data: Uint8Array): Promise<void> {
    const { writer } = this.#session
    let reply: readonly Uint8Array[]
    try {
      reply = await this.#execute(request, data)
    } catch (error) {
      const refused = error instanceof Refusal
      const message = error instanceof Error ? error.message : String(error)
      if (!refused) this.#log.warn(`NBD ${commandName(request.type)} failed: ${message}`, { error })
      reply = this.#failure(request, refused ? error.errno : errnoOf(error), message)
    }
    await writer.send(reply)
  }

  async #execute(request: Request, data: Uint8Array): Promise<readonly Uint8Array[]> {
    const { backend } = this.#session.exported
    const { type, offset, length } = request
    this.#check(request)
    switch (type) {
      case NbdCommand.READ:
        return this.#read(request)
      case NbdCommand.WRITE:
        if (length > 0) await backend.write(offset, data)
        break
      case NbdCommand.TRIM:
        if (length > 0) await backend.discard?.(offset, length)
        break
      case NbdCommand.WRITE_ZEROES:
        await this.#writeZeroes(request)
        break
      case NbdCommand.BLOCK_STATUS:
        return this.#blockStatus(request)
      case NbdCommand.FLUSH:
        await backend.flush()
    }
    if (request.flags & CommandFlag.FUA) await backend.flush()
    return this.#success(request)
  }

  /** @throws Refusal */
  #check({ type, flags, offset, length }: Request): void {
    const { exported, allocation } = this.#session
    const { backend, writable } = exported
    const allowed = ALLOWED_FLAGS[type]
    if (allowed === undefined || (type === NbdCommand.BLOCK_STATUS && !allocation))
      throw new Refusal(NbdErrno.EINVAL, `${commandName(type)} was not agreed on`)
    if (flags & ~allowed) throw new Refusal(NbdErrno.EINVAL, `flags 0x${flags.toString(16)} of ${commandName(type)}`)
    if (type === NbdCommand.FLUSH) return
    const changes = type !== NbdCommand.READ && type !== NbdCommand.BLOCK_STATUS
    if (changes && (!writable || backend.readOnly)) throw new Refusal(NbdErrno.EPERM, 'the export is read-only')
    if (offset + length > backend.capacityBytes) {
      const errno = type === NbdCommand.WRITE || type === NbdCommand.WRITE_ZEROES ? NbdErrno.ENOSPC : NbdErrno.EINVAL
      throw new Refusal(errno, `${length} bytes at ${offset} are beyond the end (${backend.capacityBytes} bytes)`)
    }
    if (offset % SECTOR_BYTES !== 0 || length % SECTOR_BYTES !== 0)
      throw new Refusal(NbdErrno.EINVAL, `${length} bytes at ${offset} are no whole sectors`)
    if (type === NbdCommand.READ && length > MAX_PAYLOAD_BYTES)
      throw new Refusal(NbdErrno.EINVAL, `a read of ${length} bytes; at most ${MAX_PAYLOAD_BYTES} go at once`)
    if (type === NbdCommand.BLOCK_STATUS && length === 0) throw new Refusal(NbdErrno.EINVAL, 'status of nothing')
  }

  async #read(request: Request): Promise<readonly Uint8Array[]> {
    const { exported, structured } = this.#session
    const { offset, length } = request
    const bytes = new Uint8Array(length)
    if (length > 0) await exported.backend.read(offset, bytes)
    if (!structured) return [simpleReply(request, 0), bytes]
    if (length === 0) return [chunk(request, Chunk.NONE, 0)]
    if (isZeroFilled(bytes)) {
      const hole = new Uint8Array(12)
      const view = new DataView(hole.buffer)
      view.setBigUint64(0, BigInt(offset))
      view.setUint32(8, length)
      return [chunk(request, Chunk.OFFSET_HOLE, 12), hole]
    }
    const at = new Uint8Array(8)
    new DataView(at.buffer).setBigUint64(0, BigInt(offset))
    return [chunk(request, Chunk.OFFSET_DATA, 8 + length), at, bytes]
  }

  async #writeZeroes({ flags, offset, length }: Request): Promise<void> {
    const { backend } = this.#session.exported
    if (length === 0) return
    if (backend.writeZeroes && !(flags & CommandFlag.NO_HOLE)) return backend.writeZeroes(offset, length)
    const zeros = new Uint8Array(Math.min(length, ZERO_BYTES))
    for (let done = 0; done < length; done += zeros.length) {
      await backend.write(offset + done, zeros.subarray(0, Math.min(zeros.length, length - done)))
    }
  }

  /** As many extents as there are, up to a bound; the client asks again for the rest. */
  async #blockStatus(request: Request): Promise<readonly Uint8Array[]> {
    const { backend } = this.#session.exported
    const { offset, length } = request
    const most = request.flags & CommandFlag.REQ_ONE ? 1 : MAX_EXTENTS
    const extents: { bytes: number; state: number }[] = []
    for (let done = 0; done < length; ) {
      const { bytes, kind } = await backend.runAt!(offset + done, length - done)
      const state = kind === 'zero' ? STATE_HOLE | STATE_ZERO : 0
      const last = extents.at(-1)
      if (last?.state === state) last.bytes += bytes
      else if (extents.length === most) break
      else extents.push({ bytes, state })
      done += bytes
    }
    const payload = new Uint8Array(4 + extents.length * 8)
    const view = new DataView(payload.buffer)
    view.setUint32(0, ALLOCATION_CONTEXT_ID)
    extents.forEach(({ bytes, state }, i) => {
      view.setUint32(4 + i * 8, bytes)
      view.setUint32(8 + i * 8, state)
    })
    return [chunk(request, Chunk.BLOCK_STATUS, payload.length), payload]
  }

  #success(request: Request): readonly Uint8Array[] {
    return [this.#session.structured ? chunk(request, Chunk.NONE, 0) : simpleReply(request, 0)]
  }

  #failure(request: Request, errno: number, message: string): readonly Uint8Array[] {
    if (!this.#session.structured) return [simpleReply(request, errno)]
    const text = encodeText(message).subarray(0, 1024)
    const payload = new Uint8Array(6 + text.length)
    const view = new DataView(payload.buffer)
    view.setUint32(0, errno)
    view.setUint16(4, text.length)
    payload.set(text, 6)
    return [chunk(request, Chunk.ERROR, payload.length), payload]
  }
}

function simpleReply({ handle }: Request, errno: number): Uint8Array {
  const header = new Uint8Array(16)
  const view = new DataView(header.buffer)
  view.setUint32(0, SIMPLE_REPLY_MAGIC)
  view.setUint32(4, errno)
  view.setBigUint64(8, handle)
  return header
}

/** The only one of its reply. */
function chunk({ handle }: Request, type: number, payloadBytes: number): Uint8Array {
  const header = new Uint8Array(20)
  const view = new DataView(header.buffer)
  view.setUint32(0, STRUCTURED_REPLY_MAGIC)
  view.setUint16(4, CHUNK_DONE)
  view.setUint16(6, type)
  view.setBigUint64(8, handle)
  view.setUint32(16, payloadBytes)
  return header
}

/** A full disk is said to be one, whatever stands above it. */
function errnoOf(error: unknown): number {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 8; cause = cause.cause, depth++) {
    if ((cause as { code?: unknown }).code === 'ENOSPC') return NbdErrno.ENOSPC
  }
  return NbdErrno.EIO
}
