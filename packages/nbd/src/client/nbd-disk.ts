import {
  type BlockBackend,
  type Channel,
  ChannelClosedError,
  type ChannelLayer,
  type DiskRun,
  type Logger,
  silentLogger,
} from '@ferryvm/core'
import { NbdRequestError } from '../errors.ts'
import {
  CommandFlag,
  commandName,
  NbdCommand,
  REQUEST_BYTES,
  REQUEST_MAGIC,
  SECTOR_BYTES,
  STATE_ZERO,
  TransmissionFlag,
} from '../protocol.ts'
import { type ClientSession, listAsClient, negotiateAsClient } from './negotiate.ts'
import { type PendingReply, receiveReplies } from './replies.ts'

/** Of a command without data: its length has 32 bits. */
const MAX_RANGE_BYTES = 2 ** 32 - SECTOR_BYTES
const ZERO_BYTES = 1 << 20

export interface NbdDiskOptions {
  /** Default: the empty name, which is the server's only or chosen one. */
  readonly exportName?: string
  /** STARTTLS comes first; a server without it is refused. */
  readonly tls?: ChannelLayer
  /** Ends negotiating. */
  readonly signal?: AbortSignal
  readonly log?: Logger
}

/**
 * A disk that an NBD server has. When the connection is lost all requests fail, and so do all that follow: what was
 * written and not flushed may or may not be there.
 */
export class NbdDisk implements BlockBackend {
  readonly capacityBytes: number
  readonly readOnly: boolean
  readonly runAt: ((offset: number, bytes: number) => Promise<DiskRun>) | undefined
  readonly #session: ClientSession
  readonly #pending = new Map<bigint, PendingReply>()
  #nextHandle = 1n
  #failure: Error | undefined
  readonly #received: Promise<void>

  private constructor(session: ClientSession) {
    this.#session = session
    this.capacityBytes = session.sizeBytes - (session.sizeBytes % SECTOR_BYTES)
    this.readOnly = (session.flags & TransmissionFlag.READ_ONLY) !== 0
    const { allocationId } = session
    if (allocationId !== undefined) this.runAt = (offset, bytes) => this.#runAt(allocationId, offset, bytes)
    this.#received = receiveReplies(session, this.#pending).then(
      () => this.#fail(new ChannelClosedError('the NBD server hung up')),
      (error: Error) => this.#fail(error),
    )
  }

  /**
   * @param channel is the disk's from now on, also when this fails
   * @throws NbdRefusedError, NbdProtocolError, StreamTruncatedError, ChannelClosedError
   */
  static async open(
    channel: Channel,
    { exportName = '', tls, signal, log = silentLogger }: NbdDiskOptions = {},
  ): Promise<NbdDisk> {
    return negotiating(
      channel,
      signal,
      async (context) =>
        new NbdDisk(await negotiateAsClient({ channel, exportName, tls, context: { ...context, log } })),
    )
  }

  /** Why requests fail; undefined: they do not. */
  get failure(): Error | undefined {
    return this.#failure
  }

  /** Requests that wait for their answer. */
  get inFlight(): number {
    return this.#pending.size
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#inParts(offset, into.length, this.#session.maxPayloadBytes, (at, done, bytes) =>
      this.#request(NbdCommand.READ, at, bytes, { into: into.subarray(done, done + bytes) }),
    )
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    await this.#inParts(offset, from.length, this.#session.maxPayloadBytes, (at, done, bytes) =>
      this.#request(NbdCommand.WRITE, at, bytes, { data: from.subarray(done, done + bytes) }),
    )
  }

  async flush(): Promise<void> {
    if (this.#session.flags & TransmissionFlag.SEND_FLUSH) await this.#request(NbdCommand.FLUSH, 0, 0)
  }

  async discard(offset: number, bytes: number): Promise<void> {
    if (!(this.#session.flags & TransmissionFlag.SEND_TRIM)) return
    await this.#inParts(offset, bytes, MAX_RANGE_BYTES, (at, _, length) => this.#request(NbdCommand.TRIM, at, length))
  }

  async writeZeroes(offset: number, bytes: number): Promise<void> {
    if (this.#session.flags & TransmissionFlag.SEND_WRITE_ZEROES) {
      await this.#inParts(offset, bytes, MAX_RANGE_BYTES, (at, _, length) =>
        this.#request(NbdCommand.WRITE_ZEROES, at, length),
      )
      return
    }
    const zeros = new Uint8Array(Math.min(bytes, ZERO_BYTES))
    for (let done = 0; done < bytes; done += zeros.length)
      await this.write(offset + done, zeros.subarray(0, Math.min(zeros.length, bytes - done)))
  }

  /** Shuts the connection at once: whatever waits for the server fails. */
  yank(reason: Error): void {
    this.#fail(reason)
  }

  /** Says goodbye. What was not flushed is left to the server. */
  async close(): Promise<void> {
    if (!this.#failure) {
      await this.#session.writer.send([this.#header(NbdCommand.DISC, 0, 0n, 0, 0)]).catch(() => {})
      this.#fail(new ChannelClosedError('the NBD disk was closed'))
    }
    await this.#received
  }

  async #runAt(contextId: number, offset: number, bytes: number): Promise<DiskRun> {
    let first: { bytes: number; state: number } | undefined
    const length = Math.min(bytes, MAX_RANGE_BYTES)
    const extent = (found: { bytes: number; state: number }) => {
      first ??= found
    }
    await this.#request(NbdCommand.BLOCK_STATUS, offset, length, { extent, contextId, flags: CommandFlag.REQ_ONE })
    const { bytes: there, state } = first ?? { bytes: length, state: 0 }
    // A server may count beyond what was asked, and in smaller units than ours.
    const whole = Math.min(there, length)
    const aligned = whole - (whole % SECTOR_BYTES)
    return aligned === 0
      ? { bytes: SECTOR_BYTES, kind: 'data' }
      : { bytes: aligned, kind: state & STATE_ZERO ? 'zero' : 'data' }
  }

  async #inParts(
    offset: number,
    bytes: number,
    most: number,
    run: (at: number, done: number, bytes: number) => Promise<void>,
  ): Promise<void> {
    for (let done = 0; done < bytes; done += most) await run(offset + done, done, Math.min(most, bytes - done))
  }

  async #request(
    type: number,
    offset: number,
    length: number,
    {
      data,
      flags = 0,
      ...wanted
    }: Partial<Pick<PendingReply, 'into' | 'extent' | 'contextId'>> & { data?: Uint8Array; flags?: number } = {},
  ): Promise<void> {
    if (this.#failure) throw this.#failure
    const handle = this.#nextHandle++
    const answered = Promise.withResolvers<void>()
    answered.promise.catch(() => {})
    this.#pending.set(handle, { ...wanted, type, offset, length, resolve: answered.resolve, reject: answered.reject })
    const header = this.#header(type, flags, handle, offset, length)
    // Until the bytes are with the channel they are borrowed, so a lost connection is waited for here as well.
    await this.#session.writer.send(data ? [header, data] : [header]).catch((error: Error) => this.#fail(error))
    await answered.promise.catch((error: unknown) => {
      if (error instanceof NbdRequestError)
        throw new NbdRequestError(`NBD ${commandName(type)} at ${offset}: ${error.message}`, error.errno)
      throw error
    })
  }

  #header(type: number, flags: number, handle: bigint, offset: number, length: number): Uint8Array {
    const header = new Uint8Array(REQUEST_BYTES)
    const view = new DataView(header.buffer)
    view.setUint32(0, REQUEST_MAGIC)
    view.setUint16(4, flags)
    view.setUint16(6, type)
    view.setBigUint64(8, handle)
    view.setBigUint64(16, BigInt(offset))
    view.setUint32(24, length)
    return header
  }

  #fail(reason: Error): void {
    if (this.#failure) return
    this.#failure = reason
    for (const { reject } of this.#pending.values()) reject(reason)
    this.#pending.clear()
    void this.#session.channel.close(reason instanceof ChannelClosedError ? undefined : reason).catch(() => {})
  }
}

/** Names of the exports that a server has. @throws as {@link NbdDisk.open} */
export async function nbdExportNames(
  channel: Channel,
  { tls, signal, log = silentLogger }: Omit<NbdDiskOptions, 'exportName'> = {},
): Promise<string[]> {
  const names = await negotiating(channel, signal, (context) =>
    listAsClient({ channel, tls, context: { ...context, log } }),
  )
  await channel.close().catch(() => {})
  return names
}

async function negotiating<T>(
  channel: Channel,
  signal: AbortSignal | undefined,
  run: (context: { signal: AbortSignal }) => Promise<T>,
): Promise<T> {
  const never = new AbortController().signal
  const abort = () => void channel.close(signal!.reason).catch(() => {})
  signal?.addEventListener('abort', abort)
  try {
    signal?.throwIfAborted()
    return await run({ signal: signal ?? never })
  } catch (error) {
    await channel.close(error instanceof Error ? error : undefined).catch(() => {})
    throw signal?.aborted ? signal.reason : error
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}
