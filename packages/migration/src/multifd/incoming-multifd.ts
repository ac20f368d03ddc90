import {
  type Channel,
  createQEMUFileReader,
  type Decompressor,
  type GuestMemory,
  nextTurn,
  PAGE_BYTES,
  type QEMUFileReader,
  type RamBlock,
} from '@ferryvm/core'
import { MultifdError } from '../errors.ts'
import { trace } from '../migration-trace.ts'
import type { RamLoadSession } from '../ram/page-decoding.ts'
import type { IsZeroPage } from '../ram/zero-page.ts'
import {
  FLAG_SYNC,
  HEADER_BYTES,
  INIT_BYTES,
  type MultifdCompression,
  type MultifdPacket,
  parseInit,
  parsePacket,
} from './multifd-packet.ts'

/** Pages that are taken from a channel's buffer at once. */
const PAGES_PER_READ = 16
/** Work at a stretch before the event loop gets a turn. */
const TURN_MS = 1

export interface IncomingMultifdOptions {
  readonly channels: number
  readonly uuid: Uint8Array | undefined
  readonly memory: GuestMemory
  readonly isZero: IsZeroPage
  readonly method: MultifdCompression
  readonly createDecompressor: (() => Decompressor) | undefined
  readonly stats: { zeroPages: number; normalPages: number }
  /** A channel broke: the main channel will wait in vain. */
  failed(error: Error): void
}

/** The further channels of one machine that arrives here. Spec: ram.md section 8. */
export class IncomingMultifd {
  readonly #options: IncomingMultifdOptions
  readonly #byName: ReadonlyMap<string, RamBlock>
  readonly #channels = new Map<number, { readonly channel: Channel; syncs: number; ended: boolean }>()
  /** How often the main stream has come to a point where all channels wait for it, and for it they have waited. */
  #wanted = 0
  #released = 0
  #sectionsFlush: boolean | undefined
  #sawFlush = false
  #error: Error | undefined
  readonly #waiting = new Set<() => void>()

  constructor(options: IncomingMultifdOptions) {
    this.#options = options
    this.#byName = new Map(options.memory.blocks.map((block) => [block.idstr, block]))
  }

  /** Connections that are here. */
  get count(): number {
    return this.#channels.size
  }

  get complete(): boolean {
    return this.#channels.size === this.#options.channels
  }

  /**
   * Takes a connection over, which has to introduce itself.
   * @throws MultifdError it is none of this migration's; it is left open
   */
  async add(channel: Channel, reader: QEMUFileReader): Promise<void> {
    await reader.fill(INIT_BYTES)
    const init = new Uint8Array(INIT_BYTES)
    reader.getBuffer(init)
    const id = parseInit(init, this.#options.uuid)
    const { channels } = this.#options
    if (id >= channels) {
      // Its pages would be missing, so nothing may arrive without it.
      const why = `there are to be ${channels} channels; both sides need the same multifd-channels`
      const error = new MultifdError(id, why, 0)
      this.#fail(error)
      throw error
    }
    if (this.#channels.has(id)) throw new MultifdError(id, 'there is a channel of that number already', 0)
    trace.multifd_recv_new_channel({ id })
    this.#channels.set(id, { channel, syncs: 0, ended: false })
    this.#receive(id, reader).catch((error: Error) => this.#fail(error))
  }

  /** Its part of the loading of `ram`. */
  get session(): RamLoadSession {
    return {
      flush: () => {
        this.#sawFlush = true
        return this.#sync()
      },
      sectionEnds: () => {
        // Releases up to 8.0 sync before the end of every section. The first section tells which kind the sender is.
        this.#sectionsFlush ??= !this.#sawFlush
        return this.#sectionsFlush ? this.#sync() : undefined
      },
    }
  }

  async close(reason?: Error): Promise<void> {
    trace.multifd_recv_terminate_threads({ error: reason !== undefined })
    this.#fail(reason ?? new MultifdError(0, 'the migration is over', 0), false)
    await Promise.all([...this.#channels.values()].map(({ channel }) => channel.close(reason).catch(() => {})))
  }

  #fail(error: Error, tell = true): void {
    if (this.#error) return
    this.#error = error
    this.#wake()
    if (tell) this.#options.failed(error)
  }

  #wake(): void {
    for (const wake of this.#waiting) wake()
  }

  async #until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      if (this.#error) throw this.#error
      await new Promise<void>((resolve) => {
        const wake = () => {
          this.#waiting.delete(wake)
          resolve()
        }
        this.#waiting.add(wake)
      })
    }
    if (this.#error) throw this.#error
  }

  /** The main stream waits for every channel, then lets them go on. */
  async #sync(): Promise<void> {
    const wanted = ++this.#wanted
    await this.#until(() => {
      for (const [id, state] of this.#channels) {
        if (state.syncs < wanted && state.ended) throw new MultifdError(id, 'it ended too early', 0)
      }
      return [...this.#channels.values()].every(({ syncs }) => syncs >= wanted)
    })
    trace.multifd_recv_sync_main({ packet_num: wanted })
    this.#released = wanted
    this.#wake()
  }

  async #receive(id: number, reader: QEMUFileReader): Promise<void> {
    const { method, createDecompressor } = this.#options
    const decompressor = createDecompressor?.()
    const header = new Uint8Array(HEADER_BYTES)
    const state = this.#channels.get(id)!
    try {
      for (;;) {
        await reader.fill(HEADER_BYTES)
        if (reader.available === 0) {
          state.ended = true
          this.#wake()
          return
        }
        const at = reader.position
        reader.getBuffer(header)
        const packet = parsePacket(header, id, method, at)
        const { flags, packetNum, dataBytes } = packet
        trace.multifd_recv_unfill({ id, packet_num: packetNum, flags, next_packet_size: dataBytes })
        await this.#pages(packet, id, reader, decompressor, at)
        if (!(packet.flags & FLAG_SYNC)) continue
        const mine = ++state.syncs
        this.#wake()
        await this.#until(() => this.#released >= mine)
      }
    } finally {
      decompressor?.close()
    }
  }

  async #pages(
    { blockName, normal, zero, dataBytes }: MultifdPacket,
    id: number,
    reader: QEMUFileReader,
    decompressor: Decompressor | undefined,
    at: number,
  ): Promise<void> {
    if (normal.length + zero.length === 0) return
    const { isZero, stats } = this.#options
    const block = this.#byName.get(blockName)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: names from the wire are shown without them
    const shown = blockName.replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?')
    if (!block) throw new MultifdError(id, `this machine has no RAM block "${shown}"`, at)
    for (const offset of [...normal, ...zero]) {
      if (offset % PAGE_BYTES !== 0 || offset > block.sizeBytes - PAGE_BYTES) {
        throw new MultifdError(id, `${shown} has no page at 0x${offset.toString(16)}`, at)
      }
    }
    const page = (offset: number) => block.bytes.subarray(offset, offset + PAGE_BYTES)
    if (decompressor && normal.length > 0) {
      await reader.fill(dataBytes)
      const packed = new Uint8Array(dataBytes)
      reader.getBuffer(packed)
      const pages = new Uint8Array(normal.length * PAGE_BYTES)
      await decompressor.decompress(packed, pages).catch((cause: Error) => {
        throw new MultifdError(id, cause.message, at, { cause })
      })
      normal.forEach((offset, i) => {
        page(offset).set(pages.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES))
      })
    } else {
      let turnBegan = performance.now()
      for (let i = 0; i < normal.length; ) {
        const some = Math.min(PAGES_PER_READ, normal.length - i)
        const pending = reader.fill(some * PAGE_BYTES)
        if (pending) {
          await pending
          turnBegan = performance.now()
        } else if (performance.now() - turnBegan > TURN_MS) {
          await nextTurn()
          turnBegan = performance.now()
        }
        for (const end = i + some; i < end; i++) reader.getBuffer(page(normal[i]!))
      }
    }
    for (const offset of zero) if (!isZero(block.offset + offset)) page(offset).fill(0)
    stats.normalPages += normal.length
    stats.zeroPages += zero.length
  }
}

/** First bytes of a connection: of which kind is it? */
export type Introduction = { readonly channel: Channel; readonly reader: QEMUFileReader; readonly first: number }

/**
 * Waits for the first word of a connection.
 * @throws MultifdError it did not come in time; or the channel's error
 */
export async function introduction(channel: Channel, timeoutMs: number): Promise<Introduction> {
  const reader = createQEMUFileReader(channel)
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new MultifdError(undefined, `it said nothing for ${timeoutMs} ms`, 0)), timeoutMs)
  })
  try {
    await Promise.race([reader.fill(4), late])
    if (reader.available < 4) throw new MultifdError(undefined, 'it ended before it had said what it is', 0)
    let first = 0
    for (let i = 0; i < 4; i++) first = first * 256 + reader.peekByte(i)
    return { channel, reader, first }
  } finally {
    clearTimeout(timer)
  }
}
