import type { FieldDescription, VmstateDescription } from '@ferryvm/core'
import { asArray, asObject, type JsonNode, type JsonObject, member, parseJson } from './json-tree.ts'

/** One FULL section as its sender described it. */
export interface DeviceDescription {
  readonly name: string
  readonly instanceId: number
  /** Opaque sections have one field, `data`, and no name of a vmstate. */
  readonly vmsdName?: string
  readonly version?: number
  readonly layout: VmstateDescription
  /** Bytes of the payload. */
  readonly bytes: number
  /** The text it came from, so that it can leave unchanged. */
  readonly text: string
}

/** The JSON after the end of a stream. */
export interface StreamDescription {
  readonly pageBytes?: number
  readonly configurationText?: string
  readonly devices: readonly DeviceDescription[]
  /** What is wrong with the text, and where in it. */
  readonly problem?: { readonly at: number; readonly message: string }
}

/** Largest description that is looked at: 40 KB is common, some megabytes where there are hundreds of CPUs. */
export const MAX_DESCRIPTION_BYTES = 1 << 24

/** Takes what can be understood; devices that are incomplete are left out. */
export function parseDescription(text: string): StreamDescription {
  const { root, problem: syntax } = parseJson(text)
  const top = asObject(root)
  if (!top) return { devices: [], problem: syntax ?? { at: 0, message: 'the description is not a JSON object' } }
  let problem = syntax
  const devices: DeviceDescription[] = []
  for (const item of asArray(member(top, 'devices'))?.items ?? []) {
    const node = asObject(item)
    const device = node && !node.cut ? deviceOf(node, text) : undefined
    if (device) devices.push(device)
    else problem ??= { at: node?.start ?? 0, message: 'the description of a device cannot be understood' }
  }
  const configuration = asObject(member(top, 'configuration'))
  const pageBytes = member(top, 'page_size')
  return {
    ...(typeof pageBytes === 'number' && isPageSize(pageBytes) && { pageBytes }),
    ...(configuration && { configurationText: text.slice(configuration.start, configuration.end) }),
    devices,
    ...(problem && { problem }),
  }
}

export const isPageSize = (bytes: number): boolean =>
  Number.isInteger(bytes) && bytes >= 1024 && bytes <= 1 << 20 && (bytes & (bytes - 1)) === 0

function deviceOf(node: JsonObject, text: string): DeviceDescription | undefined {
  const name = member(node, 'name')
  const instanceId = member(node, 'instance_id')
  const groups = groupsOf(node)
  if (typeof name !== 'string' || typeof instanceId !== 'number') return undefined
  const raw = text.slice(node.start, node.end)
  if (groups?.length === 1) {
    const layout = groups[0]!
    const bytes = bytesOf(layout)
    return { name, instanceId, vmsdName: layout.vmsd_name, version: layout.version, layout, bytes, text: raw }
  }
  const size = member(node, 'size')
  if (!isCount(size)) return undefined
  const layout = { vmsd_name: '', version: 0, fields: [{ name: 'data', type: 'buffer', size }] }
  return { name, instanceId, layout, bytes: size, text: raw }
}

const isCount = (node: JsonNode | undefined): node is number =>
  typeof node === 'number' && Number.isSafeInteger(node) && node >= 0

/** vmsd_name, version, fields and subsections, as often as they are there; undefined where they make no sense. */
function groupsOf(node: JsonObject): VmstateDescription[] | undefined {
  const groups: {
    vmsd_name: string
    version: number
    fields: FieldDescription[]
    subsections?: VmstateDescription[]
  }[] = []
  for (const [key, value] of node.pairs) {
    const last = groups.at(-1)
    if (key === 'vmsd_name') {
      if (typeof value !== 'string') return undefined
      groups.push({ vmsd_name: value, version: 0, fields: [] })
    } else if (key === 'version' && last) {
      if (!isCount(value)) return undefined
      last.version = value
    } else if (key === 'fields' && last) {
      const fields = asArray(value)?.items.map(fieldOf)
      if (!fields || fields.includes(undefined)) return undefined
      last.fields = fields as FieldDescription[]
    } else if (key === 'subsections' && last) {
      const subsections = asArray(value)?.items.map((item) => {
        const object = asObject(item)
        const nested = object && groupsOf(object)
        return nested?.length === 1 ? nested[0] : undefined
      })
      if (!subsections || subsections.includes(undefined)) return undefined
      last.subsections = subsections as VmstateDescription[]
    }
  }
  return groups
}

function fieldOf(item: JsonNode): FieldDescription | undefined {
  const node = asObject(item)
  if (!node) return undefined
  let name: string | undefined
  let type: string | undefined
  let size: number | undefined
  let arrayLen: number | undefined
  let index: number | undefined
  let struct: VmstateDescription | undefined
  let described = false
  // One pass, the first value of a key counts: there are thousands of fields.
  for (const [key, value] of node.pairs) {
    if (key === 'name') {
      if (typeof value !== 'string') return undefined
      name ??= value
    } else if (key === 'type') {
      if (typeof value !== 'string') return undefined
      type ??= value
    } else if (key === 'size' || key === 'array_len' || key === 'index') {
      if (!isCount(value)) return undefined
      if (key === 'size') size ??= value
      else if (key === 'index') index ??= value
      else arrayLen ??= value
    } else if (key === 'struct') {
      const object = asObject(value)
      const nested = object && groupsOf(object)
      if (nested?.length !== 1) return undefined
      struct ??= nested[0]
    } else if (key === 'vmsd_name') described = true
  }
  const inline = described ? groupsOf(node) : undefined
  if (name === undefined || type === undefined || size === undefined || (described && !inline)) return undefined
  return {
    name,
    ...(arrayLen !== undefined && { array_len: arrayLen }),
    ...(index !== undefined && { index }),
    type,
    ...(struct && { struct }),
    ...(inline && { inline }),
    size,
  }
}

/** Payload bytes: fields, then subsections with their headers. */
export function bytesOf(layout: VmstateDescription): number {
  let sum = 0
  for (const field of layout.fields) sum += field.size * (field.array_len ?? 1)
  for (const sub of layout.subsections ?? []) sum += subsectionHeaderBytes(sub.vmsd_name) + bytesOf(sub)
  return sum
}
/** 05, length byte, name, be32 version. Spec: vmstate.md section 6. */
export const subsectionHeaderBytes = (name: string): number => 6 + utf8.encode(name).length
const utf8 = new TextEncoder()

const QUOTES = [`{"page_size"`, `{ "page_size"`, `{"configuration"`, `{ "configuration"`].map((s) => utf8.encode(s))

/**
 * Offset of the element byte (06) of the description in the last bytes of a stream, or -1. Its length must lead to the
 * end; if none does, one that starts like a description will do: the stream may be cut, or have something behind it.
 */
export function findDescription(tail: Uint8Array): number {
  if (tail.length < 6) return -1
  const view = new DataView(tail.buffer, tail.byteOffset, tail.length)
  const starts = (at: number): boolean => QUOTES.some((quote) => quote.every((byte, i) => tail[at + i] === byte))
  for (let at = tail.lastIndexOf(6, tail.length - 6); at >= 0; at = at > 0 ? tail.lastIndexOf(6, at - 1) : -1) {
    if (view.getUint32(at + 1) === tail.length - at - 5 && tail[at + 5] === 0x7b) return at
    if (starts(at + 5)) return at
  }
  return -1
}

/** Whether a description is there as a whole, and nothing behind it. */
export function endsWithDescription(bytes: Uint8Array): boolean {
  if (bytes.at(-1) !== 0x7d) return false
  const at = findDescription(bytes)
  if (at < 0) return false
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at + 1) === bytes.length - at - 5
}
