/**
 * JSON as a tree of pairs. The description of a stream repeats keys within one object (lists do), so JSON.parse would lose
 * state; it may be cut short, and then what came before the cut still counts. Spec: stream.md section 6.
 */
export type JsonNode = JsonObject | JsonArray | string | number | boolean | null
export interface JsonObject {
  readonly kind: 'object'
  readonly pairs: (readonly [key: string, value: JsonNode])[]
  /** Range in the text. */
  readonly start: number
  readonly end: number
  /** The text ended inside. */
  readonly cut: boolean
}
export interface JsonArray {
  readonly kind: 'array'
  readonly items: JsonNode[]
}

/** Deeper than any device nests its structs. */
const MAX_DEPTH = 100

export interface ParsedJson {
  readonly root: JsonNode | undefined
  /** Where and why reading stopped, if it did before the end. */
  readonly problem?: { readonly at: number; readonly message: string }
}

class Stop extends Error {
  readonly at: number
  constructor(at: number, message: string) {
    super(message)
    this.at = at
  }
}

/** Never throws: what is wrong is in `problem`, what came before it in `root`. */
export function parseJson(text: string): ParsedJson {
  let at = 0
  let problem: ParsedJson['problem']
  const stop = (message: string): never => {
    throw new Stop(at, at >= text.length ? 'the text ends too early' : message)
  }
  const blank = (): void => {
    for (; at < text.length; at++) {
      const c = text.charCodeAt(at)
      if (c !== 0x20 && c !== 0x0a && c !== 0x0d && c !== 0x09) return
    }
  }
  const string = (): string => {
    let close = text.indexOf('"', at + 1)
    while (close > 0 && text[close - 1] === '\\' && backslashesBefore(text, close) % 2 === 1)
      close = text.indexOf('"', close + 1)
    if (close < 0) {
      at = text.length
      return stop('')
    }
    const raw = text.slice(at, close + 1)
    try {
      const value = raw.includes('\\') ? (JSON.parse(raw) as string) : raw.slice(1, -1)
      at = close + 1
      return value
    } catch {
      return stop('a string cannot be read')
    }
  }
  /** Containers are handed to their parent before they are complete: that is what survives a cut. */
  const value = (depth: number, give: (node: JsonNode) => void): void => {
    if (depth > MAX_DEPTH) stop(`nested deeper than ${MAX_DEPTH}`)
    blank()
    const c = text[at]
    if (c === '{') {
      const node = {
        kind: 'object' as const,
        pairs: [] as [string, JsonNode][],
        start: at,
        end: text.length,
        cut: true,
      }
      give(node)
      at++
      list('}', () => {
        if (text[at] !== '"') stop('a key was expected')
        const key = string()
        blank()
        if (text[at] !== ':') stop('":" was expected')
        at++
        value(depth + 1, (v) => node.pairs.push([key, v]))
      })
      node.end = at
      node.cut = false
    } else if (c === '[') {
      const node = { kind: 'array' as const, items: [] as JsonNode[] }
      give(node)
      at++
      list(']', () => value(depth + 1, (v) => node.items.push(v)))
    } else if (c === '"') give(string())
    else {
      LITERAL.lastIndex = at
      const match = LITERAL.exec(text)
      if (!match) throw new Stop(at, at >= text.length ? 'the text ends too early' : 'a value was expected')
      if (at + match[0].length === text.length && depth > 0) stop('')
      at += match[0].length
      give(JSON.parse(match[0]) as number | boolean | null)
    }
  }
  const list = (close: string, item: () => void): void => {
    blank()
    if (text[at] === close) {
      at++
      return
    }
    for (;;) {
      blank()
      item()
      blank()
      if (text[at] === ',') at++
      else if (text[at] === close) {
        at++
        return
      } else stop(`"," or "${close}" was expected`)
    }
  }

  let root: JsonNode | undefined
  try {
    value(0, (node) => {
      root = node
    })
    blank()
    if (at < text.length) problem = { at, message: 'something follows the JSON' }
  } catch (error) {
    if (!(error instanceof Stop)) throw error
    problem = { at: error.at, message: error.message }
  }
  return { root, ...(problem && { problem }) }
}

const LITERAL = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y

function backslashesBefore(text: string, at: number): number {
  let count = 0
  while (text[at - 1 - count] === '\\') count++
  return count
}

export const asObject = (node: JsonNode | undefined): JsonObject | undefined =>
  typeof node === 'object' && node !== null && node.kind === 'object' ? node : undefined
export const asArray = (node: JsonNode | undefined): JsonArray | undefined =>
  typeof node === 'object' && node !== null && node.kind === 'array' ? node : undefined
/** The first value with that key. */
export const member = (node: JsonObject, key: string): JsonNode | undefined => node.pairs.find(([k]) => k === key)?.[1]
