import { FerryError } from '@ferryvm/core'
import type { RdmaAddress } from './verbs.ts'

const addressText = ({ host, port }: RdmaAddress): string => `rdma:${host.includes(':') ? `[${host}]` : host}:${port}`

/** A verb was called on a queue pair whose state does not take it. Nothing was posted. */
export class VerbsStateError extends FerryError {
  readonly code = 'FERRY_RDMA_VERBS_STATE'
}

/** A queue has as much outstanding work as it was made for. Poll completions, then post again. */
export class VerbsQueueFullError extends FerryError {
  readonly code = 'FERRY_RDMA_QUEUE_FULL'
  /** Work requests. */
  readonly depth: number
  constructor(queue: 'send' | 'receive', depth: number) {
    super(`the ${queue} queue holds its ${depth} work requests`)
    this.depth = depth
  }
}

/** The device, or the host below it, has no room for what was asked: memory regions, queues, pinned memory. */
export class VerbsResourceError extends FerryError {
  readonly code = 'FERRY_RDMA_RESOURCES'
}

/** Nobody answers at that address, the peer refused, or the attempt was given up. */
export class RdmaConnectError extends FerryError {
  readonly code = 'FERRY_RDMA_CONNECT'
  constructor(address: RdmaAddress | undefined, problem: string, options?: ErrorOptions) {
    super(
      `${address ? `cannot connect to ${addressText(address)}` : 'the connection was not made'}: ${problem}`,
      options,
    )
  }
}

/** The address cannot be listened on. */
export class RdmaListenError extends FerryError {
  readonly code = 'FERRY_RDMA_LISTEN'
  constructor(address: RdmaAddress, problem: string, options?: ErrorOptions) {
    super(`cannot listen on ${addressText(address)}: ${problem}`, options)
  }
}
