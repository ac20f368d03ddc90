import type { FieldDescription, VmstateDescription } from '@ferryvm/core'

/** State of a section, struct or subsection: what its description names, with values. */
export interface StateNode {
  /** Name of the vmstate; empty for opaque sections. */
  readonly name: string
  readonly version: number
  readonly fields: FieldNode[]
  readonly subsections: StateNode[]
}

/** Integers of up to 32 bits are numbers, those of 64 bits bigints. */
export type Scalar = number | bigint | boolean
export type Value = Scalar | Uint8Array | StateNode | ListValue | TreeValue
/** qtailq, qlist. */
export interface ListValue {
  readonly kind: 'list'
  readonly items: StateNode[]
}
/** gtree; a bigint key is one that travels as eight bytes without a description. */
export interface TreeValue {
  readonly kind: 'tree'
  readonly nodes: { readonly key: StateNode | bigint; readonly value: StateNode }[]
}

export type Runs = readonly { readonly value: Value; readonly count: number }[]

export interface FieldNode {
  readonly name: string
  /** As the description names it: `uint32`, `struct`, `timer`, `pci config`. */
  readonly type: string
  /** In the payload of the section. */
  readonly offset: number
  readonly bytes: number
  /** One, unless `array`. */
  readonly values: Value[]
  /**
   * Packed structs: elements that follow each other and are the same byte for byte, as one value. Undefined once somebody has
   * asked for `values`, and may have changed them.
   */
  runs?(): Runs | undefined
  /** `packed`: one description stands for all elements; `indexed`: each element has its own. */
  readonly array?: 'packed' | 'indexed'
}

export const isStateNode = (value: Value | undefined): value is StateNode =>
  typeof value === 'object' && value !== null && 'fields' in value
export const isBytes = (value: Value): value is Uint8Array => value instanceof Uint8Array

/** Encodings of leaf types; what is not here is bytes. Spec: vmstate.md section 7. */
export interface LeafType {
  readonly bytes: number
  get(view: DataView, at: number): Scalar
  /** Inclusive bounds of integers; none for bool. */
  readonly range?: readonly [bigint, bigint]
}
const GETTERS: Readonly<Record<string, LeafType['get']>> = {
  i1: (view, at) => view.getInt8(at),
  u1: (view, at) => view.getUint8(at),
  i2: (view, at) => view.getInt16(at),
  u2: (view, at) => view.getUint16(at),
  i4: (view, at) => view.getInt32(at),
  u4: (view, at) => view.getUint32(at),
  i8: (view, at) => view.getBigInt64(at),
  u8: (view, at) => view.getBigUint64(at),
}
const integer = (bytes: 1 | 2 | 4 | 8, signed: boolean): LeafType => {
  const bits = BigInt(bytes * 8)
  return {
    bytes,
    get: GETTERS[`${signed ? 'i' : 'u'}${bytes}`]!,
    range: signed ? [-(1n << (bits - 1n)), (1n << (bits - 1n)) - 1n] : [0n, (1n << bits) - 1n],
  }
}
const LEAVES = new Map<string, LeafType>([
  [
    'bool',
    {
      bytes: 1,
      // Any byte but 0 means true; one that is not 1 is kept as it came.
      get: (view, at) => (view.getUint8(at) > 1 ? view.getUint8(at) : view.getUint8(at) === 1),
    },
  ],
  ['int8', integer(1, true)],
  ['uint8', integer(1, false)],
  ['int16', integer(2, true)],
  ['uint16', integer(2, false)],
  ['int32', integer(4, true)],
  ['int32 le', integer(4, true)],
  ['uint32', integer(4, false)],
  ['int64', integer(8, true)],
  ['uint64', integer(8, false)],
  ['timer', integer(8, true)],
  ['CPU_Double_U', integer(8, false)],
  ['float64', integer(8, false)],
  ['nullptr', integer(1, false)],
])
for (const [name, leaf] of [...LEAVES]) LEAVES.set(`${name} equal`, leaf)
/** @param size as described; a type of another size than ours is bytes */
export function leafType(type: string, size: number): LeafType | undefined {
  const leaf = leafOf(type)
  return leaf?.bytes === size ? leaf : undefined
}
export const leafOf = (type: string): LeafType | undefined => LEAVES.get(type)

/** The description of a node, for the JSON after the stream. `style`: whose habit. Spec: stream.md section 6. */
export function describeNode(node: StateNode, style: '7.2' | '10.0'): VmstateDescription {
  const fields = node.fields.flatMap((field) => describeField(field, style))
  const head = { vmsd_name: node.name, version: node.version, fields }
  return node.subsections.length > 0
    ? { ...head, subsections: node.subsections.map((sub) => describeNode(sub, style)) }
    : head
}

function describeField({ name, type, bytes, values, array }: FieldNode, style: '7.2' | '10.0'): FieldDescription[] {
  const one = (value: Value, head: Partial<FieldDescription>, size: number): FieldDescription => {
    const nested: { struct?: VmstateDescription; inline?: VmstateDescription[] } = {}
    if (isStateNode(value)) {
      if (type === 'struct') nested.struct = describeNode(value, style)
      // QEMU does not describe what is in a virtio field; we know.
      else if (type !== 'virtio') nested.inline = [describeNode(value, style)]
    } else if (typeof value === 'object' && 'kind' in value) {
      nested.inline =
        value.kind === 'list'
          ? value.items.map((item) => describeNode(item, style))
          : value.nodes.flatMap(({ key, value: v }) =>
              (typeof key === 'bigint' ? [v] : [key, v]).map((n) => describeNode(n, style)),
            )
    }
    return { name, ...head, type, ...nested, size }
  }
  if (!array) return [one(values[0]!, {}, bytes)]
  if (array === 'packed')
    return [one(values[0]!, values.length > 1 ? { array_len: values.length } : {}, bytes / values.length)]
  return values.map((value, index) =>
    one(value, style === '10.0' && index === values.length - 1 ? {} : { index }, nodeValueBytes(value, type)),
  )
}

/** Bytes of one element of an indexed array. */
function nodeValueBytes(value: Value, type: string): number {
  if (isBytes(value)) return value.length
  if (isStateNode(value)) return stateBytes(value)
  if (typeof value === 'object')
    return value.kind === 'list'
      ? 1 + value.items.reduce((sum, item) => sum + 1 + stateBytes(item), 0)
      : 5 +
          value.nodes.reduce(
            (sum, n) => sum + 1 + (typeof n.key === 'bigint' ? 8 : stateBytes(n.key)) + stateBytes(n.value),
            0,
          )
  return leafOf(type)?.bytes ?? 0
}
const utf8 = new TextEncoder()
/** Bytes of a node in the stream, with its subsections. */
export const stateBytes = (node: StateNode): number =>
  node.fields.reduce((sum, field) => sum + field.bytes, 0) +
  node.subsections.reduce((sum, sub) => sum + 6 + utf8.encode(sub.name).length + stateBytes(sub), 0)
