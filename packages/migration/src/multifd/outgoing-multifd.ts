import {
  type Channel,
  type Compression,
  type Compressor,
  PAGE_BYTES,
  type RamBlock,
  type Transport,
  type TransportContext,
} from '@ferryvm/core'
import { MultifdError } from '../errors.ts'
import { trace } from '../migration-trace.ts'
import type { PageEncoder, RamRecordWriter, RamSaveSession } from '../ram/page-encoding.ts'
import { RAM_MULTIFD_FLUSH } from '../ram/ram-records.ts'
import type { IsZeroPage } from '../ram/zero-page.ts'
import {
  COMPRESSION_FLAG,
  FLAG_SYNC,
  initMessage,
  type MultifdCompression,
  PAGES_PER_PACKET,
  packetHeader,
} from './multifd-packet.ts'

export interface OutgoingMultifdOptions {
  readonly channels: number
  readonly uuid: Uint8Array | undefined
  /** Zero pages are listed in packets; undefined: none is looked for. */
  readonly isZero: IsZeroPage | undefined
  /** As releases up to 8.0 have it; otherwise after each pass over memory. */
  readonly flushAfterEachSection: boolean
  readonly method: MultifdCompression
  readonly compression: { readonly format: Compression; readonly level: number } | undefined
}

/** Pages travel in packets over further channels of the same transport. Spec: ram.md section 8. */
export class OutgoingMultifd implements PageEncoder {
  readonly #options: OutgoingMultifdOptions
  readonly #channels: SendChannel[] = []
  #session: RamSaveSession | undefined
  #block: RamBlock | undefined
  #normal: number[] = []
  #zero: number[] = []
  #packets = 0
  #turn = 0
  #failure: { readonly error: unknown } | undefined

  constructor(options: OutgoingMultifdOptions) {
    this.#options = options
  }

  /** Accepted by the channels so far. */
  get bytesBeside(): number {
    return this.#channels.reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** After the main channel, which the peer wants to see first. */
  async open(transport: Transport<any>, address: unknown, context: TransportContext): Promise<void> {
    const { channels, uuid, compression } = this.#options
    for (let id = 0; id < channels; id++) {
      const channel = await transport.connect(address, context)
      trace.multifd_new_send_channel_async({ id })
      const sender = new SendChannel(id, channel, compression?.format.createCompressor(compression.level))
      sender.watch((why) => this.#failed(id, new MultifdError(id, why, sender.bytes)))
      this.#channels.push(sender)
      await sender.write([initMessage(uuid, id)])
    }
  }

  /** After the last byte; with a reason: because it failed. */
  async close(reason?: Error): Promise<void> {
    trace.multifd_send_terminate_threads({})
    await Promise.all(this.#channels.map((channel) => channel.close(reason)))
  }

  begin(session: RamSaveSession): void {
    this.#session = session
  }

  encode(block: RamBlock, offset: number): boolean | Promise<boolean> {
    if (this.#block !== block && this.#normal.length + this.#zero.length > 0) {
      return this.#dispatch().then(() => this.encode(block, offset))
    }
    this.#block = block
    const { stats } = this.#session!
    if (this.#options.isZero?.(block.offset + offset)) {
      this.#zero.push(offset)
      stats.zeroPages++
    } else {
      this.#normal.push(offset)
      stats.normalPages++
    }
    if (this.#normal.length + this.#zero.length < PAGES_PER_PACKET) return true
    return this.#dispatch().then(() => true)
  }

  async wrapped(out: RamRecordWriter): Promise<void> {
    if (this.#options.flushAfterEachSection) return
    await this.#sync()
    out.marker(RAM_MULTIFD_FLUSH)
    // The channels take nothing more until the peer has seen the marker; left in a buffer, it would wait behind their packets.
    await out.f.flush()
  }

  async sectionEnds(section: 'start' | 'part' | 'end', out: RamRecordWriter): Promise<void> {
    if (this.#options.flushAfterEachSection) await this.#sync()
    else if (section === 'part') await this.#dispatch()
    else await this.wrapped(out)
  }

  cleanup(): void {
    this.#normal = []
    this.#zero = []
    this.#block = undefined
  }

  /** What was collected goes to a channel that is free. */
  async #dispatch(): Promise<void> {
    this.#throwIfFailed()
    const pages = { normal: this.#normal, zero: this.#zero }
    if (pages.normal.length + pages.zero.length === 0) return
    const block = this.#block!
    this.#normal = []
    this.#zero = []
    const packetNum = this.#packets++
    const sender = await this.#free()
    sender.start(this.#send(sender, block, pages, packetNum), (error) => this.#failed(sender.id, error))
  }

  async #free(): Promise<SendChannel> {
    for (;;) {
      for (let i = 0; i < this.#channels.length; i++) {
        const sender = this.#channels[(this.#turn + i) % this.#channels.length]!
        if (sender.busy) continue
        this.#turn = (this.#turn + i + 1) % this.#channels.length
        return sender
      }
      await Promise.race(this.#channels.map(({ busy }) => busy))
      this.#throwIfFailed()
    }
  }

  async #send(
    sender: SendChannel,
    block: RamBlock,
    { normal, zero }: { normal: readonly number[]; zero: readonly number[] },
    packetNum: number,
  ): Promise<void> {
    const flags = COMPRESSION_FLAG[this.#options.method]
    trace.multifd_send_ram_fill({ id: sender.id, normal: normal.length, zero: zero.length })
    const header = (dataBytes: number) => {
      trace.multifd_send_fill({ id: sender.id, packet_num: packetNum, flags, next_packet_size: dataBytes })
      return packetHeader(flags, packetNum, { blockName: block.idstr, dataBytes, normal, zero })
    }
    if (normal.length === 0) await sender.write([header(0)])
    else if (!sender.compressor) {
      await sender.write([header(normal.length * PAGE_BYTES), ...runs(block, normal)])
    } else {
      // A copy: a compressor must not see its input change, and the guest writes on.
      const copy = new Uint8Array(normal.length * PAGE_BYTES)
      normal.forEach((offset, i) => {
        copy.set(block.bytes.subarray(offset, offset + PAGE_BYTES), i * PAGE_BYTES)
      })
      const data = await sender.compressor.compress(copy)
      await sender.write([header(data.length), data])
    }
  }

  /** The peer will have applied everything that was sent before it goes on in the main stream. */
  async #sync(): Promise<void> {
    await this.#dispatch()
    for (const { id } of this.#channels) trace.multifd_send_sync_main_signal({ id })
    await Promise.all(this.#channels.map(({ busy }) => busy))
    this.#throwIfFailed()
    for (const { id } of this.#channels) trace.multifd_send_sync_main_wait({ id })
    await Promise.all(this.#channels.map((sender) => sender.write([packetHeader(FLAG_SYNC, this.#packets++)])))
    this.#throwIfFailed()
    trace.multifd_send_sync_main({ packet_num: this.#packets })
  }

  #failed(id: number, error: unknown): void {
    trace.multifd_send_error({ id })
    this.#failure ??= { error }
  }

  #throwIfFailed(): void {
    if (this.#failure) throw this.#failure.error
  }
}

/** Neighbouring pages as one buffer. */
function runs(block: RamBlock, offsets: readonly number[]): Uint8Array[] {
  const buffers: Uint8Array[] = []
  for (let i = 0; i < offsets.length; ) {
    const begin = offsets[i]!
    let end = begin + PAGE_BYTES
    for (i++; offsets[i] === end; i++) end += PAGE_BYTES
    buffers.push(block.bytes.subarray(begin, end))
  }
  return buffers
}

class SendChannel {
  readonly id: number
  readonly compressor: Compressor | undefined
  bytes = 0
  /** Settles, without an error, when the packet under way has left. */
  busy: Promise<void> | undefined
  readonly #channel: Channel

  constructor(id: number, channel: Channel, compressor: Compressor | undefined) {
    this.id = id
    this.#channel = channel
    this.compressor = compressor
  }

  /** The peer never answers here; an end of its side means that it does not take part any more. */
  watch(failed: (why: string) => void): void {
    const look = async () => this.#channel.read(new Uint8Array(1))
    look().then(
      (count) => failed(count === 0 ? 'the destination closed it' : 'the destination answers, which is not expected'),
      (error: Error) => failed(error.message),
    )
  }

  start(work: Promise<void>, failed: (error: unknown) => void): void {
    this.busy = work.catch(failed).then(() => (this.busy = undefined))
  }

  async write(buffers: readonly Uint8Array[]): Promise<void> {
    await this.#channel.write(buffers)
    for (const buffer of buffers) this.bytes += buffer.length
  }

  async close(reason?: Error): Promise<void> {
    this.compressor?.close()
    if (!reason) await this.#channel.shutdown('write').catch(() => {})
    await this.#channel.close(reason).catch(() => {})
  }
}
