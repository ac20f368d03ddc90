import { CONTROL_HEADER_BYTES, ControlType, controlName, readControlHeader } from '../protocol/control-message.ts'
import { FrameKind } from '../software/frame.ts'
import type { Fabric, Link } from '../software/link.ts'

/** What one side of the wire saw leave: control messages by name, and writes. */
export interface WireEntry {
  /** Number of the connection, in the order in which they were made. */
  readonly connection: number
  /** `out`: from the side that connected. */
  readonly direction: 'out' | 'in'
  /** A control message's name, or WRITE. */
  readonly name: string
  /** Of data, without the header. */
  readonly bytes: number
  /** Of COMPRESS: what is zero, in the destination's numbering. */
  readonly zero?: { readonly offset: number; readonly bytes: number }
}

export interface WireLog {
  readonly fabric: Fabric
  readonly entries: WireEntry[]
}

/** A fabric that writes down everything that goes over it, seen from within the process that dials and listens. */
export function wireLog(fabric: Fabric): WireLog {
  const entries: WireEntry[] = []
  let connections = 0
  const tap = (link: Link, connection: number, direction: WireEntry['direction']): Link => ({
    get receiver() {
      return link.receiver
    },
    set receiver(receiver) {
      link.receiver = receiver
    },
    get heardAt() {
      return link.heardAt
    },
    remoteAddress: link.remoteAddress,
    send(frame, payload = []) {
      if (frame.kind === FrameKind.WRITE) entries.push({ connection, direction, name: 'WRITE', bytes: frame.length })
      if (frame.kind === FrameKind.SEND) {
        const message = Buffer.concat(payload)
        const { type } = readControlHeader(message)
        const data = message.subarray(CONTROL_HEADER_BYTES)
        const zero =
          type === ControlType.COMPRESS
            ? { offset: Number(data.readBigUInt64BE(8)), bytes: Number(data.readBigUInt64BE(16)) }
            : undefined
        entries.push({ connection, direction, name: controlName(type), bytes: data.length, zero })
      }
      return link.send(frame, payload)
    },
    close: () => link.close(),
    destroy: () => link.destroy(),
  })
  let arrivals = 0
  return {
    entries,
    fabric: {
      name: fabric.name,
      dial: async (address, signal) => tap(await fabric.dial(address, signal), connections++, 'out'),
      listen: (address, arrived, signal) =>
        fabric.listen(address, (link) => arrived(tap(link, arrivals++, 'in')), signal),
    },
  }
}

/** How often each name occurs, and with how many bytes in all. */
export function tally(entries: readonly WireEntry[]): Record<string, { count: number; bytes: number }> {
  const result: Record<string, { count: number; bytes: number }> = {}
  for (const { name, bytes } of entries) {
    const sum = (result[name] ??= { count: 0, bytes: 0 })
    sum.count++
    sum.bytes += bytes
  }
  return result
}
