import { VerbsQueueFullError, VerbsStateError } from '../verbs/errors.ts'
import type {
  CompletionStatus,
  QueuePair,
  QueuePairInit,
  QueuePairState,
  ReceiveWork,
  SendWork,
  WorkCompletion,
} from '../verbs/verbs.ts'
import type { SoftwareCompletionQueue } from './completion-queue.ts'
import { type Frame, FrameKind, frame, Refusal } from './frame.ts'
import type { Link, LinkReceiver } from './link.ts'
import type { SoftwareProtectionDomain } from './memory-regions.ts'

export interface SoftwareQueuePairInit extends QueuePairInit {
  readonly domain: SoftwareProtectionDomain
  readonly sendCompletions: SoftwareCompletionQueue
  readonly receiveCompletions: SoftwareCompletionQueue
}

/** The device. */
export interface QueuePairOwner {
  /** The peer was refused, and the queue pair broke. */
  accessError(queuePair: SoftwareQueuePair): void
  destroyed(queuePair: SoftwareQueuePair): void
}

export interface RetryPolicy {
  readonly retryCount: number
  readonly receiverNotReadyRetryCount: number
  /** Without an acknowledgement for so long, what is outstanding is sent again. */
  readonly acknowledgeTimeoutMs: number
  /** Before a request is repeated whose receiver was not ready. */
  readonly receiverNotReadyMs: number
}

interface Outstanding {
  readonly work: SendWork
  readonly sequence: number
  readonly length: number
}

/** What becomes of the request that is arriving. */
type Arrival =
  | { readonly kind: 'drop' | 'again' }
  | { readonly kind: 'refuse'; readonly reason: number }
  | { readonly kind: 'take'; readonly receive?: ReceiveWork }
  | { readonly kind: 'fail'; readonly reason: number; readonly receive: ReceiveWork; readonly status: CompletionStatus }

const ENDLESS = 7
/** Where a queue pair can be asked to go. `rtr` and `rts` are the connection manager's. */
const NEXT: Readonly<Record<QueuePairState, readonly QueuePairState[]>> = {
  reset: ['init', 'error'],
  init: ['rtr', 'error'],
  rtr: ['rts', 'error'],
  rts: ['error'],
  error: ['error', 'reset'],
}

/** Both halves of a reliable connection: the requester with its repetitions, the responder with its checks. */
export class SoftwareQueuePair implements QueuePair, LinkReceiver {
  readonly number: number
  readonly #init: SoftwareQueuePairInit
  readonly #owner: QueuePairOwner
  #state: QueuePairState = 'reset'
  #link: Link | undefined
  #retry!: RetryPolicy
  #emptied: (() => void)[] = []

  // Requester.
  #outstanding: Outstanding[] = []
  /** How many of them were sent, and not to be repeated. */
  #sent = 0
  #nextSequence = 0
  #heldSends = 0
  /** Completed without being signalled: their places are free when a later one was polled. */
  #silent = 0
  #pumping = false
  #retriesLeft = 0
  #notReadyLeft = 0
  #timer: ReturnType<typeof setTimeout> | undefined
  #pausing = false
  /** Work whose keys were wrong; completes in its turn. */
  #unreadable: Outstanding | undefined

  // Responder.
  #receives: ReceiveWork[] = []
  #heldReceives = 0
  #expected = 0
  #arrival: Arrival = { kind: 'drop' }

  constructor(number: number, init: SoftwareQueuePairInit, owner: QueuePairOwner) {
    this.number = number
    this.#init = init
    this.#owner = owner
  }

  get state(): QueuePairState {
    return this.#state
  }

  modify(state: QueuePairState): void {
    if (!NEXT[this.#state].includes(state)) {
      throw new VerbsStateError(`queue pair ${this.number} cannot go from ${this.#state} to ${state}`)
    }
    if (state === 'error') this.#flush()
    this.#state = state
  }

  /** The connection manager has found the peer. */
  attach(link: Link, retry: RetryPolicy): void {
    this.#link = link
    this.#retry = retry
    this.#retriesLeft = retry.retryCount
    this.#notReadyLeft = retry.receiverNotReadyRetryCount
    this.modify('rtr')
    this.modify('rts')
  }

  postSend(work: SendWork): void {
    const { maxSendWork, domain } = this.#init
    if (this.#state !== 'rts' && this.#state !== 'error') {
      throw new VerbsStateError(`queue pair ${this.number} in state ${this.#state} does not send`)
    }
    if (work.opcode === 'write' && !work.remote) throw new VerbsStateError('a write needs the peer’s address and key')
    if (this.#heldSends >= maxSendWork) throw new VerbsQueueFullError('send', maxSendWork)
    this.#heldSends++
    const length = work.gather.reduce((sum, part) => sum + part.length, 0)
    const entry = { work, sequence: this.#nextSequence++, length }
    this.#outstanding.push(entry)
    if (this.#state === 'error') this.#flush()
    else {
      if (!this.#unreadable && !domain.local(work.gather, false)) this.#unreadable = entry
      this.#pump()
    }
  }

  postReceive(work: ReceiveWork): void {
    const { maxReceiveWork } = this.#init
    if (this.#state === 'reset') throw new VerbsStateError(`queue pair ${this.number} in state reset takes no receive`)
    if (this.#heldReceives >= maxReceiveWork) throw new VerbsQueueFullError('receive', maxReceiveWork)
    this.#heldReceives++
    this.#receives.push(work)
    if (this.#state === 'error') this.#flush()
  }

  uses(queue: SoftwareCompletionQueue): boolean {
    return this.#init.sendCompletions === queue || this.#init.receiveCompletions === queue
  }

  /** Requests of the peer that have arrived. */
  get arrivedCount(): number {
    return this.#expected
  }

  /** So many of ours have arrived at the peer. */
  arrivedThere(count: number): void {
    if (this.#state === 'rts') this.#acknowledged(count - 1)
  }

  /** Resolves when everything posted so far has completed, one way or another. */
  drained(): Promise<void> {
    if (this.#outstanding.length === 0) return Promise.resolve()
    return new Promise((resolve) => this.#emptied.push(resolve))
  }

  destroy(): void {
    if (this.#state !== 'error') this.modify('error')
    this.#link = undefined
    this.#owner.destroyed(this)
  }

  /** The link is gone: what is outstanding can be repeated without an answer. */
  lost(): void {
    this.#link = undefined
    if (this.#state === 'rts' && this.#outstanding.length > 0) this.#break('retry-exceeded')
    else if (this.#state !== 'error') this.modify('error')
  }

  // ---- requester

  #pump(): void {
    if (!this.#pumping) void this.#sendOutstanding()
  }

  async #sendOutstanding(): Promise<void> {
    this.#pumping = true
    await undefined // what is posted in one go is sent in one go
    while (this.#state === 'rts' && !this.#pausing && this.#sent < this.#outstanding.length) {
      const { work, sequence, length } = this.#outstanding[this.#sent]!
      const payload = this.#init.domain.local(work.gather, false)
      if (!payload || this.#unreadable === this.#outstanding[this.#sent]) {
        this.#unreadable = this.#outstanding[this.#sent]!
        this.#failUnreadable()
        break
      }
      const { opcode, immediate, remote } = work
      const kind = opcode === 'send' ? FrameKind.SEND : FrameKind.WRITE
      const { rkey: key = 0, address = 0n } = remote ?? {}
      this.#sent++
      const pending = this.#link?.send(frame(kind, { sequence, length, immediate, key, address }), payload)
      if (pending) await pending
      this.#watch()
    }
    this.#pumping = false
  }

  /** Acknowledged up to and including `sequence`. */
  #acknowledged(sequence: number): void {
    let progress = false
    while (this.#sent > 0 && this.#outstanding[0]!.sequence <= sequence) {
      const { work } = this.#outstanding.shift()!
      this.#sent--
      progress = true
      this.#completeSend(work, 'success')
    }
    if (!progress) return
    this.#retriesLeft = this.#retry.retryCount
    this.#notReadyLeft = this.#retry.receiverNotReadyRetryCount
    this.#watch()
    this.#failUnreadable()
    this.#tellIfEmpty()
  }

  #refused(sequence: number, reason: number): void {
    this.#acknowledged(sequence - 1)
    if (this.#state !== 'rts' || this.#sent === 0 || this.#outstanding[0]!.sequence !== sequence) return
    if (reason !== Refusal.RECEIVER_NOT_READY) {
      const status =
        reason === Refusal.REMOTE_ACCESS
          ? 'remote-access-error'
          : reason === Refusal.INVALID_REQUEST
            ? 'remote-invalid-request'
            : 'remote-operation-error'
      this.#break(status)
      return
    }
    if (this.#notReadyLeft === 0) {
      this.#break('receiver-not-ready-exceeded')
      return
    }
    if (this.#notReadyLeft !== ENDLESS) this.#notReadyLeft--
    this.#sent = 0
    this.#pausing = true
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#pausing = false
      this.#pump()
    }, this.#retry.receiverNotReadyMs)
  }

  /** Runs the clock while something waits for an acknowledgement. */
  #watch(): void {
    if (this.#pausing) return
    clearTimeout(this.#timer)
    if (this.#state !== 'rts' || this.#sent === 0) return
    this.#timer = setTimeout(() => {
      if (this.#retriesLeft-- === 0) this.#break('retry-exceeded')
      else {
        this.#sent = 0
        this.#pump()
      }
    }, this.#retry.acknowledgeTimeoutMs)
  }

  /** A wrong local key is found when the work's turn comes, after everything before it has completed. */
  #failUnreadable(): void {
    if (this.#unreadable && this.#outstanding[0] === this.#unreadable) this.#break('local-protection-error')
  }

  #completeSend(work: SendWork, status: CompletionStatus): void {
    if (status === 'success' && work.signaled === false) {
      this.#silent++
      return
    }
    const places = 1 + this.#silent
    this.#silent = 0
    this.#complete(this.#init.sendCompletions, { id: work.id, status, opcode: work.opcode, byteLength: 0 }, () => {
      this.#heldSends -= places
    })
  }

  /** The oldest request fails with `status`, everything else is flushed. */
  #break(status: CompletionStatus): void {
    const head = this.#outstanding.shift()
    this.#state = 'error'
    if (head) this.#completeSend(head.work, status)
    this.#flush()
  }

  #flush(): void {
    clearTimeout(this.#timer)
    this.#sent = 0
    this.#unreadable = undefined
    for (const { work } of this.#outstanding.splice(0)) this.#completeSend(work, 'work-request-flushed')
    for (const work of this.#receives.splice(0)) this.#completeReceive(work, 'work-request-flushed', 0)
    this.#tellIfEmpty()
  }

  #tellIfEmpty(): void {
    if (this.#outstanding.length === 0) for (const resolve of this.#emptied.splice(0)) resolve()
  }

  // ---- responder

  begin(arriving: Frame): readonly Uint8Array[] {
    this.#arrival = { kind: 'drop' }
    if (arriving.kind !== FrameKind.SEND && arriving.kind !== FrameKind.WRITE) return []
    // A queue pair that broke is silent; the peer finds out by its repetitions.
    if (this.#state !== 'rtr' && this.#state !== 'rts') return []
    const { sequence, length, immediate, key, address, kind } = arriving
    if (sequence !== this.#expected) {
      if (sequence < this.#expected) this.#arrival = { kind: 'again' }
      return []
    }
    const { domain } = this.#init
    const receive = kind === FrameKind.SEND || immediate !== undefined ? this.#receives[0] : undefined
    if (!receive && (kind === FrameKind.SEND || immediate !== undefined)) {
      this.#arrival = { kind: 'refuse', reason: Refusal.RECEIVER_NOT_READY }
      return []
    }
    if (kind === FrameKind.WRITE) {
      const target = domain.remote(key, address, length)
      this.#arrival = target ? { kind: 'take', receive } : { kind: 'refuse', reason: Refusal.REMOTE_ACCESS }
      return target ? [target] : []
    }
    const target = domain.local(receive!.scatter, true)
    const room = receive!.scatter.reduce((sum, part) => sum + part.length, 0)
    if (target && room >= length) {
      this.#arrival = { kind: 'take', receive }
      return target
    }
    this.#arrival = target
      ? { kind: 'fail', reason: Refusal.INVALID_REQUEST, receive: receive!, status: 'local-length-error' }
      : { kind: 'fail', reason: Refusal.OPERATION, receive: receive!, status: 'local-protection-error' }
    return []
  }

  end(arrived: Frame): void {
    if (arrived.kind === FrameKind.ACKNOWLEDGE) this.#acknowledged(arrived.sequence)
    else if (arrived.kind === FrameKind.REFUSE) this.#refused(arrived.sequence, arrived.key)
    else this.#answer(arrived)
  }

  #answer(arrived: Frame): void {
    const arrival = this.#arrival
    this.#arrival = { kind: 'drop' }
    if (this.#state !== 'rtr' && this.#state !== 'rts') return
    const refuse = (reason: number) =>
      this.#link?.send(frame(FrameKind.REFUSE, { sequence: arrived.sequence, key: reason }))
    switch (arrival.kind) {
      case 'drop':
        return
      case 'again':
        this.#link?.send(frame(FrameKind.ACKNOWLEDGE, { sequence: this.#expected - 1 }))
        return
      case 'refuse':
        refuse(arrival.reason)
        if (arrival.reason === Refusal.RECEIVER_NOT_READY) return
        this.modify('error')
        this.#owner.accessError(this)
        return
      case 'fail':
        refuse(arrival.reason)
        this.#receives.shift()
        this.#state = 'error'
        this.#completeReceive(arrival.receive, arrival.status, 0)
        this.#flush()
        return
      case 'take':
        this.#expected++
        if (arrival.receive) {
          this.#receives.shift()
          this.#completeReceive(arrival.receive, 'success', arrived.length, arrived)
        }
        this.#link?.send(frame(FrameKind.ACKNOWLEDGE, { sequence: arrived.sequence }))
    }
  }

  #completeReceive(work: ReceiveWork, status: CompletionStatus, byteLength: number, arrived?: Frame): void {
    const opcode = arrived?.kind === FrameKind.WRITE ? 'receive-write' : 'receive'
    const immediate = arrived?.immediate
    this.#complete(this.#init.receiveCompletions, { id: work.id, status, opcode, byteLength, immediate }, () => {
      this.#heldReceives--
    })
  }

  #complete(queue: SoftwareCompletionQueue, facts: Omit<WorkCompletion, 'queuePair'>, polled: () => void): void {
    queue.push({ ...facts, queuePair: this.number }, polled)
  }
}
