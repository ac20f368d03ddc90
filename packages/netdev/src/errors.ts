import { FerryError, MAX_FRAME_BYTES } from '@ferryvm/core'

/** The other end of a network's stream socket announced a frame that cannot be. */
export class NetFrameError extends FerryError {
  readonly code = 'FERRY_NET_FRAME'
  readonly lengthBytes: number
  constructor(lengthBytes: number) {
    super(
      `a frame of ${lengthBytes} bytes was announced; at most ${MAX_FRAME_BYTES} are possible, so the other end does not speak QEMU's framing`,
    )
    this.lengthBytes = lengthBytes
  }
}
