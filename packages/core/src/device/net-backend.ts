import type { OutputGate } from './output-gate.ts'

/** Ethernet header, MTU of 64 KiB: longer frames do not exist. */
export const MAX_FRAME_BYTES = 65_550

/**
 * The other end of a network card's cable: a socket, a small network inside of this process, a test.
 * Frames are Ethernet frames without preamble and checksum.
 */
export interface NetBackend {
  /**
   * Takes the frame in any case and owns the array from now on.
   * @returns a promise when the host is slow: the card sends nothing more until it settles. Rejected: the frame is lost
   */
  send(frame: Uint8Array): void | Promise<void>
  /** One listener at a time. Called whenever a frame comes, also while the machine is stopped. */
  onReceive(listener: (frame: Uint8Array) => void): Disposable
  /** Advice: whether the card has room. What comes nevertheless is queued by the card up to a bound, then dropped. */
  setReadable?(readable: boolean): void
}

/** What a network may hold back; what is sent beyond it is lost, as on any network. */
const HELD_BYTES = 1 << 20

/** A network behind a gate: what is sent while it is closed goes out with the next checkpoint. Frames to the card are not touched. */
export function gatedNetBackend(backend: NetBackend, gate: OutputGate): NetBackend {
  let held: Uint8Array[] = []
  let heldBytes = 0
  gate.onDecision((what) => {
    const frames = held
    held = []
    heldBytes = 0
    // Lost like any other that the network does not take.
    if (what === 'release') for (const frame of frames) backend.send(frame)?.catch(() => {})
  })
  return {
    send(frame) {
      if (!gate.closed) return backend.send(frame)
      if (heldBytes + frame.length > HELD_BYTES) return undefined
      held.push(frame)
      heldBytes += frame.length
      return undefined
    },
    onReceive: (listener) => backend.onReceive(listener),
    ...(backend.setReadable && { setReadable: (readable: boolean) => backend.setReadable!(readable) }),
  }
}
