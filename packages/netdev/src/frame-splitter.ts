import { MAX_FRAME_BYTES } from '@ferryvm/core'
import { NetFrameError } from './errors.ts'

const LENGTH_BYTES = 4

/** Frames in a stream of bytes, each with its length in front (32 bits, big-endian), as QEMU's `socket` and `stream` send them. */
export class FrameSplitter {
  #rest: Uint8Array = new Uint8Array(0)

  /**
   * @returns the frames that are whole now
   * @throws NetFrameError a length that no frame has: the other side speaks something else
   */
  push(bytes: Uint8Array): Uint8Array[] {
    const all = new Uint8Array(this.#rest.length + bytes.length)
    all.set(this.#rest)
    all.set(bytes, this.#rest.length)
    const view = new DataView(all.buffer)
    const frames: Uint8Array[] = []
    let at = 0
    while (all.length - at >= LENGTH_BYTES) {
      const length = view.getUint32(at)
      if (length > MAX_FRAME_BYTES) throw new NetFrameError(length)
      if (all.length - at - LENGTH_BYTES < length) break
      frames.push(all.slice(at + LENGTH_BYTES, at + LENGTH_BYTES + length))
      at += LENGTH_BYTES + length
    }
    this.#rest = all.subarray(at)
    return frames
  }
}

/** A frame with its length in front. */
export function lengthPrefixed(frame: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(LENGTH_BYTES + frame.length)
  new DataView(bytes.buffer).setUint32(0, frame.length)
  bytes.set(frame, LENGTH_BYTES)
  return bytes
}
