/**
 * `query-qmp-schema`: what clients may send and will get, from the definitions that validate it. Types have numbers for names,
 * as with QEMU: clients begin at a command or event and follow them.
 */
import type { z } from 'zod'

/** One entry. Member names are the protocol's. */
export type SchemaInfo = { readonly name: string } & (
  | { readonly 'meta-type': 'builtin'; readonly 'json-type': string }
  | {
      readonly 'meta-type': 'enum'
      readonly members: readonly { readonly name: string }[]
      readonly values: readonly string[]
    }
  | { readonly 'meta-type': 'array'; readonly 'element-type': string }
  | { readonly 'meta-type': 'object'; readonly members: readonly SchemaMember[] }
  | { readonly 'meta-type': 'alternate'; readonly members: readonly { readonly type: string }[] }
  | {
      readonly 'meta-type': 'command'
      readonly 'arg-type': string
      readonly 'ret-type': string
      readonly 'allow-oob': boolean
    }
  | { readonly 'meta-type': 'event'; readonly 'arg-type': string }
)
interface SchemaMember {
  readonly name: string
  readonly type: string
  /** Only there, and null, when it may be left out. */
  readonly default?: null
}
type SchemaBody = SchemaInfo extends infer I ? (I extends { name: string } ? Omit<I, 'name'> : never) : never

export interface SchemaCommand {
  readonly name: string
  readonly args: z.ZodType
  readonly oob?: boolean
}

/** What a command answers is not validated, and so not described: `any`. */
export function qmpSchema(
  commands: Iterable<SchemaCommand>,
  events: Readonly<Record<string, z.ZodType>>,
): readonly SchemaInfo[] {
  const types = new SchemaTypes()
  const entries: SchemaInfo[] = []
  for (const { name, args, oob = false } of commands) {
    const argType = types.of(args)
    entries.push({ name, 'meta-type': 'command', 'arg-type': argType, 'ret-type': types.any, 'allow-oob': oob })
  }
  for (const [name, data] of Object.entries(events))
    entries.push({ name, 'meta-type': 'event', 'arg-type': types.of(data) })
  return [...entries, ...types.entries]
}

class SchemaTypes {
  readonly entries: SchemaInfo[] = []
  /** The same shape has one name. */
  readonly #byShape = new Map<string, string>()

  get any(): string {
    return this.#builtin('any', 'value')
  }

  of(schema: z.ZodType): string {
    const { def } = schema as unknown as { def: Definition }
    switch (def.type) {
      case 'string':
        return this.#builtin('str', 'string')
      case 'number':
        return def.format === 'safeint' || def.checks?.some((c) => c._zod?.def.format === 'safeint')
          ? this.#builtin('int', 'int')
          : this.#builtin('number', 'number')
      case 'boolean':
        return this.#builtin('bool', 'boolean')
      case 'optional':
      case 'default':
      case 'nullable':
        return this.of(def.innerType!)
      case 'enum': {
        const values = Object.values(def.entries!)
        return this.#named({ 'meta-type': 'enum', members: values.map((name) => ({ name })), values })
      }
      case 'array':
        return this.#named({ 'meta-type': 'array', 'element-type': this.of(def.element!) })
      case 'union':
        return this.#named({
          'meta-type': 'alternate',
          members: def.options!.map((option) => ({ type: this.of(option) })),
        })
      case 'object':
        return this.#named({
          'meta-type': 'object',
          members: Object.entries(def.shape!).map(([name, member]) => ({
            name,
            type: this.of(member),
            ...(member.safeParse(undefined).success && { default: null }),
          })),
        })
      default:
        return this.any
    }
  }

  #builtin(name: string, jsonType: string): string {
    if (!this.#byShape.has(name)) {
      this.#byShape.set(name, name)
      this.entries.push({ name, 'meta-type': 'builtin', 'json-type': jsonType })
    }
    return name
  }

  #named(body: SchemaBody): string {
    const shape = JSON.stringify(body)
    let name = this.#byShape.get(shape)
    if (name === undefined) {
      // Arrays are named for what they hold.
      name =
        body['meta-type'] === 'array' && 'element-type' in body
          ? `[${body['element-type']}]`
          : String(this.entries.length)
      this.#byShape.set(shape, name)
      this.entries.push({ name, ...body } as SchemaInfo)
    }
    return name
  }
}

/** What is looked at of zod's own description of a schema. */
interface Definition {
  readonly type: string
  readonly format?: string
  readonly checks?: readonly { readonly _zod?: { readonly def: { readonly format?: string } } }[]
  readonly innerType?: z.ZodType
  readonly element?: z.ZodType
  readonly options?: readonly z.ZodType[]
  readonly shape?: Readonly<Record<string, z.ZodType>>
  readonly entries?: Readonly<Record<string, string>>
}
