import { UserObjectError } from '../errors.ts'

export interface ObjectRequest {
  readonly type: string
  readonly id: string
  readonly properties: Readonly<Record<string, unknown>>
}

const MAX_TEXT_LENGTH = 1 << 20
const MAX_INDEX = 10_000

/**
 * As after `-object` or `object_add`: `type,id=I,a=b,c.0.d=e` (a doubled comma is a comma, dots make arrays and objects), or JSON
 * with `qom-type` and `id`.
 * @throws UserObjectError
 */
export function parseObjectText(text: string): ObjectRequest {
  if (text.length > MAX_TEXT_LENGTH) throw new UserObjectError(`the text has ${text.length} characters`)
  if (text.trimStart().startsWith('{')) {
    let value: Record<string, unknown>
    try {
      value = JSON.parse(text)
    } catch (cause) {
      throw new UserObjectError(`-object: no JSON: ${(cause as Error).message}`, { cause })
    }
    const { 'qom-type': type, id, ...properties } = value
    return request(type, id, properties)
  }
  const root: Tree = new Map()
  for (const [index, item] of splitItems(text).entries()) {
    const equals = item.indexOf('=')
    const [key, value] =
      equals >= 0 ? [item.slice(0, equals), item.slice(equals + 1)] : index === 0 ? ['qom-type', item] : [item, 'on']
    put(root, key, value)
  }
  const { 'qom-type': type, id, ...properties } = plain(root) as Record<string, unknown>
  return request(type, id, properties)
}

function request(type: unknown, id: unknown, properties: Record<string, unknown>): ObjectRequest {
  if (typeof type !== 'string' || type === '') throw new UserObjectError('-object: the type is missing')
  if (typeof id !== 'string' || id === '') throw new UserObjectError(`-object ${type}: id= is missing`)
  return { type, id, properties }
}

function splitItems(text: string): string[] {
  const items: string[] = []
  let item = ''
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== ',') item += text[i]
    else if (text[i + 1] === ',') {
      item += ','
      i++
    } else {
      items.push(item)
      item = ''
    }
  }
  items.push(item)
  return items.filter((it) => it !== '')
}

type Tree = Map<string, Tree | string>

function put(root: Tree, key: string, value: string): void {
  let at = root
  const parts = key.split('.')
  const last = parts.pop()!
  for (const part of parts) {
    const next = at.get(part) ?? new Map()
    if (typeof next === 'string') throw new UserObjectError(`-object: "${key}": "${part}" has a value already`)
    at.set(part, next)
    at = next
  }
  if (last === '' || parts.includes('')) throw new UserObjectError(`-object: "${key}=${value}" has no name`)
  if (at.has(last)) throw new UserObjectError(`-object: "${key}" is given twice`)
  at.set(last, value)
}

/** Keys 0, 1, 2 … make an array. */
function plain(tree: Tree | string): unknown {
  if (typeof tree === 'string') return tree
  const keys = [...tree.keys()]
  if (keys.length > 0 && keys.every((key) => /^\d+$/.test(key))) {
    const indexes = keys.map(Number).sort((a, b) => a - b)
    if (indexes.length > MAX_INDEX || indexes.some((value, index) => value !== index)) {
      throw new UserObjectError(
        `-object: the items of an array are numbered 0, 1, 2 …, not ${indexes.slice(0, 5).join(', ')}`,
      )
    }
    return indexes.map((index) => plain(tree.get(String(index))!))
  }
  return Object.fromEntries(keys.map((key) => [key, plain(tree.get(key)!)]))
}
