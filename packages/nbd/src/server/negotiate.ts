import type { Channel, ChannelLayer, TransportContext } from '@ferryvm/core'
import {
  ALLOCATION_CONTEXT,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  MAX_PAYLOAD_BYTES,
  MAX_STRING_BYTES,
  NBD_MAGIC,
  NbdInfo,
  NbdOption,
  NbdReply,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  SECTOR_BYTES,
  TransmissionFlag,
} from '../protocol.ts'
import { decodeText, encodeText, shown, WireReader, WireWriter } from '../wire.ts'
import type { NbdExport } from './nbd-export.ts'

/** Of one option: a name, and a few requests. */
const MAX_OPTION_BYTES = 16 * 1024
/** A client that goes on asking is none. */
const MAX_OPTIONS = 1024
/** What is best for us to be asked for at once. */
const PREFERRED_BYTES = 64 * 1024
export const ALLOCATION_CONTEXT_ID = 1

export interface ServerNegotiation {
  readonly channel: Channel
  readonly exports: () => readonly NbdExport[]
  /** Without it STARTTLS is refused; with it everything else is, before. */
  readonly tls: ChannelLayer | undefined
  readonly context: TransportContext
}

/** What was agreed on. */
export interface ServerSession {
  readonly channel: Channel
  readonly reader: WireReader
  readonly writer: WireWriter
  readonly exported: NbdExport
  readonly structured: boolean
  /** The client may ask for block status. */
  readonly allocation: boolean
}

export function transmissionFlags({ backend, writable }: NbdExport, structured: boolean): number {
  const F = TransmissionFlag
  const always = F.HAS_FLAGS | F.SEND_FLUSH | F.CAN_MULTI_CONN | (structured ? F.SEND_DF : 0)
  if (!writable || backend.readOnly) return always | F.READ_ONLY
  return always | F.SEND_FUA | F.SEND_TRIM | F.SEND_WRITE_ZEROES
}

/**
 * Fixed newstyle negotiation, until the client has chosen an export.
 * @returns undefined: it went away in order @throws NbdProtocolError, StreamTruncatedError, ChannelClosedError
 */
export async function negotiateAsServer(options: ServerNegotiation): Promise<ServerSession | undefined> {
  return new Negotiation(options).run()
}

class Negotiation {
  readonly #options: ServerNegotiation
  #channel: Channel
  #reader: WireReader
  #writer: WireWriter
  #secure = false
  #noZeroes = false
  #structured = false
  /** The export for which block status was agreed on. */
  #allocationOf: string | undefined

  constructor(options: ServerNegotiation) {
    this.#options = options
    this.#channel = options.channel
    this.#reader = new WireReader(options.channel)
    this.#writer = new WireWriter(options.channel)
  }

  async run(): Promise<ServerSession | undefined> {
    await this.#writer.message((f) => {
      f.putBe64(NBD_MAGIC)
      f.putBe64(OPTION_MAGIC)
      f.putBe16(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)
    })
    if (await this.#reader.atEnd()) return undefined
    const flags = await this.#reader.u32()
    if (flags & ~(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) || !(flags & FLAG_FIXED_NEWSTYLE))
      throw this.#reader.wrong('client flags', `0x${flags.toString(16)}: this is not fixed newstyle`, 4)
    this.#noZeroes = (flags & FLAG_NO_ZEROES) !== 0
    for (let count = 0; count < MAX_OPTIONS; count++) {
      if (await this.#reader.atEnd()) return undefined
      await this.#reader.expect('option magic', OPTION_MAGIC)
      const option = await this.#reader.u32()
      const data = await this.#reader.bytes('option length', await this.#reader.u32(), MAX_OPTION_BYTES)
      const chosen = await this.#option(option, data)
      if (chosen === 'end') return undefined
      if (chosen) {
        return {
          channel: this.#channel,
          reader: this.#reader,
          writer: this.#writer,
          exported: chosen,
          structured: this.#structured,
          allocation: this.#allocationOf === chosen.name,
        }
      }
    }
    throw this.#reader.wrong('option', `more than ${MAX_OPTIONS}`)
  }

  async #option(option: number, data: Uint8Array): Promise<NbdExport | 'end' | undefined> {
    const tlsFirst = this.#options.tls !== undefined && !this.#secure
    if (option === NbdOption.ABORT) {
      // It may be gone before it hears that.
      await this.#reply(option, NbdReply.ACK).catch(() => {})
      return 'end'
    }
    if (option === NbdOption.EXPORT_NAME) {
      if (tlsFirst) throw this.#reader.wrong('option', 'an export is asked for before STARTTLS')
      return this.#exportName(data)
    }
    if (tlsFirst && option !== NbdOption.STARTTLS) {
      await this.#refuse(option, NbdReply.ERR_TLS_REQD, 'begin with STARTTLS')
      return undefined
    }
    switch (option) {
      case NbdOption.STARTTLS:
        await this.#startTls(option, data)
        return undefined
      case NbdOption.LIST:
        await this.#list(option, data)
        return undefined
      case NbdOption.INFO:
      case NbdOption.GO: {
        const found = await this.#info(option, data)
        return option === NbdOption.GO ? found : undefined
      }
      case NbdOption.STRUCTURED_REPLY:
        if (data.length > 0) await this.#refuse(option, NbdReply.ERR_INVALID, 'it has no data')
        else {
          this.#structured = true
          await this.#reply(option, NbdReply.ACK)
        }
        return undefined
      case NbdOption.LIST_META_CONTEXT:
      case NbdOption.SET_META_CONTEXT:
        await this.#metaContext(option, data)
        return undefined
      default:
        await this.#refuse(option, NbdReply.ERR_UNSUP, `option ${option} is not known here`)
        return undefined
    }
  }

  async #exportName(data: Uint8Array): Promise<NbdExport> {
    const found = this.#find(decodeText(data))
    // There is no way to say no.
    if (!found) throw this.#reader.wrong('export name', `there is no export "${shown(data)}"`, data.length)
    await this.#writer.message((f) => {
      f.putBe64(BigInt(found.backend.capacityBytes))
      f.putBe16(transmissionFlags(found, this.#structured))
      if (!this.#noZeroes) f.putBuffer(new Uint8Array(124))
    })
    return found
  }

  async #startTls(option: number, data: Uint8Array): Promise<void> {
    const { tls, context } = this.#options
    if (!tls) return this.#refuse(option, NbdReply.ERR_POLICY, 'TLS is not configured here')
    if (this.#secure || data.length > 0) return this.#refuse(option, NbdReply.ERR_INVALID, 'not now')
    // What came before the handshake could be anybody's.
    if (this.#reader.available > 0) throw this.#reader.wrong('STARTTLS', 'bytes came before its answer')
    await this.#reply(option, NbdReply.ACK)
    this.#channel = await tls.wrap(this.#channel, 'server', context)
    this.#secure = true
    this.#structured = false
    this.#allocationOf = undefined
    this.#reader = new WireReader(this.#channel)
    this.#writer = new WireWriter(this.#channel)
  }

  async #list(option: number, data: Uint8Array): Promise<void> {
    if (data.length > 0) return this.#refuse(option, NbdReply.ERR_INVALID, 'it has no data')
    for (const { name, description = '' } of this.#options.exports()) {
      const bytes = encodeText(name)
      await this.#reply(option, NbdReply.SERVER, [u32(bytes.length), bytes, encodeText(description)])
    }
    await this.#reply(option, NbdReply.ACK)
  }

  async #info(option: number, data: Uint8Array): Promise<NbdExport | undefined> {
    const view = new DataView(data.buffer)
    const nameBytes = data.length >= 6 ? view.getUint32(0) : MAX_STRING_BYTES + 1
    const end = 4 + nameBytes
    if (nameBytes > MAX_STRING_BYTES || data.length < end + 2 || data.length !== end + 2 + 2 * view.getUint16(end)) {
      await this.#refuse(option, NbdReply.ERR_INVALID, 'its lengths contradict each other')
      return undefined
    }
    const name = data.subarray(4, end)
    const found = this.#find(decodeText(name))
    if (!found) {
      await this.#refuse(option, NbdReply.ERR_UNKNOWN, `there is no export "${shown(name)}"`)
      return undefined
    }
    const wanted = new Set(Array.from({ length: view.getUint16(end) }, (_, i) => view.getUint16(end + 2 + 2 * i)))
    const { backend, description } = found
    if (wanted.has(NbdInfo.NAME)) await this.#reply(option, NbdReply.INFO, [u16(NbdInfo.NAME), encodeText(found.name)])
    if (wanted.has(NbdInfo.DESCRIPTION) && description) {
      await this.#reply(option, NbdReply.INFO, [u16(NbdInfo.DESCRIPTION), encodeText(description)])
    }
    await this.#reply(option, NbdReply.INFO, [
      u16(NbdInfo.BLOCK_SIZE),
      ...[SECTOR_BYTES, PREFERRED_BYTES, MAX_PAYLOAD_BYTES].map(u32),
    ])
    const flags = transmissionFlags(found, this.#structured)
    await this.#reply(option, NbdReply.INFO, [u16(NbdInfo.EXPORT), u64(backend.capacityBytes), u16(flags)])
    await this.#reply(option, NbdReply.ACK)
    return found
  }

  async #metaContext(option: number, data: Uint8Array): Promise<void> {
    const queries = this.#structured ? readMetaContext(data) : undefined
    if (!queries) return this.#refuse(option, NbdReply.ERR_INVALID, 'structured replies first, and lengths that fit')
    const found = this.#find(queries.name)
    if (!found) return this.#refuse(option, NbdReply.ERR_UNKNOWN, 'there is no such export')
    const set = option === NbdOption.SET_META_CONTEXT
    const asked = queries.names.some((name) => name === ALLOCATION_CONTEXT || (!set && name === 'base:'))
    const wanted = found.backend.runAt !== undefined && (asked || (!set && queries.names.length === 0))
    if (set) this.#allocationOf = wanted ? found.name : undefined
    if (wanted) {
      await this.#reply(option, NbdReply.META_CONTEXT, [
        u32(set ? ALLOCATION_CONTEXT_ID : 0),
        encodeText(ALLOCATION_CONTEXT),
      ])
    }
    await this.#reply(option, NbdReply.ACK)
  }

  /** An empty name is the only export, if there is one. */
  #find(name: string | undefined): NbdExport | undefined {
    const exports = this.#options.exports()
    const exact = exports.find((e) => e.name === name)
    return exact ?? (name === '' && exports.length === 1 ? exports[0] : undefined)
  }

  #refuse(option: number, type: number, why: string): Promise<void> {
    return this.#reply(option, type, [encodeText(why)])
  }

  #reply(option: number, type: number, data: readonly Uint8Array[] = []): Promise<void> {
    return this.#writer.message((f) => {
      f.putBe64(OPTION_REPLY_MAGIC)
      f.putBe32(option)
      f.putBe32(type)
      f.putBe32(data.reduce((sum, part) => sum + part.length, 0))
      for (const part of data) f.putBuffer(part)
    })
  }
}

/** @returns undefined: its lengths contradict each other */
function readMetaContext(data: Uint8Array): { name: string | undefined; names: (string | undefined)[] } | undefined {
  const view = new DataView(data.buffer)
  let at = 0
  const number = (): number => (at + 4 <= data.length ? view.getUint32((at += 4) - 4) : Number.NaN)
  const text = (): string | undefined => {
    const length = number()
    const bytes = data.subarray(at, at + length)
    at += length
    return decodeText(bytes)
  }
  const name = text()
  const count = number()
  const names: (string | undefined)[] = []
  // Each has a length of four bytes at least, so that this ends.
  while (names.length < count && at <= data.length) names.push(text())
  return at === data.length && names.length === count ? { name, names } : undefined
}

const u16 = (value: number): Uint8Array => Uint8Array.of(value >> 8, value & 0xff)
const u32 = (value: number): Uint8Array => Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value)
function u64(value: number): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value))
  return bytes
}
