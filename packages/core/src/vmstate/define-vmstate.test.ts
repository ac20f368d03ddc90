import { describe, expect, expectTypeOf, it } from 'vitest'
import { u8Varray, u16Array, u64Array, unused } from './array-rows.ts'
import { defineVmstate, vmstateFor } from './define-vmstate.ts'
import { bool, timer, u8, u16, u32, u64 } from './scalar-rows.ts'
import { list, struct, vstruct } from './struct-rows.ts'
import type { StateOfVmstate } from './table.ts'

const always = (): boolean => true

describe('defineVmstate refuses', () => {
  const two = defineVmstate({ name: 'two', version: 2, fields: { a: u8() } })
  const define = (table: any) => () => defineVmstate({ name: 'v', version: 1, fields: {}, ...table })
  it.each([
    ['a row that JavaScript would reorder', { fields: { 0: u8() } }, 'v > 0: JavaScript would reorder'],
    ['a row from the future', { fields: { a: u8({ since: 2 }) } }, 'since 2 is above version 1'],
    [
      'a length listed below its array',
      { fields: { a: u8Varray('n'), n: u8() } },
      "row 'n', which must be listed above",
    ],
    ['a length that is no number', { fields: { n: bool(), a: u8Varray('n') } }, 'which is not a number'],
    ['something that is no row', { fields: { a: 5 } }, 'this is not a row'],
    ['a minimum above the version', { minimumVersion: 2 }, 'minimumVersion 2 is above version 1'],
    ['a name that does not fit', { name: 'x'.repeat(256) }, 'a name has 1 to 255 bytes'],
    [
      'list elements in a version they do not have',
      { fields: { q: list(two) } },
      "version 0 (since), and 'two' reads 2 to 2",
    ],
    ['a vstruct version that is not there', { fields: { s: vstruct(two, 3) } }, 'version 3 is above version 2'],
    ['a subsection without the prefix', sub('w/x', { b: u8() }), "the name must start with 'v'"],
    ['one row twice', { fields: { a: u8() }, ...sub('v/x', { a: u8() }) }, 'v > v/x.a: the same name is a row'],
    [
      'sibling subsections of which one hides the other',
      { subsections: { ...sub('v/b', {}).subsections, ...sub('v/bc', {}).subsections } },
      "'v/bc' begins with it",
    ],
    [
      'a subsection inside of one that is not there',
      { subsections: { 'v/a/b': { inside: 'v/a', fields: {}, needed: always } } },
      "there is no subsection 'v/a'",
    ],
  ])('%s', (_, table, message) => {
    expect(define(table)).toThrow(message)
    expect(define(table)).toThrow(expect.objectContaining({ code: 'FERRY_VMSTATE_DEFINITION' }))
  })
})

function sub(name: string, fields: object) {
  return { subsections: { [name]: { fields, needed: always } } }
}

describe('types', () => {
  const fifo8 = defineVmstate({ name: 'fifo8', version: 1, fields: { data: u16Array(16), num: u32() } })
  const serial = defineVmstate({
    name: 'serial',
    version: 3,
    minimumVersion: 2,
    fields: { divider: u16({ since: 2, reset: 12 }), rbr: u8(), old_fcr: unused(1, { since: 3 }) },
    subsections: {
      'serial/recv_fifo': { fields: { recv_fifo: struct(fifo8) }, needed: (s) => s.recv_fifo.num > 0 },
      'serial/timeout': {
        fields: { fifo_timeout: timer(), timeout_ipending: bool() },
        needed: (s) => s.timeout_ipending || s.rbr > 0,
      },
    },
    postLoad(s, version) {
      expectTypeOf(s.fifo_timeout.expireNs).toEqualTypeOf<bigint>()
      expectTypeOf(version).toEqualTypeOf<number>()
    },
  })
  type SerialState = StateOfVmstate<typeof serial>

  it('the state has rows of the table and of its subsections, and no padding', () => {
    expectTypeOf<SerialState['rbr']>().toEqualTypeOf<number>()
    expectTypeOf<SerialState['recv_fifo']['data']>().toEqualTypeOf<Uint16Array>()
    expectTypeOf<SerialState>().not.toHaveProperty('old_fcr')
    // @ts-expect-error a register is a number
    const text: string = serial.createState().rbr
    void text
  })

  it('a class is checked against its rows, subsections included', () => {
    class Hart {
      pc = 0n
      readonly x = new BigUint64Array(32)
      halted = false
      menvcfg = 0n
    }
    const vmstate = vmstateFor<Hart>()({
      name: 'cpu',
      version: 1,
      fields: { pc: u64(), x: u64Array(32, { wireName: 'env.gpr' }), halted: bool(), retired: unused(4) },
      subsections: { 'cpu/envcfg': { fields: { menvcfg: u64() }, needed: (h) => h.menvcfg !== 0n } },
      postLoad(h) {
        h.pc &= ~1n
      },
    })
    expectTypeOf(vmstate.createState).returns.toEqualTypeOf<Hart>()
    expect(() => vmstate.createState()).toThrow('cpu: a class-first table needs `create`')
    // @ts-expect-error pc is a bigint
    vmstateFor<Hart>()({ name: 'cpu', version: 1, fields: { pc: u32() } })
    // @ts-expect-error Hart has no such member
    vmstateFor<Hart>()({ name: 'cpu', version: 1, fields: { pd: u64() } })
    vmstateFor<Hart>()({
      name: 'cpu',
      version: 1,
      fields: {},
      // @ts-expect-error nor in a subsection
      subsections: { 'cpu/x': { fields: { pd: u64() }, needed: () => true } },
    })
  })
})
