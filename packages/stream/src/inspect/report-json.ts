import type { FieldNode, StateNode, Value } from '../state/state-node.ts'
import { isBytes, isStateNode } from '../state/state-node.ts'
import type { StreamReport } from './report.ts'

export type Json = string | number | boolean | null | Json[] | { [key: string]: Json }

/**
 * A report for other programs. Integers beyond 2^53 are decimal strings, because most readers of JSON would round them; bytes are
 * hex; subsections are under `subsections`, by name.
 */
export function reportJson(report: StreamReport): Json {
  const { configuration, commands, sections, ram, problems, ...rest } = report
  return {
    ...(rest as unknown as { [key: string]: Json }),
    ...(configuration && { configuration: { ...configuration } as unknown as Json }),
    commands: commands.map(({ payload, ...c }) => ({ ...c, payload: hexOf(payload) })) as Json,
    ...(ram && { ram: ram as unknown as Json }),
    sections: sections.map(({ state, ...section }) => ({
      ...(section as unknown as { [key: string]: Json }),
      ...(state && stateJson(state)),
    })),
    problems: problems as unknown as Json,
  }
}

/** `vmsd`, `fields` by name, `subsections` by name with version. */
export function stateJson(node: StateNode): { [key: string]: Json } {
  return {
    ...(node.name !== '' && { vmsd: node.name }),
    fields: fieldsJson(node),
    ...(node.subsections.length > 0 && { subsections: subsectionsJson(node) }),
  }
}
const subsectionsJson = (node: StateNode): { [key: string]: Json } =>
  Object.fromEntries(
    node.subsections.map((sub) => {
      const { vmsd: _, ...rest } = stateJson(sub)
      return [sub.name, { version: sub.version, ...rest }]
    }),
  )
const fieldsJson = (node: StateNode): { [key: string]: Json } =>
  Object.fromEntries(node.fields.map((field) => [field.name, fieldJson(field)]))
const fieldJson = ({ values, array }: FieldNode): Json => (array ? values.map(valueJson) : valueJson(values[0]!))

export function valueJson(value: Value): Json {
  if (typeof value === 'boolean' || typeof value === 'number') return value
  if (typeof value === 'bigint') {
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : value.toString()
  }
  if (isBytes(value)) return hexOf(value)
  if (isStateNode(value)) {
    const fields = fieldsJson(value)
    return value.subsections.length > 0 ? { ...fields, subsections: subsectionsJson(value) } : fields
  }
  if (value.kind === 'list') return value.items.map(valueJson)
  return value.nodes.map(({ key, value: v }) => ({ key: valueJson(key), value: valueJson(v) }))
}

export function hexOf(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += HEX[byte]
  return text
}
const HEX = Array.from({ length: 256 }, (_, n) => n.toString(16).padStart(2, '0'))
