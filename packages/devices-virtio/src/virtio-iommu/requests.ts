/** Requests of queue 0. Spec: virtio 1.2, section 5.13.6; iommu.md section b.3. */
import { type Domains, Status } from './domains.ts'

export const HEAD_BYTES = 4
export const TAIL_BYTES = 4
export const PROBE_BYTES = 512
const T_ATTACH = 1
const T_DETACH = 2
const T_MAP = 3
const T_UNMAP = 4
export const T_PROBE = 5
/** Of the whole request, by type. */
const SIZES: Readonly<Record<number, number>> = {
  [T_ATTACH]: 20,
  [T_DETACH]: 20,
  [T_MAP]: 36,
  [T_UNMAP]: 28,
  [T_PROBE]: 72,
}
/** No request is longer. */
export const REQUEST_BYTES_MAX = 72
const ATTACH_BYPASS = 1

/** @param request from its head on, at least that */
export function execute(request: Uint8Array, domains: Domains): Status {
  const type = request[0]!
  const size = SIZES[type]
  if (size === undefined) return Status.UNSUPP
  if (request.length < size) return Status.INVAL
  const view = new DataView(request.buffer, request.byteOffset, request.length)
  const first = view.getUint32(4, true)
  switch (type) {
    case T_ATTACH: {
      const flags = view.getUint32(12, true)
      return flags & ~ATTACH_BYPASS ? Status.INVAL : domains.attach(first, view.getUint32(8, true), flags !== 0)
    }
    case T_DETACH:
      return domains.detach(first, view.getUint32(8, true))
    case T_MAP: {
      const [low, high, phys] = [8, 16, 24].map((at) => view.getBigUint64(at, true))
      return domains.map(first, low!, high!, phys!, view.getUint32(32, true))
    }
    case T_UNMAP:
      return domains.unmap(first, view.getBigUint64(8, true), view.getBigUint64(16, true))
    default:
      // A probe: there is nothing to say of any endpoint.
      return domains.knows(first) ? Status.OK : Status.NOENT
  }
}
