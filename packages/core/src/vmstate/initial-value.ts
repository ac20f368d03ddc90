import type { Row } from './row.ts'
import { scalars } from './scalars.ts'

const clone = (value: unknown): unknown =>
  typeof value === 'object' && value !== null ? structuredClone(value) : value

/** What a row contributes to a fresh state object. */
export function initialValue(row: Row): unknown {
  if (row.reset !== undefined) return clone(row.reset)
  const { array, element } = row
  if (!array) return initialElement(row)
  if (array.storage === 'typed' && element.kind === 'scalar') return new scalars[element.type].typed!(array.stateLength)
  return Array.from({ length: array.stateLength }, () => initialElement(row))
}

/** One element of a row: what an array is filled with, and what grows on load. */
export function initialElement({ element }: Row): unknown {
  switch (element.kind) {
    case 'scalar':
      return scalars[element.type].zero
    case 'timer':
      return { expireNs: -1n }
    case 'buffer':
      return new Uint8Array(element.stateBytes)
    case 'bitmap':
      return new BigUint64Array(
        Math.ceil((typeof element.size === 'number' ? element.size : (element.size.capacity ?? 0)) / 64),
      )
    case 'struct':
      return element.vmstate.createState()
    case 'list':
      return []
    case 'gtree':
      return element.key ? [] : new Map()
    case 'custom':
      return element.info.reset()
    default:
      return undefined
  }
}

type Holder = Record<PropertyKey, unknown>

/** Puts back the reset value, changing the objects that are there instead of replacing them. */
export function resetRow(row: Row, holder: Holder, key: PropertyKey): void {
  const { array, element, reset } = row
  const value = holder[key]
  if (value instanceof Map) {
    value.clear()
    return
  }
  if (ArrayBuffer.isView(value)) {
    const fresh = (reset ?? initialValue(row)) as ArrayLike<never> & { length: number }
    const target = value as unknown as { length: number; set(from: ArrayLike<never>): void }
    if (fresh.length === target.length) target.set(fresh)
    else holder[key] = clone(fresh)
    return
  }
  if (Array.isArray(value)) {
    const count = reset !== undefined ? (reset as unknown[]).length : array ? array.stateLength : 0
    if (array?.pointers && reset === undefined) {
      // Which pointers are null is how the machine was built, not state.
      for (let i = 0; i < value.length; i++) if (value[i] !== null) resetElement(row, value as unknown as Holder, i)
      return
    }
    value.length = Math.min(value.length, count)
    for (let i = 0; i < count; i++) {
      if (reset !== undefined) value[i] = clone((reset as unknown[])[i])
      else if (i < value.length) resetElement(row, value as unknown as Holder, i)
      else value.push(initialElement(row))
    }
    return
  }
  if (reset === undefined) resetElement(row, holder, key)
  else if (element.kind === 'timer') (value as { expireNs: bigint }).expireNs = (reset as { expireNs: bigint }).expireNs
  else if (element.kind === 'struct') Object.assign(value as object, clone(reset))
  else holder[key] = clone(reset)
}

function resetElement(row: Row, holder: Holder, key: PropertyKey): void {
  const { element } = row
  if (element.kind === 'struct') element.vmstate.resetState(holder[key])
  else if (element.kind === 'timer') (holder[key] as { expireNs: bigint }).expireNs = -1n
  else if (element.kind === 'buffer' && holder[key] instanceof Uint8Array) (holder[key] as Uint8Array).fill(0)
  else holder[key] = initialElement(row)
}
