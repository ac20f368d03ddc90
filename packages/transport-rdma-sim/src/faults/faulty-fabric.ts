import { FrameKind } from '../software/frame.ts'
import type { Fabric, Link } from '../software/link.ts'

/** What can happen to a cable. */
export type WireFault =
  /** So many frames do not arrive; requests are repeated. */
  | { readonly kind: 'lose'; readonly frames: number }
  /** One bit of the next control message is another. Checksums of a real wire do not let that happen; a bad peer may. */
  | { readonly kind: 'corrupt'; readonly bit: number }
  /** The link breaks. */
  | { readonly kind: 'cut' }
  /** Nothing arrives any more, and nobody is told. */
  | { readonly kind: 'silence' }

export interface FaultyFabric extends Fabric {
  /** Frames so far, of the side that dials. */
  readonly steps: number
  readonly fired: boolean
}

/** A fabric whose dialling side meets a fault at its frame number `step`, counted over all its links from 0. */
export function faultyFabric(fabric: Fabric, step: number, fault: WireFault): FaultyFabric {
  let steps = 0
  let fired = false
  let losing = 0
  let corrupting = false
  const silent = () => fired && fault.kind === 'silence'
  const wrap = (link: Link): Link => ({
    get receiver() {
      return link.receiver
    },
    set receiver(receiver) {
      // Silence is silence in both directions.
      link.receiver = receiver && {
        begin: (frame) => (silent() ? [] : receiver.begin(frame)),
        end: (frame) => void (silent() || receiver.end(frame)),
        lost: (cause) => receiver.lost(cause),
      }
    },
    get heardAt() {
      return silent() ? 0 : link.heardAt
    },
    remoteAddress: link.remoteAddress,
    send(frame, payload) {
      if (steps++ >= step && !fired) fire(link)
      if (silent()) return
      if (losing > 0 && frame.kind >= FrameKind.SEND) {
        losing--
        return
      }
      if (corrupting && frame.kind === FrameKind.SEND && payload) {
        corrupting = false
        return link.send(frame, flipped(payload, (fault as { bit: number }).bit))
      }
      return link.send(frame, payload)
    },
    close: () => link.close(),
    destroy: () => link.destroy(),
  })
  function fire(link: Link): void {
    fired = true
    if (fault.kind === 'lose') losing = fault.frames
    else if (fault.kind === 'corrupt') corrupting = true
    else if (fault.kind === 'cut') {
      const { receiver } = link
      link.destroy()
      queueMicrotask(() => receiver?.lost(new Error('the link was cut (injected)')))
    }
  }
  return {
    name: fabric.name,
    dial: async (address, signal) => wrap(await fabric.dial(address, signal)),
    listen: (address, arrived, signal) => fabric.listen(address, arrived, signal),
    get steps() {
      return steps
    },
    get fired() {
      return fired
    },
  }
}

/** Within the header of the first buffer, so that it is found: the bytes of the stream have no check of their own. */
function flipped(payload: readonly Uint8Array[], bit: number): Uint8Array[] {
  const [first, ...rest] = payload
  const copy = first!.slice()
  copy[bit >>> 3]! ^= 1 << (bit & 7)
  return [copy, ...rest]
}
