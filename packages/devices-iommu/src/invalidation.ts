/**
 * Descriptors of the invalidation queue. Spec: iommu.md section a.7; reserved bits as in the VT-d specification,
 * chapter "Queued Invalidation Interface".
 */

export const DESCRIPTOR_BYTES = 16
/** Type of the last descriptor, which decides whether the queue can be turned off. */
export const WAIT = 5
const CONTEXT = 1
const IOTLB = 2
const DEVICE_IOTLB = 3
const INTERRUPT = 4
const PASID_IOTLB = 6
const PASID_CACHE = 7

const GLOBAL = 1
const DOMAIN = 2
const SELECTIVE = 3
/** CAP.MAMV: pages are invalidated in groups of at most 2^18. */
export const MAX_ADDRESS_MASK = 18

export type ContextScope = { readonly all: true } | { readonly sourceId: number; readonly functionMask: number }
export type IotlbScope =
  | { readonly all: true }
  | { readonly domain: number; readonly start?: number; readonly end?: number }

export type Invalidation =
  | { readonly kind: 'context'; readonly scope: ContextScope }
  | { readonly kind: 'iotlb'; readonly scope: IotlbScope }
  /** What only device TLBs and interrupt users would care about; there are none to tell. */
  | { readonly kind: 'nothing' }
  | {
      readonly kind: 'wait'
      readonly status?: { readonly address: number; readonly data: number }
      readonly interrupt: boolean
    }

/** @returns undefined: unknown type, reserved bits set, or operands out of range */
export function decodeDescriptor(low: bigint, high: bigint): Invalidation | undefined {
  const type = Number(low & 0xfn)
  const granularity = Number((low >> 4n) & 3n)
  const id16 = (shift: bigint) => Number((low >> shift) & 0xffffn)
  switch (type) {
    case CONTEXT: {
      if (low & 0xfffc_0000_0000_ffc0n || high) return
      const scope = contextScope(granularity, id16(32n), Number((low >> 48n) & 3n))
      return scope && { kind: 'context', scope }
    }
    case IOTLB: {
      if (low & 0xffff_ffff_0000_ff00n || high & 0xf80n) return
      const scope = iotlbScope(granularity, id16(16n), high)
      return scope && { kind: 'iotlb', scope }
    }
    case DEVICE_IOTLB:
      return low & 0xffff_0000_ffe0_fff0n || high & 0xffen ? undefined : { kind: 'nothing' }
    case INTERRUPT:
      return low & 0xffff_0000_07ff_ffe0n || high ? undefined : { kind: 'nothing' }
    case PASID_IOTLB:
    case PASID_CACHE:
      return { kind: 'nothing' }
    case WAIT: {
      const interrupt = (low & 0x10n) !== 0n
      const writesStatus = (low & 0x20n) !== 0n
      if (low & 0xffff_ff80n || high & 3n || !(interrupt || writesStatus)) return
      // Addresses beyond 2^53 exist nowhere; the write fails like any other without a target.
      const status = writesStatus ? { address: Number(high), data: Number(low >> 32n) } : undefined
      return { kind: 'wait', status, interrupt }
    }
  }
}

/** @param granularity 1 global, 2 domain (done as global), 3 one device with its function mask */
export function contextScope(granularity: number, sourceId: number, functionMask: number): ContextScope | undefined {
  if (granularity === GLOBAL || granularity === DOMAIN) return { all: true }
  return granularity === SELECTIVE ? { sourceId, functionMask } : undefined
}

/** @param address low bits: address mask (5:0) and hint (6), as in the IVA register and the descriptor */
export function iotlbScope(granularity: number, domain: number, address: bigint): IotlbScope | undefined {
  if (granularity === GLOBAL) return { all: true }
  if (granularity === DOMAIN) return { domain }
  const mask = Number(address & 0x3fn)
  if (granularity !== SELECTIVE || mask > MAX_ADDRESS_MASK) return undefined
  const sizeBytes = 4096 * 2 ** mask
  const page = Number(address >> 12n) * 4096
  const start = page - (page % sizeBytes)
  return { domain, start, end: start + sizeBytes }
}

/** Function bits that a mask of 1, 2, 3 leaves out of the comparison. */
const FUNCTION_MASKS = [0, 0b100, 0b110, 0b111]

export function contextScopeCovers(scope: ContextScope, sourceId: number): boolean {
  return 'all' in scope || ((scope.sourceId ^ sourceId) & ~FUNCTION_MASKS[scope.functionMask]! & 0xffff) === 0
}
