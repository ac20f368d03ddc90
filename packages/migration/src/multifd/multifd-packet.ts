import { PAGE_BYTES } from '@ferryvm/core'
import { MultifdError } from '../errors.ts'

/** Spec: ram.md section 8. */
export const MULTIFD_MAGIC = 0x11223344
const VERSION = 1
export const INIT_BYTES = 64
export const PAGES_PER_PACKET = (512 * 1024) / PAGE_BYTES
const NAME_AT = 64
const NAME_BYTES = 256
const OFFSETS_AT = 320
export const HEADER_BYTES = OFFSETS_AT + 8 * PAGES_PER_PACKET
/** Compressed pages can be larger than they were, but not by that much. */
const MAX_DATA_BYTES = 2 * PAGES_PER_PACKET * PAGE_BYTES

export const FLAG_SYNC = 0x01
const COMPRESSION_MASK = 0x3e
export const COMPRESSION_FLAG = { none: 0x00, zlib: 0x02, zstd: 0x04 } as const
export type MultifdCompression = keyof typeof COMPRESSION_FLAG

const text = new TextEncoder()

export function initMessage(uuid: Uint8Array | undefined, id: number): Uint8Array {
  const bytes = new Uint8Array(INIT_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, MULTIFD_MAGIC)
  view.setUint32(4, VERSION)
  if (uuid) bytes.set(uuid, 8)
  bytes[24] = id
  return bytes
}

/** @returns the channel's id @throws MultifdError it is no channel of this machine's migration */
export function parseInit(bytes: Uint8Array, uuid: Uint8Array | undefined): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, INIT_BYTES)
  const id = bytes[24]!
  const fail = (problem: string): never => {
    throw new MultifdError(id, problem, 0)
  }
  if (view.getUint32(0) !== MULTIFD_MAGIC) fail(`it begins with 0x${view.getUint32(0).toString(16)}`)
  if (view.getUint32(4) !== VERSION) fail(`version ${view.getUint32(4)}; only ${VERSION} is known`)
  const ours = uuid ?? new Uint8Array(16)
  if (ours.some((byte, i) => byte !== bytes[8 + i])) fail('the sender has another UUID')
  return id
}

export interface MultifdPacket {
  readonly flags: number
  /** Of all channels together; senders count for themselves. */
  readonly packetNum: bigint
  /** Bytes of page data that follow. */
  readonly dataBytes: number
  /** Of the block; empty without pages. */
  readonly blockName: string
  readonly normal: readonly number[]
  readonly zero: readonly number[]
}

/** @param pages what travels; without: only flags */
export function packetHeader(
  flags: number,
  packetNum: number,
  pages?: {
    readonly blockName: string
    readonly dataBytes: number
    readonly normal: readonly number[]
    readonly zero: readonly number[]
  },
): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, MULTIFD_MAGIC)
  view.setUint32(4, VERSION)
  view.setUint32(8, flags)
  view.setBigUint64(24, BigInt(packetNum))
  if (!pages) return bytes
  const { blockName, dataBytes, normal, zero } = pages
  view.setUint32(12, PAGES_PER_PACKET)
  view.setUint32(16, normal.length)
  view.setUint32(20, dataBytes)
  view.setUint32(32, zero.length)
  bytes.set(text.encode(blockName).subarray(0, NAME_BYTES - 1), NAME_AT)
  let at = OFFSETS_AT + 4 // a block is below 4 GiB
  for (const offset of normal) {
    view.setUint32(at, offset)
    at += 8
  }
  for (const offset of zero) {
    view.setUint32(at, offset)
    at += 8
  }
  return bytes
}

/**
 * @param at stream offset, for messages
 * @throws MultifdError
 */
export function parsePacket(
  bytes: Uint8Array,
  channel: number,
  compression: MultifdCompression,
  at: number,
): MultifdPacket {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES)
  const fail = (problem: string): never => {
    throw new MultifdError(channel, problem, at)
  }
  if (view.getUint32(0) !== MULTIFD_MAGIC) fail(`a packet begins with 0x${view.getUint32(0).toString(16)}`)
  if (view.getUint32(4) !== VERSION) fail(`a packet has version ${view.getUint32(4)}; only ${VERSION} is known`)
  const flags = view.getUint32(8)
  const packetNum = view.getBigUint64(24)
  const [allocated, normalCount, size, zeroCount] = [12, 16, 20, 32].map((o) => view.getUint32(o)) as [
    number,
    number,
    number,
    number,
  ]
  if (allocated > PAGES_PER_PACKET || normalCount + zeroCount > allocated) {
    fail(`a packet of ${allocated} pages has ${normalCount} with contents and ${zeroCount} zero pages`)
  }
  // Without pages a sender may leave size and name of an earlier packet there, and no data follows.
  if (normalCount + zeroCount === 0) return { flags, packetNum, dataBytes: 0, blockName: '', normal: [], zero: [] }
  const dataBytes = normalCount === 0 ? 0 : size
  if (normalCount > 0 && (flags & COMPRESSION_MASK) !== COMPRESSION_FLAG[compression]) {
    const wanted = `multifd-compression is ${compression} here`
    fail(
      `a packet is compressed in another way (flags 0x${flags.toString(16)}); ${wanted}, and must be so on both sides`,
    )
  }
  const limit = compression === 'none' ? normalCount * PAGE_BYTES : MAX_DATA_BYTES
  if (dataBytes > limit || (compression === 'none' && dataBytes !== limit)) {
    fail(`a packet of ${normalCount} pages has ${dataBytes} bytes of data`)
  }
  const name = bytes.subarray(NAME_AT, NAME_AT + NAME_BYTES)
  const end = name.indexOf(0)
  const offsets: number[] = []
  for (let i = 0; i < normalCount + zeroCount; i++) {
    offsets.push(view.getUint32(OFFSETS_AT + 8 * i) * 2 ** 32 + view.getUint32(OFFSETS_AT + 8 * i + 4))
  }
  return {
    flags,
    packetNum,
    dataBytes,
    blockName: new TextDecoder().decode(name.subarray(0, end < 0 ? NAME_BYTES : end)),
    normal: offsets.slice(0, normalCount),
    zero: offsets.slice(normalCount),
  }
}
