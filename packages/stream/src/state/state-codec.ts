import type { FieldDescription, VmstateDescription } from '@ferryvm/core'
import { StreamFormatError } from '@ferryvm/core'
import { ByteBuilder } from '../source/byte-sink.ts'
import {
  type FieldNode,
  isBytes,
  isStateNode,
  leafOf,
  leafType,
  type Runs,
  type StateNode,
  type Value,
} from './state-node.ts'
import { virtioLayout } from './virtio-layout.ts'

/** Structs in structs, as deep as anything real and no deeper. */
const MAX_DEPTH = 64
/** Arrays beyond this are bytes: an object per element would cost many times the input. */
const MAX_ELEMENTS = 1 << 20
const utf8 = new TextDecoder()
const encoder = new TextEncoder()

/**
 * Reads a section's payload as its description says. Every byte ends up in the result: {@link encodeState} gives them back.
 * @param base stream offset of the payload, for messages
 * @throws StreamFormatError description and bytes do not belong together
 */
export function decodeState(payload: Uint8Array, layout: VmstateDescription, base = 0): StateNode {
  const reader = new PayloadReader(payload, base)
  const node = reader.node(layout, payload.length, 0)
  if (reader.at !== payload.length)
    reader.fail(`the description covers ${reader.at} of the section's ${payload.length} bytes`)
  return node
}

/** A payload nobody describes. */
export const opaqueState = (payload: Uint8Array): StateNode => ({
  name: '',
  version: 0,
  fields: [{ name: 'data', type: 'buffer', offset: 0, bytes: payload.length, values: [payload.slice()] }],
  subsections: [],
})

class PayloadReader {
  readonly #payload: Uint8Array
  readonly #view: DataView
  readonly #base: number
  #copy: Uint8Array | undefined
  at = 0

  constructor(payload: Uint8Array, base: number) {
    this.#payload = payload
    this.#view = new DataView(payload.buffer, payload.byteOffset, payload.length)
    this.#base = base
  }

  fail(message: string): never {
    throw new StreamFormatError(this.#base + this.at, message)
  }

  node(layout: VmstateDescription, end: number, depth: number): StateNode {
    if (depth > MAX_DEPTH) this.fail(`the description nests deeper than ${MAX_DEPTH} structs`)
    const fields: FieldNode[] = []
    for (let i = 0; i < layout.fields.length; ) {
      const first = layout.fields[i]!
      const run = indexedRun(layout.fields, i)
      fields.push(run > 0 ? this.#indexed(layout.fields.slice(i, i + run), end, depth) : this.#field(first, end, depth))
      i += Math.max(run, 1)
    }
    const subsections = (layout.subsections ?? []).map((sub) => this.#subsection(sub, end, depth))
    return { name: layout.vmsd_name, version: layout.version, fields, subsections }
  }

  #field(field: FieldDescription, end: number, depth: number): FieldNode {
    const offset = this.at
    const count = field.array_len ?? 1
    const bytes = field.size * count
    if (bytes > end - offset) this.fail(`${field.name}: ${bytes} bytes described, ${end - offset} are there`)
    // Elements without bytes would cost memory and no input.
    if (field.size === 0 && count > 1) this.fail(`${field.name}: ${count} elements of no size`)
    const values: Value[] = []
    if (count > MAX_ELEMENTS) {
      this.at += bytes
      values.push(this.#payload.slice(offset, this.at))
      return { name: field.name, type: 'buffer', offset, bytes, values }
    }
    if (count > 1 && field.struct && isFixed(field, 0)) return this.#later(field, count, depth)
    for (let i = 0; i < count; i++) values.push(this.#value(field, depth))
    const packed = field.array_len !== undefined && { array: 'packed' as const }
    return { name: field.name, type: field.type, offset, bytes, values, ...packed }
  }

  /**
   * Elements that nothing can be wrong with become objects when somebody looks: a virtio device has a thousand queues,
   * hardly one of them in use.
   */
  #later(field: FieldDescription, count: number, depth: number): FieldNode {
    const { name, type, size } = field
    const offset = this.at
    this.at += size * count
    // The payload is borrowed; what is read later reads a copy.
    const bytes = (this.#copy ??= this.#payload.slice())
    const reader = new PayloadReader(bytes, this.#base)
    const element = (i: number): Value => {
      reader.at = offset + i * size
      return reader.#value(field, depth)
    }
    let values: Value[] | undefined
    const later: FieldNode = {
      name,
      type,
      offset,
      bytes: size * count,
      get values() {
        return (values ??= Array.from({ length: count }, (_, i) => element(i)))
      },
      array: 'packed',
    }
    const runs = (): Runs | undefined =>
      values ? undefined : runsOf(bytes, offset, size, count).map((r) => ({ value: element(r.first), count: r.count }))
    // Two fields are equal when their values are: not enumerable.
    return Object.defineProperty(later, 'runs', { value: runs })
  }

  #indexed(fields: readonly FieldDescription[], end: number, depth: number): FieldNode {
    const offset = this.at
    const values = fields.map((field) => {
      if (field.size > end - this.at)
        this.fail(`${field.name}: ${field.size} bytes described, ${end - this.at} are there`)
      return this.#value(field, depth)
    })
    const { name, type } = fields[0]!
    return { name, type, offset, bytes: this.at - offset, values, array: 'indexed' }
  }

  #value(field: FieldDescription, depth: number): Value {
    const { type, size, struct, inline } = field
    const start = this.at
    const end = start + size
    const nested = (layout: VmstateDescription) => this.node(layout, end, depth + 1)
    const done = <T extends Value>(value: T): T => {
      if (this.at !== end) this.fail(`${field.name}: ${size} bytes described, its parts have ${this.at - start}`)
      return value
    }
    if (struct) return done(nested(struct))
    if (type === 'qtailq' || type === 'qlist') {
      const items = (inline ?? []).map((layout) => {
        this.#expectByte(1, end, field.name)
        return nested(layout)
      })
      this.#expectByte(0, end, field.name)
      return done({ kind: 'list', items })
    }
    if (type === 'gtree') return done(this.#tree(field, end, depth))
    if (inline?.length === 1) return done(nested(inline[0]!))
    const leaf = leafType(type, size)
    if (type === 'virtio') {
      const layout = virtioLayout(this.#payload.subarray(start, end))
      if (layout) return done(nested(layout))
    }
    this.at = end
    return leaf ? leaf.get(this.#view, start) : this.#payload.slice(start, end)
  }

  #tree({ name, inline = [] }: FieldDescription, end: number, depth: number): Value {
    if (end - this.at < 4) this.fail(`${name}: no room for a count`)
    const count = this.#view.getUint32(this.at)
    this.at += 4
    const described = inline.length === 2 * count && count > 0
    if (!described && inline.length !== count) this.fail(`${name}: ${count} nodes, ${inline.length} descriptions`)
    const nodes = Array.from({ length: count }, (_, i) => {
      this.#expectByte(1, end, name)
      if (described) {
        const key = this.node(inline[2 * i]!, end, depth + 1)
        return { key, value: this.node(inline[2 * i + 1]!, end, depth + 1) }
      }
      if (end - this.at < 8) this.fail(`${name}: no room for a key`)
      const key = this.#view.getBigUint64(this.at)
      this.at += 8
      return { key, value: this.node(inline[i]!, end, depth + 1) }
    })
    this.#expectByte(0, end, name)
    return { kind: 'tree', nodes }
  }

  #subsection(layout: VmstateDescription, end: number, depth: number): StateNode {
    const name = encoder.encode(layout.vmsd_name)
    const header = 6 + name.length
    if (end - this.at < header) this.fail(`subsection ${layout.vmsd_name}: the section ends before it`)
    const found = this.#payload.subarray(this.at + 2, this.at + 2 + name.length)
    const same = this.#payload[this.at] === 5 && this.#payload[this.at + 1] === name.length
    if (!same || !name.every((byte, i) => found[i] === byte))
      this.fail(`subsection ${layout.vmsd_name} is described, "${utf8.decode(found)}" is there`)
    const version = this.#view.getUint32(this.at + 2 + name.length)
    if (version !== layout.version)
      this.fail(`subsection ${layout.vmsd_name}: version ${layout.version} is described, ${version} is there`)
    this.at += header
    return this.node(layout, end, depth + 1)
  }

  #expectByte(byte: number, end: number, name: string): void {
    if (this.at >= end || this.#payload[this.at] !== byte) this.fail(`${name}: byte ${byte} of a list was expected`)
    this.at++
  }
}

/** Elements of `size` bytes from `offset` on that are as the one before them. */
function runsOf(bytes: Uint8Array, offset: number, size: number, count: number): { first: number; count: number }[] {
  const runs: { first: number; count: number }[] = []
  let first = 0
  for (let i = 1; i <= count; i++) {
    const at = offset + i * size
    if (i < count) {
      let same = 0
      while (same < size && bytes[at + same] === bytes[at + same - size]) same++
      if (same === size) continue
    }
    runs.push({ first, count: i - first })
    first = i
  }
  return runs
}

/** Whether the bytes of an element can be anything: no list, no subsection, and sizes that add up. */
function isFixed({ type, size, struct, inline, index }: FieldDescription, depth: number): boolean {
  if (index !== undefined || inline || type === 'qtailq' || type === 'qlist' || type === 'gtree' || type === 'virtio')
    return false
  if (!struct) return true
  if (depth > MAX_DEPTH || (struct.subsections && struct.subsections.length > 0)) return false
  let sum = 0
  for (const field of struct.fields) {
    const count = field.array_len ?? 1
    if ((field.size === 0 && count > 1) || count > MAX_ELEMENTS || !isFixed(field, depth + 1)) return false
    sum += field.size * count
  }
  return sum === size
}

/** Elements that are described one by one: `index` 0, 1, ...; the last may lack it (10.0). */
function indexedRun(fields: readonly FieldDescription[], from: number): number {
  const { name, index } = fields[from]!
  if (index !== 0) return 0
  let to = from + 1
  while (to < fields.length && fields[to]!.name === name && fields[to]!.index === to - from) to++
  const last = fields[to]
  if (last?.name === name && last.index === undefined) to++
  return to - from
}

/** The payload of a section; what {@link decodeState} read. */
export function encodeState(node: StateNode): Uint8Array {
  const out = new ByteBuilder()
  putNode(node, out)
  return out.bytes()
}

function putNode(node: StateNode, out: ByteBuilder): void {
  for (const field of node.fields) {
    for (const value of field.values) putValue(value, field.type, out)
  }
  for (const sub of node.subsections) {
    out.u8(5)
    out.str8(encoder.encode(sub.name))
    out.u32(sub.version)
    putNode(sub, out)
  }
}

function putValue(value: Value, type: string, out: ByteBuilder): void {
  if (isBytes(value)) out.put(value)
  else if (isStateNode(value)) putNode(value, out)
  else if (typeof value !== 'object') {
    const { bytes } = leafOf(type)!
    if (bytes === 8) out.u64(BigInt.asUintN(64, BigInt(value)))
    else if (bytes === 4) out.u32(Number(value))
    else if (bytes === 2) out.u16(Number(value))
    else out.u8(Number(value))
  } else if (value.kind === 'list') {
    for (const item of value.items) {
      out.u8(1)
      putNode(item, out)
    }
    out.u8(0)
  } else {
    out.u32(value.nodes.length)
    for (const { key, value: v } of value.nodes) {
      out.u8(1)
      if (typeof key === 'bigint') out.u64(key)
      else putNode(key, out)
      putNode(v, out)
    }
    out.u8(0)
  }
}
