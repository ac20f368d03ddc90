import { defineVmstate, struct, structArray, u8, u16, u32, u32Array, unused, type Vmstate } from '@ferryvm/core'
import { describe, expect, it } from 'vitest'
import { VmstateDumpError } from '../errors.ts'
import { checkDumps } from './check.ts'
import { dumpTables, formatDump, parseDump } from './dump.ts'

const dump = (vmstate: Vmstate<any>) => dumpTables('virt', [{ type: 'thing', vmstate }])
const child = defineVmstate({ name: 'child', version: 1, fields: { x: u8() } })
const base = {
  name: 'thing',
  version: 2,
  minimumVersion: 1,
  fields: { a: u8(), b: u16(), c: u32({ since: 2 }) },
} as const
const effects = (after: Vmstate<any>, before: Vmstate<any> = defineVmstate(base)) =>
  checkDumps(dump(before), dump(after)).map((c) => `${c.effect} ${c.where}: ${c.what}`)

describe('what a change does to streams', () => {
  it('nothing, where nothing changed', () => expect(effects(defineVmstate(base))).toEqual([]))
  it.each<[string, Vmstate<any>, string[]]>([
    [
      'a field is gone',
      defineVmstate({ ...base, fields: { a: u8(), c: u32({ since: 2 }) } }),
      ['breaks thing > b: the field is gone'],
    ],
    [
      'a field is retired in place',
      defineVmstate({ ...base, fields: { a: u8(), unused: unused(2), c: u32({ since: 2 }) } }),
      ['harmless thing > b: the field is retired'],
    ],
    [
      'a field got another name',
      defineVmstate({ ...base, fields: { a: u8(), renamed: u16(), c: u32({ since: 2 }) } }),
      ['harmless thing > b: the field is now called renamed'],
    ],
    [
      'a field became wider',
      defineVmstate({ ...base, fields: { a: u8(), b: u32(), c: u32({ since: 2 }) } }),
      ['breaks thing > b: 2 bytes became 4'],
    ],
    [
      'a field is new without a version',
      defineVmstate({ ...base, fields: { ...base.fields, d: u8() } }),
      ['breaks thing > d: the field is new in a version that is older than it'],
    ],
    [
      'a field is new with a version',
      defineVmstate({ ...base, version: 3, fields: { ...base.fields, d: u8({ since: 3 }) } }),
      ['forward thing: version 2 became 3', 'harmless thing > d: the field is new, from version 3 on'],
    ],
    [
      'fields changed places',
      defineVmstate({ ...base, fields: { b: u16(), a: u8(), c: u32({ since: 2 }) } }),
      ['breaks thing > a: the fields are in another order'],
    ],
    [
      'old versions no longer load',
      defineVmstate({ ...base, minimumVersion: 2 }),
      ['breaks thing: versions 1 to 1 no longer load'],
    ],
    [
      'a subsection is new',
      defineVmstate({ ...base, subsections: { 'thing/s': { fields: { s: u8() }, needed: () => false } } }),
      ['forward thing: subsection thing/s is new'],
    ],
    [
      'a field got a condition',
      defineVmstate({ ...base, fields: { a: u8(), b: u16({ when: () => true }), c: u32({ since: 2 }) } }),
      ['breaks thing > b: the field got a condition'],
    ],
  ])('%s', (_, after, expected) => expect(effects(after)).toEqual(expected))

  it('versions of nested structs do not travel, their fields do', () => {
    const nested = (inner: Vmstate<any>) =>
      defineVmstate({ name: 'thing', version: 1, fields: { one: struct(inner), many: structArray(inner, 2) } })
    const wider = defineVmstate({ name: 'child', version: 2, fields: { x: u8(), y: u8({ since: 2 }) } })
    expect(effects(nested(wider), nested(child))).toEqual([
      'breaks thing > one > y: the field is new in a version that is older than it',
      'breaks thing > many > y: the field is new in a version that is older than it',
    ])
  })
  it('counts do not travel', () => {
    const array = (n: number) => defineVmstate({ name: 'thing', version: 1, fields: { a: u32Array(n) } })
    expect(effects(array(5), array(4))).toEqual(['breaks thing > a: 4 elements became 5'])
  })
  it('a dump that has no counts (QEMU 7.2) says nothing about them', () => {
    const table = (n: number) =>
      formatDump(dump(defineVmstate({ name: 'thing', version: 1, fields: { a: u32Array(n) } })))
    const old = parseDump(table(4).replace(/"num": 4,/, ''))
    expect(checkDumps(old, parseDump(table(5)))).toEqual([])
  })
  it('a device that is gone breaks, a new one does not', () => {
    const other = dumpTables('virt', [{ type: 'other', vmstate: child }])
    expect(checkDumps(dump(child), other).map((c) => [c.effect, c.what])).toEqual([
      ['breaks', 'the device is gone'],
      ['harmless', 'the device is new'],
    ])
  })
})

describe('the text of a dump', () => {
  it('is read as it was written, and has the keys of QEMU', () => {
    const written = dump(
      defineVmstate({ ...base, subsections: { 'thing/s': { fields: { s: u8() }, needed: () => false } } }),
    )
    const text = formatDump(written)
    expect(parseDump(text)).toEqual(written)
    expect(JSON.parse(text)).toMatchObject({
      vmschkmachine: { Name: 'virt' },
      thing: {
        Name: 'thing',
        version_id: 2,
        minimum_version_id: 1,
        Description: {
          name: 'thing',
          Fields: [
            { field: 'a', version_id: 0, field_exists: false, size: 1 },
            { field: 'b' },
            { field: 'c', version_id: 2 },
          ],
          Subsections: [{ name: 'thing/s', version_id: 1, minimum_version_id: 1 }],
        },
      },
    })
  })
  it.each(['', '[]', '7', '{"x": {}}', '{"x": {"Description": {"name": 1}}}'])('%j is refused', (text) => {
    expect(() => parseDump(text)).toThrow(VmstateDumpError)
  })
})
