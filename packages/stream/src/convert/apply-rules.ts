import { StreamRewriteError } from '../errors.ts'
import { leavesOf } from '../rewrite/field-path.ts'
import { type FieldNode, isBytes, isStateNode, leafOf, type StateNode, type Value } from '../state/state-node.ts'
import type { FieldRule, NewField, SectionRule } from './rules.ts'

/** Rules applied to one section. `refuse` is told why the guest cannot be moved; the result is right anyway, but for that. */
export function convertState(state: StateNode, rule: SectionRule, refuse: (reason: string) => void): StateNode {
  const subsections: StateNode[] = []
  for (const sub of state.subsections) {
    const change = rule.subsections?.find((r) => r.name === sub.name)
    if (!change) subsections.push(sub)
    else if ('drop' in change) {
      const used = change.drop === 'if zero' && [...leavesOf(sub)].find(({ value }) => !isZero(value))
      if (used) refuse(`${change.because} (${sub.name} ${used.path})`)
    } else if (sub.version === change.from)
      subsections.push({
        ...sub,
        version: change.to,
        fields: convertFields(sub.fields, change.rules, sub.name, refuse),
      })
    else if (sub.version === change.to) subsections.push(sub)
    else refuse(`${sub.name} has version ${sub.version}; only ${change.from} is understood`)
  }
  return {
    ...state,
    version: rule.to,
    fields: convertFields(state.fields, rule.rules, rule.idstr, refuse),
    subsections,
  }
}

/** @throws StreamRewriteError the stream's description says that it is something else */
export function integerOf({ name, values }: FieldNode, where: string): bigint {
  const value = values[0]
  if (values.length === 1 && value !== undefined && typeof value !== 'object') return BigInt(value)
  throw new StreamRewriteError(`${where} ${name} is no integer; its description is not one of stock QEMU`)
}

const isZero = (value: Value): boolean =>
  isBytes(value) ? value.every((b) => b === 0) : value === 0 || value === 0n || value === false

function convertFields(
  fields: readonly FieldNode[],
  rules: readonly FieldRule[],
  where: string,
  refuse: (reason: string) => void,
): FieldNode[] {
  const out = [...fields]
  const indexOf = (name: string): number => {
    const at = out.findIndex((f) => f.name === name)
    if (at < 0) throw new StreamRewriteError(`${where} has no field ${name}; its description is not one of stock QEMU`)
    return at
  }
  for (const rule of rules) {
    if ('drop' in rule) {
      const [field] = out.splice(indexOf(rule.drop), 1)
      const value = field!.values[0]
      if (rule.unless && value !== rule.unless.not)
        refuse(`${rule.unless.because} (${where} ${rule.drop} = ${show(value)})`)
    } else if ('insert' in rule) out.splice(indexOf(rule.after) + 1, 0, ...rule.insert.map(newField))
    else if ('by' in rule) out.splice(indexOf(rule.replace), 1, ...rule.by.map(newField))
    else if ('set' in rule) {
      const at = indexOf(rule.set)
      integerOf(out[at]!, where)
      out[at] = { ...out[at]!, values: [rule.value] }
    } else if ('bits' in rule) {
      const at = indexOf(rule.bits)
      const before = integerOf(out[at]!, where)
      const strange = rule.allowed === undefined ? 0n : before & ~rule.allowed
      if (strange !== 0n) refuse(`${rule.because} (${where} ${rule.bits} has bits 0x${strange.toString(16)})`)
      const after = (before | (rule.on ?? 0n)) & ~(rule.off ?? 0n)
      out[at] = { ...out[at]!, values: [typeof out[at]!.values[0] === 'bigint' ? after : Number(after)] }
    } else if ('each' in rule) {
      const at = indexOf(rule.each)
      const before = out[at]!
      const values = before.values.map((value) => {
        if (!isStateNode(value)) throw new StreamRewriteError(`${where} ${rule.each} is no array of structs`)
        const fields = convertFields(value.fields, rule.rules, `${where} ${rule.each}`, refuse)
        return { ...value, version: rule.version, fields }
      })
      const bytes = values.reduce((sum, v) => sum + v.fields.reduce((s, f) => s + f.bytes, 0), 0)
      out[at] = { ...before, values, bytes }
    } else {
      const at = indexOf(rule.field)
      out[at] = retyped(out[at]!, rule, where, refuse)
    }
  }
  return out
}

function retyped(
  field: FieldNode,
  { type, field: old, name = old, cut = false }: Extract<FieldRule, { field: string }>,
  where: string,
  refuse: (reason: string) => void,
): FieldNode {
  const leaf = leafOf(type)!
  const before = integerOf(field, where)
  const [least, most] = leaf.range ?? [0n, 1n]
  if (!cut && (before < least || before > most)) refuse(`${where} ${field.name} = ${show(before)} does not fit ${type}`)
  const bits = BigInt.asUintN(leaf.bytes * 8, before)
  const value = type === 'bool' ? (before & 1n) === 1n : leaf.bytes === 8 ? bits : Number(bits)
  return { ...field, name, type, bytes: leaf.bytes, values: [value] }
}

const newField = ({ name, type, value }: NewField): FieldNode => {
  const leaf = leafOf(type)
  const bytes = leaf?.bytes ?? Number(value)
  return { name, type, offset: 0, bytes, values: [leaf ? value : new Uint8Array(bytes)] }
}
const show = (value: Value | undefined): string =>
  typeof value === 'bigint' || typeof value === 'number' ? `0x${value.toString(16)}` : String(value)
