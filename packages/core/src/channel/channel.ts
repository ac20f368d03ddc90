import type { RamHooks } from './ram-hooks.ts'

/** `multi-channel` is a transport's: it can be connected to again and again by the same address. */
export type ChannelFeature = 'shutdown' | 'fd-pass' | 'seekable' | 'zero-copy' | 'multi-channel'

/**
 * A bidirectional byte stream: four verbs, because four is what every host can give us. A value instead of a promise
 * where the answer is already known: a promise per chunk costs 12x in process with page-sized chunks.
 */
export interface Channel {
  readonly features: ReadonlySet<ChannelFeature>
  /**
   * IP address of the other end, where that may be another host: who receives a guest decides by it who may come unencrypted.
   * Absent: the channel does not leave this host, or something between vouches for the other end (TLS).
   */
  readonly remoteAddress?: string
  /** Fill the start of `into`. Returns 1..into.length, or 0 at end of stream. One read at a time. */
  read(into: Uint8Array): number | Promise<number>
  /** Gather write, in order. The buffers are borrowed until this returns or its promise settles: that is the back-pressure. */
  write(buffers: readonly Uint8Array[]): void | Promise<void>
  /** Half-close: after shutdown('write') the peer reads 0 while the return path still flows the other way. */
  shutdown(how: 'read' | 'write' | 'both'): Promise<void>
  /** With a reason: pending and later calls reject with ChannelClosedError whose cause is the reason. Idempotent. */
  close(reason?: Error): Promise<void>
  /**
   * Where a write settles before its bytes are where they should be: after the last write, before it is relied upon (the
   * guest is given up here, or taken over). Resolves when what was accepted has arrived, as far as this side can know;
   * rejects when it has not.
   */
  finish?(): Promise<void>
  /**
   * For a layer that can work faster on what is below than on four verbs: gives that away, with Node a `Duplex` from which nothing has been
   * taken, and can only be closed from then on. undefined: not any more. A layer that wraps the channel does not pass it on.
   */
  detach?(): unknown
  /** Where guest memory can move beside the stream. A layer that wraps the channel does not pass it on. */
  readonly ramHooks?: RamHooks
}
