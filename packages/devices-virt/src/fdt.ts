/**
 * Flattened device trees: structured nodes to the blob that firmware reads, and back (tests and tools).
 * Spec: Devicetree Specification 0.4, chapter 5.
 */
import { FerryError } from '@ferryvm/core'

const MAGIC = 0xd00dfeed
const VERSION = 17
const LAST_COMPATIBLE_VERSION = 16
const HEADER_BYTES = 40
/** One terminating entry (two zero u64), always there. */
const RESERVE_MAP_BYTES = 16
const BEGIN_NODE = 1
const END_NODE = 2
const PROP = 3
const NOP = 4
const END = 9
/** Deeper trees than this are refused when reading; real ones have about five levels. */
const MAX_DEPTH = 64

/** A node. Property values are the bytes of the blob; make them with {@link cells}, {@link cells64}, {@link text}, {@link flag}. */
export interface FdtNode {
  readonly properties: Record<string, Uint8Array>
  /** By unit name: `serial@10000000`. Order is kept in the blob. */
  readonly children: Record<string, FdtNode>
}

/** A blob that is not a well-formed flattened device tree. */
export class DeviceTreeFormatError extends FerryError {
  readonly code = 'FERRY_DEVICE_TREE_FORMAT'
  /** Byte offset in the blob. */
  readonly offset: number
  constructor(message: string, offset: number) {
    super(`device tree: ${message} (offset 0x${offset.toString(16)})`)
    this.offset = offset
  }
}

export const fdtNode = (
  properties: Record<string, Uint8Array> = {},
  children: Record<string, FdtNode> = {},
): FdtNode => ({ properties, children })

/** 32-bit big-endian cells. */
export function cells(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(4 * values.length)
  const view = new DataView(bytes.buffer)
  values.forEach((value, i) => {
    view.setUint32(4 * i, value)
  })
  return bytes
}

/** 64-bit values, two cells each (`#address-cells` = `#size-cells` = 2). Numbers below 2^53. */
export const cells64 = (...values: number[]): Uint8Array =>
  cells(...values.flatMap((value) => [Math.floor(value / 2 ** 32), value >>> 0]))

/** Concatenates values of different widths into one property. */
export function joined(...parts: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/** One string, or a list of them, each NUL terminated. */
export const text = (...strings: string[]): Uint8Array =>
  new TextEncoder().encode(strings.map((s) => `${s}\0`).join(''))

/** A property whose presence is its value. */
export const flag = (): Uint8Array => new Uint8Array(0)

const align4 = (n: number): number => (n + 3) & ~3

/** @returns the blob, version 17, exactly as long as its `totalsize` says */
export function flattenDeviceTree(root: FdtNode, bootCpu = 0): Uint8Array {
  const encoder = new TextEncoder()
  const names = new Map<string, number>()
  const nameBytes: Uint8Array[] = []
  let stringsBytes = 0
  const nameOffset = (name: string): number => {
    let offset = names.get(name)
    if (offset === undefined) {
      offset = stringsBytes
      const bytes = encoder.encode(`${name}\0`)
      names.set(name, offset)
      nameBytes.push(bytes)
      stringsBytes += bytes.length
    }
    return offset
  }
  const structure: Uint8Array[] = []
  const padded = (bytes: Uint8Array): Uint8Array => {
    const out = new Uint8Array(align4(bytes.length))
    out.set(bytes)
    return out
  }
  const emit = (name: string, node: FdtNode): void => {
    structure.push(cells(BEGIN_NODE), padded(encoder.encode(`${name}\0`)))
    for (const [key, value] of Object.entries(node.properties)) {
      structure.push(cells(PROP, value.length, nameOffset(key)), padded(value))
    }
    for (const [childName, child] of Object.entries(node.children)) emit(childName, child)
    structure.push(cells(END_NODE))
  }
  emit('', root)
  structure.push(cells(END))
  const structBytes = structure.reduce((sum, part) => sum + part.length, 0)
  const structAt = HEADER_BYTES + RESERVE_MAP_BYTES
  const stringsAt = structAt + structBytes
  const header = cells(
    MAGIC,
    stringsAt + stringsBytes,
    structAt,
    stringsAt,
    HEADER_BYTES,
    VERSION,
    LAST_COMPATIBLE_VERSION,
    bootCpu,
    stringsBytes,
    structBytes,
  )
  return joined(header, new Uint8Array(RESERVE_MAP_BYTES), ...structure, ...nameBytes)
}

/** @throws DeviceTreeFormatError at the first thing that does not fit */
export function parseDeviceTree(blob: Uint8Array): FdtNode {
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength)
  const fail = (message: string, offset: number): never => {
    throw new DeviceTreeFormatError(message, offset)
  }
  if (blob.length < HEADER_BYTES || view.getUint32(0) !== MAGIC) fail('no device tree header', 0)
  const total = view.getUint32(4)
  const stringsAt = view.getUint32(12)
  const stringsEnd = stringsAt + view.getUint32(32)
  let at = view.getUint32(8)
  const structEnd = at + view.getUint32(36)
  if (total > blob.length || stringsEnd > total || structEnd > total) fail('a part ends beyond the blob', 4)
  const word = (): number => {
    if (at + 4 > structEnd) fail('structure ends in the middle of a token', at)
    at += 4
    return view.getUint32(at - 4)
  }
  const stringAt = (from: number, limit: number): string => {
    const end = blob.indexOf(0, from)
    if (from >= limit || end < 0 || end >= limit) fail('a name has no end', from)
    return new TextDecoder().decode(blob.subarray(from, end))
  }
  const node = (depth: number): FdtNode => {
    if (depth > MAX_DEPTH) fail(`more than ${MAX_DEPTH} levels`, at)
    const result = fdtNode()
    for (;;) {
      const token = word()
      if (token === PROP) {
        const length = word()
        const name = stringAt(stringsAt + word(), stringsEnd)
        if (at + length > structEnd) fail(`property ${name} of ${length} bytes ends beyond the structure`, at)
        result.properties[name] = blob.slice(at, at + length)
        at += align4(length)
      } else if (token === BEGIN_NODE) {
        const name = stringAt(at, structEnd)
        at += align4(new TextEncoder().encode(name).length + 1)
        result.children[name] = node(depth + 1)
      } else if (token === END_NODE) return result
      else if (token !== NOP) fail(`unknown token ${token}`, at - 4)
    }
  }
  while (view.byteLength >= at + 4 && view.getUint32(at) === NOP) at += 4
  if (word() !== BEGIN_NODE || stringAt(at, structEnd) !== '') fail('no root node', at - 4)
  at += 4
  const root = node(0)
  if (word() !== END) fail('something follows the root node', at - 4)
  return root
}
