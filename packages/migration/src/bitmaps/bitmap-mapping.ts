import { ParameterError } from '../errors.ts'

/** `block-bitmap-mapping`: which bitmaps go along, or may come, and under which names. Member names are the protocol's. */
export type BitmapMapping = readonly NodeMapping[]

export interface NodeMapping {
  readonly 'node-name': string
  /** In the stream. */
  readonly alias: string
  readonly bitmaps: readonly {
    readonly name: string
    /** In the stream. */
    readonly alias: string
    /** Of one that comes. */
    readonly transform?: { readonly persistent?: boolean }
  }[]
}

const MAX_ALIAS_BYTES = 255

/** @throws ParameterError */
export function checkBitmapMapping(value: unknown): BitmapMapping {
  const refuse = (problem: string): never => {
    const said = `Invalid mapping given for block-bitmap-mapping: ${problem}`
    throw new ParameterError('block-bitmap-mapping', problem, said)
  }
  const text = (of: Readonly<Record<string, unknown>>, member: string): string => {
    const found = of[member]
    return typeof found === 'string' ? found : refuse(`"${member}" is missing or no string`)
  }
  const object = (of: unknown): Readonly<Record<string, unknown>> =>
    typeof of === 'object' && of !== null ? (of as Readonly<Record<string, unknown>>) : refuse('it has no objects')
  const list = (of: unknown): readonly unknown[] => (Array.isArray(of) ? of : refuse('it is no list'))
  const checkAlias = (what: string, alias: string) => {
    if (new TextEncoder().encode(alias).length > MAX_ALIAS_BYTES)
      refuse(`The ${what} alias '${alias}' is longer than ${MAX_ALIAS_BYTES} bytes`)
  }
  const once = (seen: Set<string>, name: string, problem: string) => {
    if (seen.has(name)) refuse(problem)
    seen.add(name)
  }
  const nodes = new Set<string>()
  const aliases = new Set<string>()
  return list(value).map((entry) => {
    const node = object(entry)
    const name = text(node, 'node-name')
    const alias = text(node, 'alias')
    if (!/^[a-z][a-z0-9._-]*$/i.test(alias) && new TextEncoder().encode(alias).length <= MAX_ALIAS_BYTES)
      refuse(`The node alias '${alias}' is not well-formed`)
    checkAlias('node', alias)
    once(nodes, name, `The node name '${name}' is mapped twice`)
    once(aliases, alias, `The node alias '${alias}' is used twice`)
    const names = new Set<string>()
    const bitmapAliases = new Set<string>()
    const bitmaps = list(node.bitmaps).map((item) => {
      const bitmap = object(item)
      const bitmapName = text(bitmap, 'name')
      const bitmapAlias = text(bitmap, 'alias')
      checkAlias('bitmap', bitmapAlias)
      once(names, bitmapName, `The bitmap '${name}'/'${bitmapName}' is mapped twice`)
      once(bitmapAliases, bitmapAlias, `The bitmap alias '${alias}'/'${bitmapAlias}' is used twice`)
      if (bitmap.transform === undefined) return { name: bitmapName, alias: bitmapAlias }
      const { persistent } = object(bitmap.transform)
      if (persistent !== undefined && typeof persistent !== 'boolean') refuse('"persistent" is no truth value')
      return { name: bitmapName, alias: bitmapAlias, transform: { ...(persistent !== undefined && { persistent }) } }
    })
    return { 'node-name': name, alias, bitmaps } as NodeMapping
  })
}
