import type { Channel } from './channel.ts'

/** A channel with the feature `seekable`: a file. Positions are absolute, in bytes. */
export interface SeekableChannel extends Channel {
  /** Where the stream's next byte is read or written. */
  readonly position: number
  /** The stream goes on there. No read or write may be under way. */
  seek(position: number): void
  /** Beside the stream, and beside other such calls. @returns bytes read; fewer than asked for only at the end */
  readAt(into: Uint8Array, position: number): Promise<number>
  /** Beside the stream, and beside other such calls. The buffers are borrowed until this settles. */
  writeAt(buffers: readonly Uint8Array[], position: number): Promise<void>
  /**
   * What tells the contents that were opened from others of the same name, as text; undefined: nothing does, beside the size.
   * Of a file that is read over a longer time.
   */
  readonly version?: string
  /** @throws when what is read by now is not what was opened: somebody has written to it */
  unchanged?(): Promise<void>
}

export const isSeekable = (channel: Channel): channel is SeekableChannel => channel.features.has('seekable')
