import type { FieldNode, StateNode, Value } from '../state/state-node.ts'
import { isBytes, isStateNode } from '../state/state-node.ts'
import type { SectionReport, StreamReport } from './report.ts'

export type Json = string | number | boolean | null | Json[] | { [key: string]: Json }

/**
 * A report for other programs. Integers beyond 2^53 are decimal strings, because most readers of JSON would round them; bytes are
 * hex; subsections are under `subsections`, by name.
 */
export function reportJson(report: StreamReport): Json {
  return {
    ...headJson(report),
    sections: report.sections.map(({ state, ...section }) => ({
      ...sectionJson(section),
      ...(state && stateJson(state)),
    })),
    problems: report.problems as unknown as Json,
  }
}

/**
 * The text of {@link reportJson}, without the objects: a virtio device has a thousand queues, and nearly all of them are
 * the same.
 */
export function reportJsonText(report: StreamReport): string {
  const sections = report.sections.map(({ state, ...section }) => {
    const text = JSON.stringify(sectionJson(section))
    return state ? `${text.slice(0, -1)},${stateText(state)}}` : text
  })
  return `${JSON.stringify(headJson(report)).slice(0, -1)},"sections":[${sections.join(',')}],"problems":${JSON.stringify(report.problems)}}`
}

function headJson({ configuration, commands, sections: _, ram, problems: __, ...rest }: StreamReport) {
  return {
    ...(rest as unknown as { [key: string]: Json }),
    ...(configuration && { configuration: { ...configuration } as unknown as Json }),
    commands: commands.map(({ payload, ...c }) => ({ ...c, payload: hexOf(payload) })) as Json,
    ...(ram && { ram: ram as unknown as Json }),
  }
}
const sectionJson = (section: Omit<SectionReport, 'state'>) => section as unknown as { [key: string]: Json }

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

/** Members of {@link stateJson}, as text. */
function stateText(node: StateNode): string {
  const name = node.name === '' ? '' : `"vmsd":${JSON.stringify(node.name)},`
  return `${name}"fields":{${fieldsText(node)}}${subsectionsText(node)}`
}
function subsectionsText({ subsections }: StateNode): string {
  if (subsections.length === 0) return ''
  const texts = lastByName(subsections).map(
    (sub) =>
      `${JSON.stringify(sub.name)}:{"version":${sub.version},"fields":{${fieldsText(sub)}}${subsectionsText(sub)}}`,
  )
  return `,"subsections":{${texts.join(',')}}`
}
function fieldsText({ fields }: StateNode): string {
  let text = ''
  for (const field of lastByName(fields)) {
    text += `${text === '' ? '' : ','}${JSON.stringify(field.name)}:`
    if (!field.array) text += valueJsonText(field.values[0]!)
    else {
      const runs = field.runs?.()?.map(({ value, count }) => `${valueJsonText(value)},`.repeat(count))
      text += runs ? `[${runs.join('').slice(0, -1)}]` : `[${field.values.map(valueJsonText).join(',')}]`
    }
  }
  return text
}
function valueJsonText(value: Value): string {
  if (typeof value === 'boolean' || typeof value === 'number') return String(value)
  if (isBytes(value)) return `"${hexOf(value)}"`
  if (isStateNode(value)) {
    const [fields, subsections] = [fieldsText(value), subsectionsText(value)]
    return `{${fields === '' ? subsections.slice(1) : fields + subsections}}`
  }
  return JSON.stringify(valueJson(value))
}
/** An object has one member of a name: the last, at the place of the first. */
function lastByName<T extends { readonly name: string }>(nodes: readonly T[]): readonly T[] {
  if (nodes.length < 2) return nodes
  const byName = new Map<string, T>()
  for (const node of nodes) byName.set(node.name, node)
  return byName.size === nodes.length ? nodes : [...byName.values()]
}

export function hexOf(bytes: Uint8Array): string {
  let text = ''
  for (let i = 0; i < bytes.length; i++) text += HEX[bytes[i]!]
  return text
}
const HEX = Array.from({ length: 256 }, (_, n) => n.toString(16).padStart(2, '0'))
