import { type QEMUFileReader, type QEMUFileWriter, StreamTruncatedError } from '@ferryvm/core'
import { trace } from './colo-trace.ts'
import { ColoProtocolError } from './errors.ts'

/** Ids on the wire, be32. Spec: protocol.md section 10. */
export const MESSAGES = [
  'checkpoint-ready',
  'checkpoint-request',
  'checkpoint-reply',
  'vmstate-send',
  'vmstate-size',
  'vmstate-received',
  'vmstate-loaded',
] as const
export type ColoMessage = (typeof MESSAGES)[number]

/** Device state is tens of kilobytes; a RAM block is never in it. */
export const MAX_DEVICE_STATE_BYTES = 64 << 20

export async function send(f: QEMUFileWriter, message: ColoMessage): Promise<void> {
  trace.colo_send_message({ msg: message })
  f.putBe32(MESSAGES.indexOf(message))
  await f.flush()
}

/**
 * `vmstate-size` and what it announces.
 * @param beforeLast called when all but the last byte is gone: nobody can have the whole yet
 */
export async function sendDeviceState(
  f: QEMUFileWriter,
  bytes: Uint8Array,
  beforeLast: () => Promise<void>,
): Promise<void> {
  trace.colo_send_message({ msg: 'vmstate-size' })
  f.putBe32(MESSAGES.indexOf('vmstate-size'))
  f.putBe64(BigInt(bytes.length))
  f.putBuffer(bytes.subarray(0, -1))
  await f.flush()
  await beforeLast()
  f.putBuffer(bytes.subarray(-1))
  await f.flush()
}

/** @throws ColoProtocolError another message, or none that exists; StreamTruncatedError the peer closed the channel */
export async function expect(f: QEMUFileReader, message: ColoMessage): Promise<void> {
  const at = f.position
  await need(f, 4)
  const id = f.getBe32()
  const got = MESSAGES[id]
  if (got) trace.colo_receive_message({ msg: got })
  if (got === message) return
  throw new ColoProtocolError(
    `expected ${message} and got ${got ?? `an unknown message, ${id}`} (offset 0x${at.toString(16)})`,
  )
}

/** As `sendDeviceState` sends it. @throws ColoProtocolError more than {@link MAX_DEVICE_STATE_BYTES} */
export async function receiveDeviceState(f: QEMUFileReader): Promise<Uint8Array> {
  await expect(f, 'vmstate-size')
  await need(f, 8)
  const size = f.getBe64()
  if (size > BigInt(MAX_DEVICE_STATE_BYTES)) {
    throw new ColoProtocolError(
      `${size} bytes of device state were announced; at most ${MAX_DEVICE_STATE_BYTES} are taken`,
    )
  }
  const bytes = new Uint8Array(Number(size))
  // In pieces, so that the reader need not hold all of it at once.
  for (let at = 0; at < bytes.length; ) {
    const piece = bytes.subarray(at, at + 32768)
    await need(f, piece.length)
    f.getBuffer(piece)
    at += piece.length
  }
  return bytes
}

async function need(f: QEMUFileReader, bytes: number): Promise<void> {
  if (f.available >= bytes) return
  await f.fill(bytes)
  if (f.available < bytes) throw new StreamTruncatedError(f.position, bytes, f.available)
}
