import { describe, expect, it } from 'vitest'
import { pointerArray, unused } from './array-rows.ts'
import { compileVmstate } from './codec.ts'
import { defineVmstate } from './define-vmstate.ts'
import { formatSection, formatVmdescription, type VmdescStyle } from './description.ts'
import { i32, u8, u16 } from './scalar-rows.ts'
import { list, struct, structArray, vstruct } from './struct-rows.ts'
import type { Vmstate } from './table.ts'

const describeText = (vmstate: Vmstate<any>, state: any, style: VmdescStyle) => {
  const section = { name: vmstate.name, instanceId: 0, vmstate: compileVmstate(vmstate).describe(state, { style }) }
  const text = formatSection(section)
  const fields = text.slice(text.indexOf('"fields": ') + '"fields": '.length, -1)
  return fields
}
const plain = defineVmstate({ name: 'plain', version: 1, fields: { a: u8() } })
const withSubs = defineVmstate({
  name: 'drive',
  version: 1,
  fields: { a: u8() },
  subsections: { 'drive/x': { fields: { x: u8() }, needed: (s) => s.x > 0 } },
})

// Spec: stream.md section 6.
describe('the JSON description', () => {
  it('numbers rows that share a name, present or not', () => {
    const v = defineVmstate({
      name: 'v',
      version: 1,
      fields: { old: unused(1), x16: u16({ wireName: 'x', when: () => false }), x: u8(), older: unused(2) },
    })
    expect(describeText(v, v.createState(), '10.0')).toBe(
      '[{"name": "unused[0]", "type": "unused_buffer", "size": 1}, {"name": "x[1]", "type": "uint8", "size": 1}, ' +
        '{"name": "unused[1]", "type": "unused_buffer", "size": 2}]',
    )
  })

  it('an array of plain structs is one entry with the size of one element', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { p: structArray(plain, 2) } })
    expect(describeText(v, v.createState(), '7.2')).toBe(
      '[{"name": "p", "array_len": 2, "type": "struct", "struct": {"vmsd_name": "plain", "version": 1, ' +
        '"fields": [{"name": "a", "type": "uint8", "size": 1}]}, "size": 1}]',
    )
  })

  it('an array of structs with a subsection list has an entry per element; 10.0 gives the last no index', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { d: structArray(withSubs, 2) } })
    const state = {
      d: [
        { a: 1, x: 0 },
        { a: 1, x: 1 },
      ],
    } // prettier-ignore
    const drive = (sub: string) =>
      `"struct": {"vmsd_name": "drive", "version": 1, "fields": [{"name": "a", "type": "uint8", "size": 1}]${sub}}`
    const x =
      ', "subsections": [{"vmsd_name": "drive/x", "version": 1, "fields": [{"name": "x", "type": "uint8", "size": 1}]}]'
    expect(describeText(v, state, '7.2')).toBe(
      `[{"name": "d", "index": 0, "type": "struct", ${drive('')}, "size": 1}, ` +
        `{"name": "d", "index": 1, "type": "struct", ${drive(x)}, "size": 15}]`,
    )
    expect(describeText(v, state, '10.0')).toBe(
      `[{"name": "d", "index": 0, "type": "struct", ${drive('')}, "size": 1}, ` +
        `{"name": "d", "type": "struct", ${drive(x)}, "size": 15}]`,
    )
  })

  it('10.0 describes runs of null pointers apart, 7.2 does not', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { p: pointerArray(i32(), 4) } })
    const state = { p: [1, null, 2, 3] }
    expect(describeText(v, state, '7.2')).toBe('[{"name": "p", "array_len": 4, "type": "int32", "size": 4}]')
    expect(describeText(v, state, '10.0')).toBe(
      '[{"name": "p", "type": "int32", "size": 4}, {"name": "p", "type": "nullptr", "size": 1}, ' +
        '{"name": "p", "array_len": 2, "type": "int32", "size": 4}]',
    )
  })

  it('lists and vstructs put the nested keys into the field, once per element', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { q: list(plain, { since: 1 }), s: vstruct(plain, 1) } })
    const nested = '"vmsd_name": "plain", "version": 1, "fields": [{"name": "a", "type": "uint8", "size": 1}]'
    expect(describeText(v, { q: [{ a: 1 }, { a: 2 }], s: { a: 3 } }, '7.2')).toBe(
      `[{"name": "q", "type": "qtailq", ${nested}, ${nested}, "size": 5}, {"name": "s", "type": "vstruct", ${nested}, "size": 1}]`,
    )
  })

  it('the whole: configuration first, opaque sections by their size', () => {
    const vmstate = compileVmstate(plain).describe({ a: 1 })
    const v = defineVmstate({ name: 'v', version: 1, fields: { s: struct(plain) } })
    expect(describeText(v, v.createState(), '10.0')).toContain('"struct": {"vmsd_name": "plain"')
    expect(
      formatVmdescription({
        configuration: vmstate,
        pageSize: 4096,
        devices: [{ name: 'slirp', instanceId: 0, size: 131 }],
      }),
    ).toBe(
      '{"configuration": {"vmsd_name": "plain", "version": 1, "fields": [{"name": "a", "type": "uint8", "size": 1}]}, ' +
        '"page_size": 4096, "devices": [{"name": "slirp", "instance_id": 0, "size": 131, ' +
        '"fields": [{"name": "data", "size": 131, "type": "buffer"}]}]}',
    )
  })
})
