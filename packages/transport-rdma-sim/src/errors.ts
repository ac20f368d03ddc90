import { FerryError } from '@ferryvm/core'
import type { CompletionStatus } from './verbs/verbs.ts'

/** The text after `rdma:` is not an address. Nothing was opened. */
export class RdmaAddressError extends FerryError {
  readonly code = 'FERRY_RDMA_ADDRESS'
  readonly text: string
  constructor(text: string, problem: string) {
    super(`"rdma:${text}": ${problem}`)
    this.text = text
  }
}

/** A capability is on that does not go with memory that moves beside the stream. Nothing was opened. */
export class RdmaCapabilityError extends FerryError {
  readonly code = 'FERRY_RDMA_CAPABILITY'
  readonly capability: string
  constructor(capability: string) {
    super(`rdma: does not go with the capability ${capability}; switch it off, or use another transport`)
    this.capability = capability
  }
}

/** A message of the peer is not what the protocol has there. The connection is of no use any more. */
export class RdmaProtocolError extends FerryError {
  readonly code = 'FERRY_RDMA_PROTOCOL'
  /** What it was about: `REGISTER_REQUEST[3].address`, with the bytes counted in `offset`. */
  readonly field: string
  /** Within the control message, bytes; -1: the message as a whole. */
  readonly offset: number
  constructor(field: string, problem: string, offset = -1) {
    super(`${field}: ${problem}${offset < 0 ? '' : ` (byte ${offset} of the message)`}`)
    this.field = field
    this.offset = offset
  }
}

/** The peer sent ERROR: it gave up, or was told to. Its own message says why. */
export class RdmaPeerError extends FerryError {
  readonly code = 'FERRY_RDMA_PEER'
  constructor() {
    super('the peer reported an error and gave up; it has the reason')
  }
}

/** The device could not do what was asked, or the connection is gone. */
export class RdmaCompletionError extends FerryError {
  readonly code = 'FERRY_RDMA_COMPLETION'
  readonly status: CompletionStatus
  constructor(status: CompletionStatus, what: string) {
    super(`${what}: ${EXPLAINED[status]}`)
    this.status = status
  }
}

const EXPLAINED: Readonly<Record<CompletionStatus, string>> = {
  success: 'it was done',
  'local-length-error': 'the peer sent a longer message than was asked for (local-length-error)',
  'local-protection-error': 'a key of this side does not cover the memory (local-protection-error)',
  'work-request-flushed': 'the queue pair broke before it was its turn (work-request-flushed)',
  'remote-invalid-request': 'the peer cannot take a message of that length (remote-invalid-request)',
  'remote-access-error': 'the peer does not allow that memory to be written (remote-access-error)',
  'remote-operation-error': 'the peer could not carry it out (remote-operation-error)',
  'retry-exceeded': 'the peer does not answer any more (retry-exceeded)',
  'receiver-not-ready-exceeded': 'the peer had no receive posted (receiver-not-ready-exceeded)',
}
