import { StreamFieldError } from '../errors.ts'
import { type FieldNode, isBytes, isStateNode, leafType, type StateNode, type Value } from '../state/state-node.ts'

/** One value that can be shown, compared or set. */
export interface Leaf {
  /** `serial.ier`, `env.gpr[5]`, `cpu/hyper.env.hstatus` */
  readonly path: string
  readonly field: FieldNode
  /** In `field.values`. */
  readonly index: number
  readonly value: Exclude<Value, StateNode>
}

/** Every leaf of a section, in stream order. Lists and trees are leaves only where their elements are. */
export function* leavesOf(node: StateNode, prefix = ''): Generator<Leaf> {
  for (const field of node.fields) {
    for (const [index, value] of field.values.entries()) {
      const path = `${prefix}${field.name}${field.array ? `[${index}]` : ''}`
      if (isStateNode(value)) yield* leavesOf(value, `${path}.`)
      else if (typeof value === 'object' && !isBytes(value)) {
        if (value.kind === 'list') {
          for (const [i, item] of value.items.entries()) yield* leavesOf(item, `${path}[${i}].`)
        } else {
          for (const [i, { key, value: v }] of value.nodes.entries()) {
            if (typeof key !== 'bigint') yield* leavesOf(key, `${path}[${i}].key.`)
            yield* leavesOf(v, `${path}[${i}].value.`)
          }
        }
      } else yield { path, field, index, value }
    }
  }
  for (const sub of node.subsections) yield* leavesOf(sub, `${prefix}${sub.name}.`)
}

/**
 * The one leaf that a path means: in full, or an end of it that no other has (`ier` for `serial.ier`).
 * @throws StreamFieldError none, or several
 */
export function findLeaf(node: StateNode, path: string, section: string): Leaf {
  const found: Leaf[] = []
  for (const leaf of leavesOf(node)) {
    if (leaf.path === path) return leaf
    if (leaf.path.endsWith(`.${path}`)) found.push(leaf)
  }
  if (found.length === 1) return found[0]!
  if (found.length === 0) {
    const array = [...leavesOf(node)].some(
      (leaf) => leaf.path.startsWith(`${path}[`) || leaf.path.includes(`.${path}[`),
    )
    throw new StreamFieldError(
      `${section}: there is no field ${path}${array ? `; name one element, as in ${path}[0]` : ''}`,
    )
  }
  const names = found.slice(0, 5).map((leaf) => leaf.path)
  throw new StreamFieldError(
    `${section}: ${path} could be ${names.join(', ')}${found.length > 5 ? ', ...' : ''}; give more of it`,
  )
}

/**
 * A value for a field from text: integers decimal or 0x, bool true/false, timers `off`; bytes as hex of the same
 * length, or "text" that is padded with zeros.
 * @throws StreamFieldError it is not one
 */
export function parseValue(text: string, { field, value, path }: Leaf): Leaf['value'] {
  const size = field.array === 'indexed' ? 0 : field.bytes / field.values.length
  const fail = (why: string): never => {
    throw new StreamFieldError(`${path}: "${text}" ${why}`)
  }
  if (isBytes(value)) {
    const quoted = /^"(.*)"$/s.exec(text)
    if (quoted) {
      const bytes = new TextEncoder().encode(quoted[1])
      if (bytes.length > value.length) fail(`does not fit ${value.length} bytes`)
      const padded = new Uint8Array(value.length)
      padded.set(bytes)
      return padded
    }
    if (!/^(?:[0-9a-f]{2})*$/i.test(text)) fail('is neither bytes in hex nor "text" in quotes')
    if (text.length !== 2 * value.length) fail(`is ${text.length / 2} bytes; the field has ${value.length}`)
    return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))
  }
  if (field.type === 'bool') {
    if (text === 'true' || text === '1') return true
    if (text === 'false' || text === '0') return false
    return fail('is not true or false')
  }
  if (field.type === 'timer' && text === 'off') return -1n
  if (!/^-?(?:0x[0-9a-f]+|\d+)$/i.test(text)) fail('is not an integer')
  const integer = text.startsWith('-') ? -BigInt(text.slice(1)) : BigInt(text)
  const range = leafType(field.type, size)?.range ?? (typeof value === 'bigint' ? [0n, (1n << 64n) - 1n] : undefined)
  if (range && (integer < range[0]! || integer > range[1]!)) fail(`is out of range: ${range[0]} to ${range[1]}`)
  return typeof value === 'bigint' ? integer : Number(integer)
}
