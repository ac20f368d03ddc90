import type { QEMUFileWriter } from '../qemufile/qemufile.ts'

/**
 * `7.2`: every element of an array that cannot be compressed has an `index`. `10.0`: the last one has none, and runs of
 * null pointers are described apart. Spec: stream.md section 6.
 */
export type VmdescStyle = '7.2' | '10.0'

export interface DescribeOptions {
  /** Gets what `save` would write; without it the bytes are only counted. */
  readonly out?: QEMUFileWriter
  /** Whose habits the description follows. Default `10.0`. */
  readonly style?: VmdescStyle
}

export interface VmstateDescription {
  readonly vmsd_name: string
  readonly version: number
  readonly fields: readonly FieldDescription[]
  readonly subsections?: readonly VmstateDescription[]
}

export interface FieldDescription {
  readonly name: string
  readonly array_len?: number
  readonly index?: number
  readonly type: string
  readonly struct?: VmstateDescription
  /** Printed as keys of the field itself; lists repeat the keys for each element. */
  readonly inline?: readonly VmstateDescription[]
  /** Bytes of one element, with everything nested in it. */
  readonly size: number
}

/** One FULL section in the trailing JSON. */
export type SectionDescription = { readonly name: string; readonly instanceId: number } & (
  | { readonly vmstate: VmstateDescription }
  /** Bytes of an opaque handler. */
  | { readonly size: number }
)

export interface StreamDescription {
  /** The CONFIGURATION section, if it was sent and the style is 10.0. */
  readonly configuration?: VmstateDescription
  /** Bytes of a guest page. */
  readonly pageSize: number
  readonly devices: readonly SectionDescription[]
}

/** The JSON text after the end of a stream, byte for byte as stock prints it. Spec: stream.md section 6. */
export function formatVmdescription(stream: StreamDescription): string {
  const keys = [`"page_size": ${stream.pageSize}`, `"devices": [${stream.devices.map(formatSection).join(', ')}]`]
  if (stream.configuration) keys.unshift(`"configuration": {${formatVmstate(stream.configuration).join(', ')}}`)
  return `{${keys.join(', ')}}`
}

export function formatSection(section: SectionDescription): string {
  const keys = [`"name": ${JSON.stringify(section.name)}`, `"instance_id": ${section.instanceId}`]
  if ('vmstate' in section) keys.push(...formatVmstate(section.vmstate))
  else keys.push(`"size": ${section.size}`, `"fields": [{"name": "data", "size": ${section.size}, "type": "buffer"}]`)
  return `{${keys.join(', ')}}`
}

/** Key-value pairs without braces, because lists need them inside of a field. */
function formatVmstate(d: VmstateDescription): string[] {
  const keys = [`"vmsd_name": ${JSON.stringify(d.vmsd_name)}`, `"version": ${d.version}`]
  keys.push(`"fields": [${d.fields.map(formatField).join(', ')}]`)
  if (d.subsections)
    keys.push(`"subsections": [${d.subsections.map((s) => `{${formatVmstate(s).join(', ')}}`).join(', ')}]`)
  return keys
}

function formatField(f: FieldDescription): string {
  const keys = [`"name": ${JSON.stringify(f.name)}`]
  if (f.array_len !== undefined) keys.push(`"array_len": ${f.array_len}`)
  if (f.index !== undefined) keys.push(`"index": ${f.index}`)
  keys.push(`"type": ${JSON.stringify(f.type)}`)
  if (f.struct) keys.push(`"struct": {${formatVmstate(f.struct).join(', ')}}`)
  for (const nested of f.inline ?? []) keys.push(...formatVmstate(nested))
  keys.push(`"size": ${f.size}`)
  return `{${keys.join(', ')}}`
}
