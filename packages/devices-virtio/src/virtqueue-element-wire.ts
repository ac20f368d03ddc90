/**
 * A request that was taken from the ring and not answered, as it travels: the sender's own structure in little-endian.
 * Spec: virt-vmstate.md section 9 D, "virtqueue element".
 */
import {
  custom,
  type Field,
  type FieldOptions,
  type QEMUFileReader,
  type QEMUFileWriter,
  VIRTQUEUE_MAX_SIZE,
  VmstateRangeError,
} from '@ferryvm/core'
import type { Segment, VirtqueueElement } from './virtqueue.ts'

const MAX = VIRTQUEUE_MAX_SIZE
const HEADER = 16
const IN_ADDRESSES = HEADER
const OUT_ADDRESSES = IN_ADDRESSES + 8 * MAX
/** {pointer, length} each; the pointer means nothing elsewhere. */
const IN_VECTORS = OUT_ADDRESSES + 8 * MAX
const OUT_VECTORS = IN_VECTORS + 16 * MAX
const ELEMENT_BYTES = OUT_VECTORS + 16 * MAX
const NO_ELEMENT: VirtqueueElement = { index: 0, out: [], in: [] }

/** A row that holds one request. */
export const virtqueueElement = (options?: FieldOptions<VirtqueueElement>): Field<VirtqueueElement> =>
  custom(
    {
      wire: 'VirtQueueElement',
      reset: () => NO_ELEMENT,
      put: putElement,
      get: getElement,
    },
    options,
  )

function putElement(element: VirtqueueElement, out: QEMUFileWriter): void {
  const bytes = new Uint8Array(ELEMENT_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, element.index, true)
  view.setUint32(4, element.out.length, true)
  view.setUint32(8, element.in.length, true)
  const put = (segments: readonly Segment[], addresses: number, vectors: number) =>
    segments.forEach(({ address, length }, i) => {
      view.setBigUint64(addresses + 8 * i, BigInt(address), true)
      view.setBigUint64(vectors + 16 * i + 8, BigInt(length), true)
    })
  put(element.in, IN_ADDRESSES, IN_VECTORS)
  put(element.out, OUT_ADDRESSES, OUT_VECTORS)
  out.putBuffer(bytes)
}

/** @throws VmstateRangeError counts or lengths that no ring can hold */
function* getElement(input: QEMUFileReader): Generator<number, VirtqueueElement> {
  yield ELEMENT_BYTES
  const bytes = new Uint8Array(ELEMENT_BYTES)
  input.getBuffer(bytes)
  const view = new DataView(bytes.buffer)
  const index = view.getUint32(0, true)
  const outCount = view.getUint32(4, true)
  const inCount = view.getUint32(8, true)
  if (index >= MAX || outCount > MAX || inCount > MAX || outCount + inCount === 0) {
    throw new VmstateRangeError(
      '',
      `a request in flight with head ${index}, ${outCount} readable and ${inCount} writable parts`,
    )
  }
  const take = (count: number, addresses: number, vectors: number): Segment[] =>
    Array.from({ length: count }, (_, i) => {
      const address = view.getBigUint64(addresses + 8 * i, true)
      const length = view.getBigUint64(vectors + 16 * i + 8, true)
      if (length > 0xffff_ffffn || address > 1n << 52n) {
        throw new VmstateRangeError(
          '',
          `a part of a request in flight has ${length} bytes at 0x${address.toString(16)}`,
        )
      }
      return { address: Number(address), length: Number(length) }
    })
  return { index, in: take(inCount, IN_ADDRESSES, IN_VECTORS), out: take(outCount, OUT_ADDRESSES, OUT_VECTORS) }
}
