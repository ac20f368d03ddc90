import { RdmaProtocolError } from '../errors.ts'
import { CONTROL_HEADER_BYTES, type ControlType, controlName, MAX_COMMANDS } from './control-message.ts'

/**
 * What control messages carry. Integers are big-endian, structures packed. An address is one in the destination's own
 * numbering of all its RAM: `offset` of the block in DestBlock plus the offset within the block.
 * Spec: protocol.md section 11, "Structures".
 */
export interface DestBlock {
  /** Of the first byte, as RDMA writes name it. */
  readonly remoteHostAddress: bigint
  readonly offset: bigint
  readonly length: bigint
  /** 0 without pin-all. */
  readonly rkey: number
}
export interface Register {
  /** An address; for UNREGISTER the number of the chunk in its block. */
  readonly address: bigint
  readonly block: number
  /** Further chunks behind the first. */
  readonly chunks: bigint
}
export interface RegisterResult {
  readonly rkey: number
  readonly hostAddress: bigint
}
export interface Compress {
  readonly value: number
  readonly block: number
  readonly offset: bigint
  readonly length: bigint
}

/** One kind of record. */
export interface RecordCodec<R> {
  readonly bytes: number
  write(view: DataView, record: R): void
  read(view: DataView): R
}

export const destBlock: RecordCodec<DestBlock> = {
  bytes: 32,
  write(view, { remoteHostAddress, offset, length, rkey }) {
    view.setBigUint64(0, remoteHostAddress)
    view.setBigUint64(8, offset)
    view.setBigUint64(16, length)
    view.setUint32(24, rkey)
  },
  read: (view) => ({
    remoteHostAddress: view.getBigUint64(0),
    offset: view.getBigUint64(8),
    length: view.getBigUint64(16),
    rkey: view.getUint32(24),
  }),
}

export const register: RecordCodec<Register> = {
  bytes: 24,
  write(view, { address, block, chunks }) {
    view.setBigUint64(0, address)
    view.setUint32(8, block)
    view.setBigUint64(16, chunks)
  },
  read: (view) => ({ address: view.getBigUint64(0), block: view.getUint32(8), chunks: view.getBigUint64(16) }),
}

export const registerResult: RecordCodec<RegisterResult> = {
  bytes: 16,
  write(view, { rkey, hostAddress }) {
    view.setUint32(0, rkey)
    view.setBigUint64(8, hostAddress)
  },
  read: (view) => ({ rkey: view.getUint32(0), hostAddress: view.getBigUint64(8) }),
}

export const compress: RecordCodec<Compress> = {
  bytes: 24,
  write(view, { value, block, offset, length }) {
    view.setUint32(0, value)
    view.setUint32(4, block)
    view.setBigUint64(8, offset)
    view.setBigUint64(16, length)
  },
  read: (view) => ({
    value: view.getUint32(0),
    block: view.getUint32(4),
    offset: view.getBigUint64(8),
    length: view.getBigUint64(16),
  }),
}

export function encodeRecords<R>(codec: RecordCodec<R>, records: readonly R[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(codec.bytes * records.length)
  records.forEach((record, i) => {
    codec.write(new DataView(bytes.buffer, i * codec.bytes, codec.bytes), record)
  })
  return bytes
}

/** @throws RdmaProtocolError the data is not that many records */
export function decodeRecords<R>(codec: RecordCodec<R>, type: ControlType, data: Uint8Array, repeat: number): R[] {
  const name = controlName(type)
  if (repeat > MAX_COMMANDS) throw new RdmaProtocolError(name, `${repeat} records; ${MAX_COMMANDS} are allowed`, 8)
  if (data.length !== repeat * codec.bytes) {
    const expected = `${repeat} records of ${codec.bytes} bytes`
    throw new RdmaProtocolError(name, `${expected} are announced, and ${data.length} bytes arrived`, 0)
  }
  return Array.from({ length: repeat }, (_, i) =>
    codec.read(new DataView(data.buffer, data.byteOffset + i * codec.bytes, codec.bytes)),
  )
}

/** Where a record's field begins in its message. */
export const recordOffset = (codec: RecordCodec<never> | RecordCodec<any>, index: number, field = 0): number =>
  CONTROL_HEADER_BYTES + index * codec.bytes + field
