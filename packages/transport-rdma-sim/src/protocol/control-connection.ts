import { ChannelClosedError, nextTurn } from '@ferryvm/core'
import { RdmaCompletionError, RdmaPeerError, RdmaProtocolError } from '../errors.ts'
import type {
  CompletionQueue,
  Connection,
  DisconnectReason,
  MemoryRegion,
  ProtectionDomain,
  QueuePair,
  RdmaDevice,
  WorkCompletion,
} from '../verbs/verbs.ts'
import {
  CONTROL_HEADER_BYTES,
  type ControlHeader,
  ControlType,
  controlName,
  MAX_CONTROL_BYTES,
  readControlHeader,
  writeControlHeader,
} from './control-message.ts'
import { trace } from './rdma-trace.ts'

/** Signalled writes that may be outstanding. Spec: protocol.md section 11. */
export const MAX_OUTSTANDING_WRITES = 512
/** Room for control messages beside them. */
const CONTROL_SENDS = 8
/** One that is looked at, one for the answer to what we ask, one for ERROR, which needs no READY. */
const RECEIVE_BUFFERS = 3
const GOODBYE_MS = 2000
/** Kinds of work, bits 0 to 15 of a work request's id. */
const WorkId = { WRITE: 1n, SEND: 2000n, RECEIVE: 4000n }
const KIND_MASK = 0xffffn
const BLOCK_SHIFT = 16n
const CHUNK_SHIFT = 30n

/** A control message that arrived. Its data is valid until `release`. */
export interface ControlMessage extends ControlHeader {
  readonly data: Uint8Array
  release(): void
}

interface Waiter<T> {
  resolve(value: T): void
  reject(error: Error): void
}

interface RegisteredBuffer {
  readonly bytes: Uint8Array
  readonly region: MemoryRegion
}

/**
 * One queue pair and the control messages on it. One side sends and the other answers: a sender may send one message for
 * each READY that it got; answers need none. Spec: protocol.md section 11, "Credit rule".
 */
export class ControlConnection {
  readonly domain: ProtectionDomain
  readonly queuePair: QueuePair
  readonly #completions: CompletionQueue
  readonly #events: Disposable
  readonly #send: RegisteredBuffer
  readonly #receives: readonly RegisteredBuffer[]
  readonly #arrived: ControlMessage[] = []
  /** Receives that have not completed. */
  #posted = 0
  #receiver: Waiter<ControlMessage> | undefined
  /** Settled by their completions only, so that what has arrived is known to have arrived, whatever failed since. */
  readonly #sends: Waiter<void>[] = []
  #connection: Connection | undefined
  #ended: DisconnectReason | undefined
  #failure: Error | undefined
  /** The failure that the end of the connection is. */
  #goodbye: Error | undefined
  readonly #over = Promise.withResolvers<void>()
  /** Resolves when nothing more can come: the connection has ended, or failed. */
  readonly over: Promise<void> = this.#over.promise
  #closed = false
  /** Exchanges follow one another. */
  #last: Promise<unknown> = Promise.resolve()
  /** Gets `(block, chunk)` of every write that was completed. */
  onWritten: ((block: number, chunk: number) => void) | undefined
  onFailed: ((error: Error) => void) | undefined

  constructor(device: RdmaDevice) {
    this.domain = device.allocateProtectionDomain()
    this.#completions = device.createCompletionQueue(MAX_OUTSTANDING_WRITES * 3)
    this.queuePair = device.createQueuePair({
      domain: this.domain,
      sendCompletions: this.#completions,
      receiveCompletions: this.#completions,
      maxSendWork: MAX_OUTSTANDING_WRITES + CONTROL_SENDS,
      maxReceiveWork: RECEIVE_BUFFERS,
    })
    const buffer = (): RegisteredBuffer => {
      const bytes = new Uint8Array(MAX_CONTROL_BYTES)
      return { bytes, region: this.domain.registerMemory(bytes, { localWrite: true }) }
    }
    this.#send = buffer()
    this.#receives = Array.from({ length: RECEIVE_BUFFERS }, buffer)
    this.#events = device.onAsyncEvent(({ kind, queuePair }) => {
      if (this.queuePair.state !== 'error') return
      if (kind === 'queue-pair-access-error' && queuePair?.number === this.queuePair.number) {
        this.#fail(new RdmaProtocolError('write', 'the peer wrote to memory that is not registered for it'))
      }
      // Of an overrun some completions never come.
      if (kind === 'completion-queue-overrun') this.#fail(new RdmaCompletionError('work-request-flushed', kind))
      else this.#broke()
    })
    this.queuePair.modify('init')
    // Before there is a peer: its first message may be faster than we are.
    for (const slot of this.#receives.keys()) this.#postReceive(slot)
    void this.#poll()
  }

  /** From now on the connection's end ends us. */
  connected(connection: Connection): void {
    this.#connection = connection
    void connection.disconnected.then((reason) => {
      this.#ended = reason
      this.#goodbye = new ChannelClosedError(DISCONNECTED[reason])
      this.#failIfOver()
    })
  }

  get established(): boolean {
    return this.#connection !== undefined
  }

  get remoteAddress(): string | undefined {
    return this.#connection?.remoteAddress
  }

  get failure(): Error | undefined {
    return this.#failure
  }

  /** The peer said goodbye, and nothing was wrong before. */
  get endedInOrder(): boolean {
    return this.#ended === 'peer' && this.#failure === this.#goodbye
  }

  /**
   * Sends one message as soon as the peer is ready, with its data gathered from `data`.
   * @returns once the peer's device has it
   */
  send(type: ControlType, data: readonly Uint8Array[] = [], repeat = 1): Promise<void> {
    return this.#exclusive(async () => {
      await this.#credit()
      await this.#post({ type, repeat }, data)
    })
  }

  /** The same, for a message that the peer answers with one of type `answer`. */
  ask(type: ControlType, answer: ControlType, data: readonly Uint8Array[] = [], repeat = 1): Promise<ControlMessage> {
    return this.#exclusive(async () => {
      await this.#credit()
      await this.#post({ type, repeat }, data)
      const desc = controlName(answer)
      trace.qemu_rdma_exchange_send_waiting({ desc })
      const message = await this.#expect(answer)
      trace.qemu_rdma_exchange_send_received({ desc })
      return message
    })
  }

  /** An answer: it needs no READY. */
  answer(type: ControlType, data: readonly Uint8Array[] = [], repeat = 1): Promise<void> {
    return this.#exclusive(() => this.#post({ type, repeat }, data))
  }

  /** Lets the peer send its next message, and waits for it. */
  receive(): Promise<ControlMessage> {
    return this.#exclusive(async () => {
      this.#throwIfFailed()
      const early = this.#arrived[0]
      if (early) {
        throw this.fail(new RdmaProtocolError(controlName(early.type), 'it was sent without a READY', 4))
      }
      try {
        await this.#post({ type: ControlType.READY, repeat: 1 }, [])
      } catch (error) {
        // What the peer said to it may be here all the same.
        if (this.#arrived.length === 0) throw error
      }
      return this.#next()
    })
  }

  /**
   * RDMA write of registered memory. Not more than {@link MAX_OUTSTANDING_WRITES} at once.
   * @param block and `chunk` come back in `onWritten`
   */
  write(
    from: { readonly address: bigint; readonly length: number; readonly lkey: number },
    remote: { readonly address: bigint; readonly rkey: number },
    block: number,
    chunk: number,
  ): void {
    this.#throwIfFailed()
    const id = WorkId.WRITE | (BigInt(block) << BLOCK_SHIFT) | (BigInt(chunk) << CHUNK_SHIFT)
    this.queuePair.postSend({ id, opcode: 'write', gather: [from], remote })
  }

  /** What is under way, and everything later, fails with this. @returns the error that counts: the first */
  fail(error: Error): Error {
    this.#fail(error)
    return this.#failure!
  }

  /**
   * As {@link fail}, because something else broke: no message that arrives from now on is acknowledged, and one that was is
   * still read. It may be the peer's last word, on which it has begun to rely.
   */
  breakOff(error: Error): void {
    if (this.#failure) return
    if (this.queuePair.state !== 'error') this.queuePair.modify('error')
    for (const completion of this.#completions.poll()) this.#completed(completion)
    this.#fail(error)
  }

  /** Says goodbye after what was posted. With an error the peer gets ERROR first, where it can still hear. */
  async close(error?: Error): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#fail(error ?? new ChannelClosedError())
    if (error && this.queuePair.state === 'rts' && !(this.#failure instanceof RdmaPeerError)) {
      // Not the buffer of other messages: one of those may be under way.
      const bytes = new Uint8Array(CONTROL_HEADER_BYTES)
      writeControlHeader(bytes, { type: ControlType.ERROR, length: 0, repeat: 1 })
      const { address, length, lkey } = this.domain.registerMemory(bytes, {})
      try {
        this.queuePair.postSend({ id: WorkId.SEND, opcode: 'send', gather: [{ address, length, lkey }] })
      } catch {
        // A full queue: the goodbye has to do.
      }
    }
    trace.qemu_rdma_close({})
    const connection = this.#connection
    if (connection) {
      trace.qemu_rdma_cleanup_disconnect({})
      // What is outstanding to a peer that does not answer is not waited for.
      const timer = setTimeout(() => this.queuePair.modify('error'), GOODBYE_MS)
      await connection.disconnect()
      clearTimeout(timer)
    }
    for (const { reject } of this.#sends.splice(0)) reject(this.#failure!)
    this.#events[Symbol.dispose]()
    this.queuePair.destroy()
    this.#completions.destroy()
    this.domain.deallocate()
  }

  #exclusive<T>(run: () => Promise<T>): Promise<T> {
    const result = this.#last.then(run, run)
    this.#last = result.catch(() => {})
    return result
  }

  async #credit(): Promise<void> {
    const message = await this.#expect(ControlType.READY)
    message.release()
  }

  async #expect(type: ControlType): Promise<ControlMessage> {
    trace.qemu_rdma_exchange_get_response_start({ desc: controlName(type) })
    const message = await this.#next()
    if (message.type === type) return message
    const problem = `it arrived where ${controlName(type)} was due`
    throw this.fail(new RdmaProtocolError(controlName(message.type), problem, 4))
  }

  #next(): Promise<ControlMessage> {
    const first = this.#arrived.shift()
    if (first) return Promise.resolve(first)
    if (this.#failure) return Promise.reject(this.#failure)
    return new Promise((resolve, reject) => {
      this.#receiver = { resolve, reject }
    })
  }

  async #post(header: Omit<ControlHeader, 'length'>, data: readonly Uint8Array[]): Promise<void> {
    this.#throwIfFailed()
    const { bytes, region } = this.#send
    let at = CONTROL_HEADER_BYTES
    for (const part of data) {
      bytes.set(part, at)
      at += part.length
    }
    writeControlHeader(bytes, { ...header, length: at - CONTROL_HEADER_BYTES })
    const { address, lkey } = region
    trace.qemu_rdma_post_send_control({ desc: controlName(header.type) })
    try {
      this.queuePair.postSend({ id: WorkId.SEND, opcode: 'send', gather: [{ address, lkey, length: at }] })
    } catch (error) {
      // The peer waits for it: nothing that follows would make sense.
      throw this.fail(error as Error)
    }
    await new Promise<void>((resolve, reject) => {
      this.#sends.push({ resolve, reject })
    })
  }

  #postReceive(slot: number): void {
    const { address, length, lkey } = this.#receives[slot]!.region
    this.#posted++
    this.queuePair.postReceive({ id: WorkId.RECEIVE + BigInt(slot), scatter: [{ address, length, lkey }] })
  }

  async #poll(): Promise<void> {
    while (!this.#closed) {
      await this.#completions.wait()
      for (const completion of this.#completions.poll()) this.#completed(completion)
      this.#failIfOver()
    }
  }

  #completed(completion: WorkCompletion): void {
    const { id, status } = completion
    const kind = id & KIND_MASK
    if (kind >= WorkId.RECEIVE) this.#posted--
    if (status === 'success') {
      this.#tell(kind, id)
      if (kind === WorkId.WRITE) this.onWritten?.(Number((id >> BLOCK_SHIFT) & 0x3fffn), Number(id >> CHUNK_SHIFT))
      else if (kind === WorkId.SEND) this.#sends.shift()?.resolve()
      else this.#message(Number(kind - WorkId.RECEIVE), completion)
      return
    }
    const error = new RdmaCompletionError(status, kind === WorkId.WRITE ? 'a write to the peer’s memory' : MESSAGE)
    if (kind === WorkId.SEND) this.#sends.shift()?.reject(this.#failure ?? this.#goodbye ?? error)
    if (status === 'work-request-flushed') this.#broke()
    else this.#fail(error)
  }

  #tell(kind: bigint, id: bigint): void {
    const left = this.#sends.length
    if (kind >= WorkId.RECEIVE) trace.qemu_rdma_poll_recv({ comp: kind, id, sent: left })
    else if (kind !== WorkId.WRITE) trace.qemu_rdma_poll_other({ comp: kind, left })
    else if (trace.qemu_rdma_poll_write.enabled) {
      const [block, chunk] = [(id >> BLOCK_SHIFT) & 0x3fffn, id >> CHUNK_SHIFT]
      trace.qemu_rdma_poll_write({ comp: kind, left, block, chunk, local: 0, remote: 0 })
    }
  }

  /** Something else has failed and says why, in this turn. If nothing does, the queue pair broke by itself. */
  #broke(): void {
    void nextTurn().then(() => {
      if (!this.#ended) this.#fail(new RdmaCompletionError('work-request-flushed', 'the connection'))
    })
  }

  /**
   * The end of the connection may be known before everything that arrived on it was looked at, or what was sent is known to
   * have arrived: that is so once all receives have completed, the last of them flushed.
   */
  #failIfOver(): void {
    if (this.#goodbye && this.#posted === 0) this.#fail(this.#goodbye)
  }

  #message(slot: number, { byteLength, opcode }: WorkCompletion): void {
    try {
      if (opcode !== 'receive') throw new RdmaProtocolError('write', 'no write of this protocol has an immediate')
      const bytes = this.#receives[slot]!.bytes.subarray(0, byteLength)
      const header = readControlHeader(bytes)
      if (header.type === ControlType.ERROR) throw new RdmaPeerError()
      const data = bytes.subarray(CONTROL_HEADER_BYTES)
      let held = true
      const release = () => {
        if (held && this.queuePair.state !== 'error' && !this.#closed) this.#postReceive(slot)
        held = false
      }
      const message = { ...header, data, release }
      const receiver = this.#receiver
      this.#receiver = undefined
      if (receiver) receiver.resolve(message)
      else this.#arrived.push(message)
    } catch (error) {
      this.#fail(error as Error)
    }
  }

  #throwIfFailed(): void {
    if (this.#failure) throw this.#failure
  }

  #fail(error: Error): void {
    if (this.#failure) return
    this.#failure = error
    this.#over.resolve()
    this.#receiver?.reject(error)
    this.#receiver = undefined
    this.onFailed?.(error)
  }
}

const MESSAGE = 'a control message'
const DISCONNECTED: Readonly<Record<DisconnectReason, string>> = {
  peer: 'the peer closed the connection',
  local: 'the connection was closed',
  lost: 'the connection was lost',
  device: 'the RDMA device was removed',
}
