import type { RdmaAddress } from '../verbs/verbs.ts'
import type { Frame } from './frame.ts'

/** The cable between two software devices: frames, both ways, in order. */
export interface Link {
  /** To be set before the turn in which the link was obtained ends. */
  receiver: LinkReceiver | undefined
  /** IP address of the other end; absent: it is of this process. */
  readonly remoteAddress?: string
  /** When anything came in last; of `performance.now()`, ms. */
  readonly heardAt: number
  /** The payload is borrowed until this returns or settles. Never fails: a link that broke tells its receiver. */
  send(frame: Frame, payload?: readonly Uint8Array[]): void | Promise<void>
  /** Once everything sent has gone out. The receiver hears nothing any more. */
  close(): void
  /** At once. */
  destroy(): void
}

export interface LinkReceiver {
  /** Says where the payload is to go. What does not fit there is dropped, so an empty list drops it all. */
  begin(frame: Frame): readonly Uint8Array[]
  /** All of it has arrived. */
  end(frame: Frame): void
  /** No frame comes any more, and nobody said goodbye. */
  lost(cause: Error | undefined): void
}

/** How devices find each other and what the links between them are: the two back ends. */
export interface Fabric {
  readonly name: string
  /** @throws RdmaConnectError */
  dial(address: RdmaAddress, signal: AbortSignal): Promise<Link>
  /** @throws RdmaListenError */
  listen(
    address: RdmaAddress,
    arrived: (link: Link) => void,
    signal: AbortSignal,
  ): Promise<{ readonly address: RdmaAddress; close(): Promise<void> }>
}

/** Copies as much of a payload as its receiver has room for, over any number of calls. */
export class PayloadSink {
  readonly #into: readonly Uint8Array[]
  #index = 0
  #at = 0

  constructor(into: readonly Uint8Array[]) {
    this.#into = into
  }

  put(bytes: Uint8Array): void {
    let from = bytes
    while (from.length > 0 && this.#index < this.#into.length) {
      const into = this.#into[this.#index]!
      const part = from.subarray(0, into.length - this.#at)
      into.set(part, this.#at)
      this.#at += part.length
      if (this.#at === into.length) {
        this.#index++
        this.#at = 0
      }
      from = from.subarray(part.length)
    }
  }
}
