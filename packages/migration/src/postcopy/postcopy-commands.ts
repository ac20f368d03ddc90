/** Payloads of the commands of postcopy. Spec: ram.md section 10; stream.md section 4. */
import { PAGE_BYTES, type RamBlock, type StreamCommand } from '@ferryvm/core'

const DISCARD_VERSION = 0
const RANGE_BYTES = 16
/** Ranges in one RAM_DISCARD. */
const RANGES_PER_COMMAND = 12
/** Version, length of a name of one byte, the byte, NUL, one range. */
const DISCARD_MIN_BYTES = 20
/** Value of the PING in front of the package. */
export const PING_BEFORE_PACKAGE = 2
export const MAX_PACKAGE_BYTES = 256 * 2 ** 20

export interface PageRange {
  readonly startBytes: number
  readonly lengthBytes: number
}

/** All backing page sizes ORed together, and the target's page size: ours are both one page. */
export function advisePayload(): Uint8Array {
  const payload = new Uint8Array(16)
  const view = new DataView(payload.buffer)
  view.setBigUint64(0, BigInt(PAGE_BYTES))
  view.setBigUint64(8, BigInt(PAGE_BYTES))
  return payload
}

/** @throws StreamCommandError page sizes that this machine does not have */
export function checkAdvise(command: StreamCommand): void {
  const { payload } = command
  if (payload.length === 0)
    throw command.refuse(
      'only dirty-bitmaps could follow the guest; switch postcopy-ram on at the source too, or off here',
    )
  if (payload.length !== 16) throw command.refuse(`${payload.length} bytes of payload instead of 16`)
  const view = viewOf(payload)
  const [backing, target] = [view.getBigUint64(0), view.getBigUint64(8)]
  if (backing === BigInt(PAGE_BYTES) && target === BigInt(PAGE_BYTES)) return
  throw command.refuse(
    `the source has pages of ${target} bytes (backing: 0x${backing.toString(16)}), this machine ${PAGE_BYTES}`,
  )
}

/** As many payloads as the ranges need. */
export function* discardPayloads(block: RamBlock, ranges: readonly PageRange[]): Generator<Uint8Array> {
  const name = new TextEncoder().encode(block.idstr)
  for (let i = 0; i < ranges.length; i += RANGES_PER_COMMAND) {
    const some = ranges.slice(i, i + RANGES_PER_COMMAND)
    const payload = new Uint8Array(3 + name.length + RANGE_BYTES * some.length)
    const view = viewOf(payload)
    payload[0] = DISCARD_VERSION
    payload[1] = name.length
    payload.set(name, 2)
    some.forEach(({ startBytes, lengthBytes }, n) => {
      const at = 3 + name.length + RANGE_BYTES * n
      view.setBigUint64(at, BigInt(startBytes))
      view.setBigUint64(at + 8, BigInt(lengthBytes))
    })
    yield payload
  }
}

/** @throws StreamCommandError */
export function parseDiscard(
  command: StreamCommand,
  blocks: readonly RamBlock[],
): { block: RamBlock; ranges: PageRange[] } {
  const { payload } = command
  const view = viewOf(payload)
  if (payload.length < DISCARD_MIN_BYTES) throw command.refuse(`only ${payload.length} bytes of payload`)
  if (payload[0] !== DISCARD_VERSION) throw command.refuse(`version ${payload[0]} instead of ${DISCARD_VERSION}`)
  const length = payload[1]!
  const rest = payload.length - 3 - length
  if (rest <= 0 || rest % RANGE_BYTES !== 0 || payload[2 + length] !== 0) {
    throw command.refuse(`${payload.length} bytes with a name of ${length} are no list of ranges`)
  }
  const block = blockNamed(command, blocks, payload.subarray(2, 2 + length))
  const ranges: PageRange[] = []
  for (let at = 3 + length; at < payload.length; at += RANGE_BYTES) {
    const start = view.getBigUint64(at)
    const bytes = view.getBigUint64(at + 8)
    if (start % BigInt(PAGE_BYTES) || bytes % BigInt(PAGE_BYTES) || start + bytes > BigInt(block.sizeBytes)) {
      throw command.refuse(
        `${block.idstr}: 0x${bytes.toString(16)} bytes at 0x${start.toString(16)} are no whole pages of a block of ` +
          `0x${block.sizeBytes.toString(16)}`,
      )
    }
    ranges.push({ startBytes: Number(start), lengthBytes: Number(bytes) })
  }
  return { block, ranges }
}

/** RECV_BITMAP: str8 block. */
export const recvBitmapPayload = (block: RamBlock): Uint8Array => {
  const name = new TextEncoder().encode(block.idstr)
  return Uint8Array.of(name.length, ...name)
}

/** @throws StreamCommandError */
export function parseRecvBitmap(command: StreamCommand, blocks: readonly RamBlock[]): RamBlock {
  const { payload } = command
  if (payload.length === 0 || payload.length !== 1 + payload[0]!) throw command.refuse('no name of a block')
  return blockNamed(command, blocks, payload.subarray(1))
}

function blockNamed(command: StreamCommand, blocks: readonly RamBlock[], bytes: Uint8Array): RamBlock {
  const name = new TextDecoder().decode(bytes)
  const block = blocks.find(({ idstr }) => idstr === name)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: names from the wire are shown without them
  const shown = name.replace(/[\u0000-\u001f\u007f-\u009f\ufffd]/g, '?')
  if (!block) throw command.refuse(`this machine has no RAM block "${shown}"`)
  return block
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

export const be32 = (value: number): Uint8Array => {
  const bytes = new Uint8Array(4)
  viewOf(bytes).setUint32(0, value)
  return bytes
}
