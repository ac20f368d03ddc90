/** Entries of L1 and L2 tables. Spec: the format's document, "Cluster mapping". Two 32-bit halves, because 64 bits are no number. */
import { ImageCorruptError } from '../errors.ts'

/** Bit 63: nobody else uses what it points at. */
export const COPIED = 0x8000_0000
const COMPRESSED = 0x4000_0000
const ZERO = 1
const OFFSET_HIGH = 0x00ff_ffff
const OFFSET_LOW = 0xffff_fe00

export type Mapping =
  | { readonly type: 'unallocated' }
  /** `host`: kept for data to come, 0: nothing is. */
  | { readonly type: 'zero'; readonly host: number; readonly copied: boolean }
  | { readonly type: 'data'; readonly host: number; readonly copied: boolean }
  /** `host`: of the first byte, not aligned; `bytes`: up to the end of the last sector. */
  | { readonly type: 'compressed'; readonly host: number; readonly bytes: number }

export const UNALLOCATED: Mapping = { type: 'unallocated' }

export function tableView(table: Uint8Array): DataView {
  return new DataView(table.buffer, table.byteOffset, table.length)
}

/** Where an entry of L1, or an uncompressed one of L2, points at. */
export function offsetAt(view: DataView, index: number): number {
  const high = view.getUint32(index * 8) & OFFSET_HIGH
  return high * 2 ** 32 + ((view.getUint32(index * 8 + 4) & OFFSET_LOW) >>> 0)
}

export function isCopied(view: DataView, index: number): boolean {
  return view.getUint32(index * 8) >= COPIED
}

export function setEntry(view: DataView, index: number, offset: number, copied: boolean, zero = false): void {
  view.setUint32(index * 8, (Math.floor(offset / 2 ** 32) | (copied ? COPIED : 0)) >>> 0)
  view.setUint32(index * 8 + 4, (offset % 2 ** 32) + (zero ? ZERO : 0))
}

export function setCopied(view: DataView, index: number, copied: boolean): void {
  const high = view.getUint32(index * 8)
  view.setUint32(index * 8, copied ? (high | COPIED) >>> 0 : high & ~COPIED)
}

/** @throws ImageCorruptError the cluster is not where clusters are */
export function mappingAt(
  image: string,
  view: DataView,
  index: number,
  clusterBits: number,
  version: 2 | 3,
  tableOffset: number,
): Mapping {
  const high = view.getUint32(index * 8)
  if (high & COMPRESSED) return compressedAt(view, index, clusterBits)
  const host = offsetAt(view, index)
  if (host % 2 ** clusterBits !== 0) {
    throw new ImageCorruptError(image, 'L2 table', tableOffset + index * 8, `a cluster at ${host}, inside another one`)
  }
  const copied = high >= COPIED
  if (version === 3 && view.getUint32(index * 8 + 4) & ZERO) return { type: 'zero', host, copied }
  return host === 0 ? UNALLOCATED : { type: 'data', host, copied }
}

function compressedAt(view: DataView, index: number, clusterBits: number): Mapping {
  const descriptor = view.getBigUint64(index * 8) & 0x3fff_ffff_ffff_ffffn
  const offsetBits = BigInt(62 - (clusterBits - 8))
  const host = Number(descriptor & ((1n << offsetBits) - 1n))
  const sectors = Number(descriptor >> offsetBits) + 1
  return { type: 'compressed', host, bytes: sectors * 512 - (host % 512) }
}

export function setCompressed(view: DataView, index: number, host: number, bytes: number, clusterBits: number): void {
  const offsetBits = BigInt(62 - (clusterBits - 8))
  const sectors = Math.floor((host + bytes - 1) / 512) - Math.floor(host / 512)
  view.setBigUint64(index * 8, (1n << 62n) | (BigInt(sectors) << offsetBits) | BigInt(host))
}

/** Host clusters that a mapping uses. */
export function clustersOf(mapping: Mapping, clusterBytes: number): { first: number; count: number } | undefined {
  if (mapping.type === 'compressed') {
    const first = Math.floor(mapping.host / clusterBytes)
    return { first, count: Math.floor((mapping.host + mapping.bytes - 1) / clusterBytes) - first + 1 }
  }
  if (mapping.type === 'unallocated' || mapping.host === 0) return undefined
  return { first: mapping.host / clusterBytes, count: 1 }
}
