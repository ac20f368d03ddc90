import type { Channel, ChannelLayer, TransportContext } from '@ferryvm/core'
import { NbdRefusedError } from '../errors.ts'
import {
  ALLOCATION_CONTEXT,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  isErrorReply,
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

const MAX_REPLY_BYTES = 2 * MAX_STRING_BYTES
/** Of one option, and of exports in a list. */
const MAX_REPLIES = 1024
/** An export above that is one that we cannot count. */
const MAX_EXPORT_BYTES = 2n ** 53n

export interface ClientNegotiation {
  readonly channel: Channel
  readonly exportName: string
  readonly tls: ChannelLayer | undefined
  readonly context: TransportContext
}

export interface ClientSession {
  readonly channel: Channel
  readonly reader: WireReader
  readonly writer: WireWriter
  readonly sizeBytes: number
  /** See TransmissionFlag. */
  readonly flags: number
  readonly structured: boolean
  /** Id of the context base:allocation, if it was agreed on. */
  readonly allocationId: number | undefined
  /** Of one request with data. */
  readonly maxPayloadBytes: number
}

interface OptionReply {
  readonly type: number
  readonly data: Uint8Array
}

/**
 * Chooses an export of a server that speaks fixed newstyle.
 * @throws NbdRefusedError, NbdProtocolError, StreamTruncatedError, ChannelClosedError
 */
export async function negotiateAsClient(options: ClientNegotiation): Promise<ClientSession> {
  const { exportName } = options
  const link = await Link.open(options)
  const structured = (await link.ask(NbdOption.STRUCTURED_REPLY)).at(-1)!.type === NbdReply.ACK
  let allocationId: number | undefined
  if (structured) {
    const query = encodeText(ALLOCATION_CONTEXT)
    const replies = await link.ask(NbdOption.SET_META_CONTEXT, [...text(exportName), u32(1), u32(query.length), query])
    const found = replies.find(({ type, data }) => type === NbdReply.META_CONTEXT && data.length >= 4)
    if (found && replies.at(-1)!.type === NbdReply.ACK && decodeText(found.data.subarray(4)) === ALLOCATION_CONTEXT)
      allocationId = viewOf(found.data).getUint32(0)
  }
  const replies = await link.ask(NbdOption.GO, [...text(exportName), u16(1), u16(NbdInfo.BLOCK_SIZE)])
  const end = replies.at(-1)!
  if (end.type !== NbdReply.ACK) throw new NbdRefusedError(exportName, refusal(end))
  const infos = replies.filter(({ type, data }) => type === NbdReply.INFO && data.length >= 2)
  const info = (kind: number, bytes: number): DataView | undefined => {
    const found = infos.find(({ data }) => viewOf(data).getUint16(0) === kind)
    if (found && found.data.length !== bytes)
      throw link.reader.wrong('info', `${found.data.length} bytes, not ${bytes}`)
    return found && viewOf(found.data)
  }
  const exported = info(NbdInfo.EXPORT, 12)
  if (!exported) throw link.reader.wrong('info', 'the size of the export was not said')
  const size = exported.getBigUint64(2)
  if (size > MAX_EXPORT_BYTES) throw link.reader.wrong('export size', `${size} bytes`)
  const flags = exported.getUint16(10)
  if (!(flags & TransmissionFlag.HAS_FLAGS)) throw link.reader.wrong('transmission flags', `0x${flags.toString(16)}`)
  const sizes = info(NbdInfo.BLOCK_SIZE, 14)
  const minimum = sizes?.getUint32(2) ?? 1
  if (minimum > SECTOR_BYTES || SECTOR_BYTES % minimum !== 0)
    throw new NbdRefusedError(exportName, `its smallest request is ${minimum} bytes; disks here have sectors of 512`)
  const most = sizes?.getUint32(10) ?? MAX_PAYLOAD_BYTES
  const maxPayloadBytes = Math.min(most - (most % SECTOR_BYTES), MAX_PAYLOAD_BYTES)
  if (maxPayloadBytes < SECTOR_BYTES) throw link.reader.wrong('block size', `at most ${most} bytes`)
  const { channel, reader, writer } = link
  return { channel, reader, writer, sizeBytes: Number(size), flags, structured, allocationId, maxPayloadBytes }
}

/**
 * Names of the exports that a server has.
 * @throws NbdRefusedError it does not say @throws NbdProtocolError, StreamTruncatedError, ChannelClosedError
 */
export async function listAsClient(options: Omit<ClientNegotiation, 'exportName'>): Promise<string[]> {
  const link = await Link.open({ ...options, exportName: '' })
  const replies = await link.ask(NbdOption.LIST)
  const end = replies.at(-1)!
  if (end.type !== NbdReply.ACK) throw new NbdRefusedError('', refusal(end))
  await link.send(NbdOption.ABORT).catch(() => {})
  return replies.slice(0, -1).map(({ data }) => {
    const length = data.length >= 4 ? viewOf(data).getUint32(0) : MAX_STRING_BYTES + 1
    const name = length <= data.length - 4 ? decodeText(data.subarray(4, 4 + length)) : undefined
    if (name === undefined) throw link.reader.wrong('export name', `of ${length} bytes in ${data.length}`)
    return name
  })
}

class Link {
  readonly channel: Channel
  readonly reader: WireReader
  readonly writer: WireWriter

  private constructor(channel: Channel) {
    this.channel = channel
    this.reader = new WireReader(channel)
    this.writer = new WireWriter(channel)
  }

  static async open({ channel, tls, context, exportName }: ClientNegotiation): Promise<Link> {
    const link = new Link(channel)
    await link.reader.expect('magic', NBD_MAGIC)
    await link.reader.expect('option magic', OPTION_MAGIC)
    const flags = await link.reader.u16()
    if (!(flags & FLAG_FIXED_NEWSTYLE))
      throw link.reader.wrong('handshake flags', `0x${flags.toString(16)}: this is not fixed newstyle`, 2)
    // Zeros that nobody needs come only with an option that is not used here.
    await link.writer.message((f) => f.putBe32(FLAG_FIXED_NEWSTYLE | (flags & FLAG_NO_ZEROES)))
    if (!tls) return link
    const answer = (await link.ask(NbdOption.STARTTLS)).at(-1)!
    if (answer.type !== NbdReply.ACK) throw new NbdRefusedError(exportName, `no TLS: ${refusal(answer)}`)
    if (link.reader.available > 0) throw link.reader.wrong('STARTTLS', 'bytes came before the handshake')
    return new Link(await tls.wrap(channel, 'client', context))
  }

  send(option: number, data: readonly Uint8Array[] = []): Promise<void> {
    return this.writer.message((f) => {
      f.putBe64(OPTION_MAGIC)
      f.putBe32(option)
      f.putBe32(data.reduce((sum, part) => sum + part.length, 0))
      for (const part of data) f.putBuffer(part)
    })
  }

  /** @returns what came, up to an acknowledgement or an error, which is the last */
  async ask(option: number, data: readonly Uint8Array[] = []): Promise<readonly OptionReply[]> {
    await this.send(option, data)
    const replies: OptionReply[] = []
    while (replies.length < MAX_REPLIES) {
      await this.reader.expect('reply magic', OPTION_REPLY_MAGIC)
      const about = await this.reader.u32()
      if (about !== option) throw this.reader.wrong('option', `an answer to ${about}, where ${option} was asked`, 4)
      const type = await this.reader.u32()
      replies.push({ type, data: await this.reader.bytes('length', await this.reader.u32(), MAX_REPLY_BYTES) })
      if (type === NbdReply.ACK || isErrorReply(type)) return replies
    }
    throw this.reader.wrong('reply', `more than ${MAX_REPLIES} to one option`)
  }
}

const REASONS: Readonly<Record<number, string>> = {
  [NbdReply.ERR_UNSUP]: 'the server does not know what was asked',
  [NbdReply.ERR_POLICY]: 'the server does not allow it',
  [NbdReply.ERR_TLS_REQD]: 'the server wants TLS',
  [NbdReply.ERR_UNKNOWN]: 'the server has no such export',
  [NbdReply.ERR_SHUTDOWN]: 'the server is being stopped',
}
const refusal = ({ type, data }: OptionReply): string =>
  (REASONS[type] ?? `reply 0x${type.toString(16)}`) + (data.length > 0 ? ` (${shown(data).slice(0, 200)})` : '')

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
const u16 = (value: number): Uint8Array => Uint8Array.of(value >> 8, value & 0xff)
const u32 = (value: number): Uint8Array => Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value)
const text = (name: string): Uint8Array[] => {
  const bytes = encodeText(name)
  return [u32(bytes.length), bytes]
}
