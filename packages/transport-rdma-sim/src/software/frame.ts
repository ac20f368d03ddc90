/** What two software devices say to each other. One frame is one packet of a reliable connection, of any length. */
export const FrameKind = {
  CONNECT_REQUEST: 1,
  CONNECT_REPLY: 2,
  CONNECT_REJECT: 3,
  DISCONNECT: 4,
  KEEP_ALIVE: 5,
  SEND: 16,
  WRITE: 17,
  ACKNOWLEDGE: 18,
  REFUSE: 19,
} as const
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind]

/** In `key` of a REFUSE frame. */
export const Refusal = {
  RECEIVER_NOT_READY: 1,
  REMOTE_ACCESS: 2,
  INVALID_REQUEST: 3,
  OPERATION: 4,
} as const

export interface Frame {
  readonly kind: FrameKind
  /**
   * SEND, WRITE: its number in the order of requests. ACKNOWLEDGE: the last one that arrived. REFUSE: the refused one.
   * DISCONNECT: how many have arrived.
   */
  readonly sequence: number
  /** Bytes of payload that follow. */
  readonly length: number
  readonly immediate?: number
  /** WRITE: rkey. REFUSE: why. CONNECT_*: number of the queue pair. */
  readonly key: number
  /** WRITE: where to. */
  readonly address: bigint
}

export const FRAME_HEADER_BYTES = 32
/** A longer payload than any work request makes; bounds what a damaged header can announce. */
export const MAX_PAYLOAD_BYTES = 2 ** 30
const MAGIC = 0x4652
const HAS_IMMEDIATE = 1
const KINDS: ReadonlySet<number> = new Set(Object.values(FrameKind))

/** be16 magic, u8 kind, u8 flags, be32 sequence, be32 length, be32 immediate, be32 key, 4 zero, be64 address. */
export function encodeFrame(frame: Frame): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(FRAME_HEADER_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, MAGIC)
  view.setUint8(2, frame.kind)
  view.setUint8(3, frame.immediate === undefined ? 0 : HAS_IMMEDIATE)
  view.setUint32(4, frame.sequence)
  view.setUint32(8, frame.length)
  view.setUint32(12, frame.immediate ?? 0)
  view.setUint32(16, frame.key)
  view.setBigUint64(24, frame.address)
  return bytes
}

/** @returns undefined: no frame of ours */
export function decodeFrame(bytes: Uint8Array): Frame | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, FRAME_HEADER_BYTES)
  const kind = view.getUint8(2)
  const flags = view.getUint8(3)
  const length = view.getUint32(8)
  if (view.getUint16(0) !== MAGIC || !KINDS.has(kind) || flags > HAS_IMMEDIATE || length > MAX_PAYLOAD_BYTES) return
  return {
    kind: kind as FrameKind,
    sequence: view.getUint32(4),
    length,
    immediate: flags & HAS_IMMEDIATE ? view.getUint32(12) : undefined,
    key: view.getUint32(16),
    address: view.getBigUint64(24),
  }
}

export const frame = (kind: FrameKind, fields: Partial<Omit<Frame, 'kind'>> = {}): Frame => ({
  kind,
  sequence: 0,
  length: 0,
  key: 0,
  address: 0n,
  ...fields,
})
