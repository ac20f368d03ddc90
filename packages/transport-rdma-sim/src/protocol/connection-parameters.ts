import { RdmaProtocolError } from '../errors.ts'

/** What both sides say while they connect: be32 version, be32 flags. Spec: protocol.md section 11, "Connection". */
export const PROTOCOL_VERSION = 1
const FLAG_PIN_ALL = 0x01
const KNOWN_FLAGS = FLAG_PIN_ALL
const BYTES = 8

export function connectionParameters({ pinAll }: { readonly pinAll: boolean }): Uint8Array {
  const bytes = new Uint8Array(BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, PROTOCOL_VERSION)
  view.setUint32(4, pinAll ? FLAG_PIN_ALL : 0)
  return bytes
}

/** Flags that nobody here knows are not granted. @throws RdmaProtocolError another version */
export function readConnectionParameters(bytes: Uint8Array): { readonly pinAll: boolean } {
  if (bytes.length < BYTES) {
    throw new RdmaProtocolError('connection parameters', `${bytes.length} bytes; ${BYTES} are expected`)
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, BYTES)
  const version = view.getUint32(0)
  if (version !== PROTOCOL_VERSION) {
    throw new RdmaProtocolError('connection parameters', `version ${version}; only ${PROTOCOL_VERSION} is known`, 0)
  }
  return { pinAll: (view.getUint32(4) & KNOWN_FLAGS & FLAG_PIN_ALL) !== 0 }
}
