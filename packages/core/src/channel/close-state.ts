import { ChannelClosedError } from '../errors/channel-error.ts'
import { FerryError } from '../errors/ferry-error.ts'

/** How a channel ended, for the calls that come later. */
export class CloseState {
  #closed = false
  #reason: Error | undefined

  get closed(): boolean {
    return this.#closed
  }

  /** @returns false when it was closed already */
  close(reason?: Error): boolean {
    if (this.#closed) return false
    this.#closed = true
    this.#reason = reason
    return true
  }

  error(): ChannelClosedError {
    const reason = this.#reason
    if (!reason) return new ChannelClosedError()
    return new ChannelClosedError(`the channel is closed: ${reason.message}`, { cause: reason })
  }

  throwIfClosed(): void {
    if (this.#closed) throw this.error()
  }
}

/** Failures of what lies below a channel arrive as ChannelClosedError, whatever they were. */
export function asChannelClosed(error: unknown): ChannelClosedError {
  if (FerryError.isInstance(error) && error.code === 'FERRY_CHANNEL_CLOSED') return error as ChannelClosedError
  const text = error instanceof Error ? error.message : String(error)
  return new ChannelClosedError(`the channel broke: ${text}`, { cause: error })
}
