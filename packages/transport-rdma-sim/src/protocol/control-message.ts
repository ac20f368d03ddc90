import { RdmaProtocolError } from '../errors.ts'

/** Spec: protocol.md section 11, "Control message". */
export const ControlType = {
  NONE: 0,
  ERROR: 1,
  READY: 2,
  QEMU_FILE: 3,
  RAM_BLOCKS_REQUEST: 4,
  RAM_BLOCKS_RESULT: 5,
  COMPRESS: 6,
  REGISTER_REQUEST: 7,
  REGISTER_RESULT: 8,
  REGISTER_FINISHED: 9,
  UNREGISTER_REQUEST: 10,
  UNREGISTER_FINISHED: 11,
} as const
export type ControlType = (typeof ControlType)[keyof typeof ControlType]

const NAMES = Object.keys(ControlType)
export const controlName = (type: number): string => NAMES[type] ?? `message type ${type}`

export const CONTROL_HEADER_BYTES = 16
/** Header included. */
export const MAX_CONTROL_BYTES = 512 * 1024
/** Stream bytes in one QEMU_FILE message. */
export const MAX_FILE_BYTES = 32768
/** Records in one message. */
export const MAX_COMMANDS = 4096

export interface ControlHeader {
  readonly type: ControlType
  /** Bytes behind the header. */
  readonly length: number
  /** Records in the data. */
  readonly repeat: number
}

/** be32 length, be32 type, be32 repeat, 4 zero. */
export function writeControlHeader(into: Uint8Array, { type, length, repeat }: ControlHeader): void {
  const view = new DataView(into.buffer, into.byteOffset, CONTROL_HEADER_BYTES)
  view.setUint32(0, length)
  view.setUint32(4, type)
  view.setUint32(8, repeat)
  view.setUint32(12, 0)
}

/** @throws RdmaProtocolError it does not describe the bytes that arrived */
export function readControlHeader(message: Uint8Array): ControlHeader {
  if (message.length < CONTROL_HEADER_BYTES) {
    throw new RdmaProtocolError('header', `a message of ${message.length} bytes has no room for its header`, 0)
  }
  const view = new DataView(message.buffer, message.byteOffset, CONTROL_HEADER_BYTES)
  const length = view.getUint32(0)
  const type = view.getUint32(4)
  const repeat = view.getUint32(8)
  if (length + CONTROL_HEADER_BYTES !== message.length) {
    const arrived = message.length - CONTROL_HEADER_BYTES
    throw new RdmaProtocolError('header.len', `${length} bytes announced, ${arrived} arrived`, 0)
  }
  if (type >= NAMES.length) throw new RdmaProtocolError('header.type', `${type} is unknown`, 4)
  if (repeat > MAX_COMMANDS) {
    throw new RdmaProtocolError('header.repeat', `${repeat} records; at most ${MAX_COMMANDS} are allowed`, 8)
  }
  return { type: type as ControlType, length, repeat }
}
