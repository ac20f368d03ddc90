/**
 * What RDMA hardware offers, as far as a migration needs it: the words and the rules of the verbs interface, without its
 * C types. Back ends: `software/`; how rdma-core would be one: docs/rdma-verbs.md.
 */

/** `rdma:host:port`. */
export interface RdmaAddress {
  /** Name or number without brackets; empty: this host alone (only for listening). */
  readonly host: string
  /** 0: the back end picks one (only for listening). */
  readonly port: number
}

export interface DeviceLimits {
  /** Work requests that a queue may be asked to hold. */
  readonly maxQueuePairWork: number
  /** Entries that a completion queue may be asked to hold. */
  readonly maxCompletions: number
  readonly maxScatterGather: number
  readonly maxMemoryRegions: number
}

export interface RdmaDevice {
  readonly name: string
  readonly limits: DeviceLimits
  readonly connections: ConnectionManager
  /**
   * The address by which work requests, and the peer, name the first byte. It says nothing about access: that takes a
   * {@link MemoryRegion}. The same bytes always have the same address.
   */
  addressOf(bytes: Uint8Array): bigint
  allocateProtectionDomain(): ProtectionDomain
  /** @param depth entries; one more than are polled in time is an overrun, which breaks the queue pairs that use it */
  createCompletionQueue(depth: number): CompletionQueue
  /** In state `reset`. @throws VerbsResourceError deeper than the device allows */
  createQueuePair(init: QueuePairInit): QueuePair
  onAsyncEvent(listener: (event: AsyncEvent) => void): Disposable
  /** Breaks what is left. */
  close(): void
}

/** `device-fatal`: it was removed, and every queue pair is in state `error`. */
export interface AsyncEvent {
  readonly kind: 'device-fatal' | 'queue-pair-access-error' | 'completion-queue-overrun'
  readonly queuePair?: QueuePair
}

/** Keys of one domain mean nothing in another. */
export interface ProtectionDomain {
  /** @throws VerbsResourceError the device has no room for another, or the host refused to pin the memory */
  registerMemory(bytes: Uint8Array, access: MemoryAccess): MemoryRegion
  /** With the regions that are left. Its queue pairs are gone by then. */
  deallocate(): void
}

/** Reading by this side is always allowed. Nothing here needs reads by the peer, so there is no flag for it. */
export interface MemoryAccess {
  /** Receives may land there. */
  readonly localWrite?: boolean
  /** The peer may write there with the `rkey`; asks for `localWrite` as well. */
  readonly remoteWrite?: boolean
}

export interface MemoryRegion {
  readonly address: bigint
  readonly length: number
  readonly lkey: number
  readonly rkey: number
  readonly access: MemoryAccess
  /** The keys are dead afterwards. Twice is once. */
  deregister(): void
}

export interface QueuePairInit {
  readonly domain: ProtectionDomain
  readonly sendCompletions: CompletionQueue
  readonly receiveCompletions: CompletionQueue
  readonly maxSendWork: number
  readonly maxReceiveWork: number
}

/**
 * `reset` takes nothing. `init` takes receives. `rtr` also answers the peer. `rts` also sends. `error` flushes: what was
 * posted, and what is posted from then on, completes as `work-request-flushed`.
 */
export type QueuePairState = 'reset' | 'init' | 'rtr' | 'rts' | 'error'

/** A reliable connection. Requests complete in the order in which they were posted, per queue. */
export interface QueuePair {
  readonly number: number
  readonly state: QueuePairState
  /**
   * The connection manager brings it to `rtr` and `rts`; callers ask for `init` and `error`.
   * @throws VerbsStateError not from here to there
   */
  modify(state: QueuePairState): void
  /** @throws VerbsStateError not in `rts` (or `error`) @throws VerbsQueueFullError */
  postSend(work: SendWork): void
  /** @throws VerbsStateError in `reset` @throws VerbsQueueFullError */
  postReceive(work: ReceiveWork): void
  destroy(): void
}

export interface ScatterGather {
  readonly address: bigint
  readonly length: number
  readonly lkey: number
}

export interface SendWork {
  /** Comes back in the completion; unsigned 64 bits. */
  readonly id: bigint
  /** With `immediate`: 32 bits for the peer, which cost it a posted receive, also for a write. */
  readonly opcode: 'send' | 'write'
  readonly gather: readonly ScatterGather[]
  readonly immediate?: number
  /** Where a write goes. */
  readonly remote?: { readonly address: bigint; readonly rkey: number }
  /**
   * False: no completion unless it fails. Its place in the queue is free only once a later, signalled one was polled.
   * Default true.
   */
  readonly signaled?: boolean
}

export interface ReceiveWork {
  readonly id: bigint
  readonly scatter: readonly ScatterGather[]
}

export type CompletionStatus =
  | 'success'
  /** A message longer than the receive that took it. */
  | 'local-length-error'
  /** A key of this side that does not cover what was asked. */
  | 'local-protection-error'
  | 'work-request-flushed'
  | 'remote-invalid-request'
  /** The peer has no such key, or it does not cover the range, or does not allow writing. */
  | 'remote-access-error'
  | 'remote-operation-error'
  /** The peer did not acknowledge, however often it was repeated. */
  | 'retry-exceeded'
  /** The peer had no receive posted, however often it was asked. */
  | 'receiver-not-ready-exceeded'

export interface WorkCompletion {
  readonly id: bigint
  readonly status: CompletionStatus
  readonly opcode: 'send' | 'write' | 'receive' | 'receive-write'
  /** Of receives: what arrived, or what the peer wrote. */
  readonly byteLength: number
  readonly immediate?: number
  readonly queuePair: number
}

export interface CompletionQueue {
  readonly depth: number
  /** Takes up to `max` entries, oldest first. */
  poll(max?: number): WorkCompletion[]
  /** Resolves when there is something to poll, or the queue was destroyed. */
  wait(): Promise<void>
  destroy(): void
}

export interface ConnectOptions {
  readonly queuePair: QueuePair
  /** At most 56 bytes on the way there, 196 on the way back; the peer may see zeros behind them. */
  readonly privateData: Uint8Array
  /** Repetitions without an acknowledgement. 0 to 7. */
  readonly retryCount: number
  /** Repetitions when the peer has no receive posted; 7 is without end. */
  readonly receiverNotReadyRetryCount: number
}

/** Finds the peer and brings both queue pairs to `rts`. */
export interface ConnectionManager {
  /** @throws RdmaConnectError nobody there, refused, too late, or given up */
  connect(
    address: RdmaAddress,
    options: ConnectOptions & { readonly timeoutMs: number; readonly signal: AbortSignal },
  ): Promise<Connection>
  /** @throws RdmaListenError */
  listen(address: RdmaAddress, options: { readonly signal: AbortSignal }): Promise<ConnectionListener>
}

export interface ConnectionListener {
  /** With the real port. */
  readonly address: RdmaAddress
  /** Waits for a request; undefined once the listener was closed. */
  next(): Promise<ConnectionRequest | undefined>
  close(): Promise<void>
}

/** Someone wants to connect. Not answered in time it ends by itself. */
export interface ConnectionRequest {
  readonly privateData: Uint8Array
  /** @throws RdmaConnectError the other side is gone */
  accept(options: ConnectOptions): Promise<Connection>
  reject(privateData?: Uint8Array): void
}

/**
 * Why a connection ended. `peer`: in order, after everything the peer had sent. `local`: by us. Otherwise without a word:
 * `lost` for lack of a sign of life, `device` for the removal of ours.
 */
export type DisconnectReason = 'peer' | 'local' | 'lost' | 'device'

export interface Connection {
  /** What the peer sent along. */
  readonly privateData: Uint8Array
  /** IP address of the peer; absent: it is of this process. */
  readonly remoteAddress?: string
  /** Settles when it ends; both queue pairs are in `error` by then. */
  readonly disconnected: Promise<DisconnectReason>
  /** After what was posted has completed; the peer is told. */
  disconnect(): Promise<void>
}
