import { describe, expect, it } from 'vitest'
import { isVmstateError } from '../errors/vmstate-error.ts'
import { pointerArray, u16Array } from './array-rows.ts'
import { compileVmstate } from './codec.ts'
import { defineVmstate } from './define-vmstate.ts'
import { bool, i8, i16, i32, i64, u8, u16, u32, u64 } from './scalar-rows.ts'
import { gtree, gtreeDirectKey, list, qlist, struct, tmp } from './struct-rows.ts'
import type { Vmstate } from './table.ts'
import { ENGINES, fromHex, load, loadSlowly, loadWith, save } from './vmstate-testing.ts'

// The vectors of spec vmstate.md section 9: table, values and bytes.

const primitive = defineVmstate({
  name: 'simple/primitive',
  version: 1,
  fields: {
    b_1: bool(),
    b_2: bool(),
    u8_1: u8(),
    u16_1: u16(),
    u32_1: u32(),
    u64_1: u64(),
    i8_1: i8(),
    i8_2: i8(),
    i16_1: i16(),
    i16_2: i16(),
    i32_1: i32(),
    i32_2: i32(),
    i64_1: i64(),
    i64_2: i64(),
  },
})
const array = defineVmstate({ name: 'simple/array', version: 1, fields: { u16_1: u16Array(3) } })
const child = defineVmstate({ name: 'test/tst', version: 1, fields: { i: i32() } })
const arps = defineVmstate({ name: 'test/arps', version: 1, fields: { ar: pointerArray(struct(child), 4) } })
const arpi = defineVmstate({ name: 'test/arpi', version: 1, fields: { ar: pointerArray(i32(), 4) } })
const queueElement = defineVmstate({ name: 'test/queue', version: 1, fields: { b: bool(), u: u8() } })
const queue = defineVmstate({
  name: 'test/q',
  version: 1,
  fields: { i16: i16(), q: list(queueElement, { since: 1 }), i32: i32() },
})
const interval = defineVmstate({ name: 'interval', version: 1, fields: { low: u64(), high: u64() } })
const mapping = defineVmstate({ name: 'mapping', version: 1, fields: { phys: u64(), flags: u32() } })
const domain = defineVmstate({
  name: 'domain',
  version: 1,
  fields: { id: i32(), mappings: gtree(interval, mapping, { since: 1 }) },
})
const iommu = defineVmstate({
  name: 'iommu',
  version: 1,
  fields: { id: i32(), domains: gtreeDirectKey(domain, { since: 1 }) },
})
const u32Element = defineVmstate({ name: 'test/el', version: 1, fields: { id: u32() } })
const container = defineVmstate({
  name: 'test/container/qlist',
  version: 1,
  fields: { id: u32(), list: qlist(u32Element, { since: 1 }) },
})

interface Parent {
  a: number
  b: number
  d: bigint
  parent: { f: bigint }
}
const parentF = defineVmstate({ name: 'test/parent', version: 0, fields: { f: u64() } })
const difference = defineVmstate({ name: 'test/tmp', version: 0, fields: { diff: i64(), parent: struct(parentF) } })
const withTmp = defineVmstate({
  name: 'test/with_tmp',
  version: 1,
  minimumVersion: 0,
  fields: {
    a: u32(),
    d: u64(),
    tmp: tmp(difference, {
      from: (s: Parent) => ({ diff: BigInt(s.b - s.a), parent: s.parent }),
      into: (s: Parent, t) => {
        s.b = s.a + Number(t.diff)
      },
    }),
  },
})

interface Vector<S = any> {
  readonly name: string
  readonly vmstate: Vmstate<S>
  readonly state: S
  readonly bytes: string
  /** What load starts from, where it matters. */
  readonly local?: () => S
}

const row6 = {
  id: 6,
  mappings: [
    { key: { low: 0x1000n, high: 0x1fffn }, value: { phys: 0xa000n, flags: 1 } },
    { key: { low: 0x4000n, high: 0x4fffn }, value: { phys: 0xe0000n, flags: 2 } },
  ],
}
const ROW6 =
  '00000006 00000002 01 0000000000001000 0000000000001fff 000000000000a000 00000001' +
  '01 0000000000004000 0000000000004fff 00000000000e0000 00000002 00'

const vectors: Vector[] = [
  {
    name: 'primitives',
    vmstate: primitive,
    state: {
      b_1: true,
      b_2: false,
      u8_1: 130,
      u16_1: 512,
      u32_1: 70000,
      u64_1: 12121212n,
      i8_1: 65,
      i8_2: -65,
      i16_1: 512,
      i16_2: -512,
      i32_1: 70000,
      i32_2: -70000,
      i64_1: 12121212n,
      i64_2: -12121212n,
    },
    bytes:
      '01 00 82 0200 00011170 0000000000b8f47c 41 bf 0200 fe00 00011170 fffeee90 0000000000b8f47c ffffffffff470b84',
  },
  { name: 'an array', vmstate: array, state: { u16_1: Uint16Array.of(0x42, 0x43, 0x44) }, bytes: '0042 0043 0044' },
  {
    name: 'pointers to structs, none null',
    vmstate: arps,
    state: { ar: [{ i: 0 }, { i: 1 }, { i: 2 }, { i: 3 }] },
    bytes: '00000000 00000001 00000002 00000003',
  },
  {
    name: 'pointers to structs, one null',
    vmstate: arps,
    state: { ar: [{ i: 0 }, null, { i: 2 }, { i: 3 }] },
    bytes: '00000000 30 00000002 00000003',
    local: () => ({ ar: [{ i: 9 }, null, { i: 9 }, { i: 9 }] }),
  },
  {
    name: 'pointers to numbers, one null',
    vmstate: arpi,
    state: { ar: [0, null, 2, 3] },
    bytes: '00000000 30 00000002 00000003',
    local: () => ({ ar: [9, null, 9, 9] }),
  },
  {
    name: 'a qtailq',
    vmstate: queue,
    state: {
      i16: -512,
      q: [
        { b: true, u: 130 },
        { b: false, u: 65 },
      ],
      i32: 70000,
    },
    bytes: 'fe00 01 01 82 01 00 41 00 00011170',
  },
  { name: 'a gtree', vmstate: domain, state: row6, bytes: ROW6 },
  {
    name: 'a gtree with direct keys',
    vmstate: iommu,
    state: {
      id: 7,
      domains: new Map([
        [6n, row6],
        [
          5n,
          { id: 5, mappings: [{ key: { low: 0x1000000n, high: 0x1ffffffn }, value: { phys: 0xf000000n, flags: 3 } }] },
        ],
      ]),
    },
    bytes:
      '00000007 00000002 01 0000000000000005 00000005 00000001 01 0000000001000000 0000000001ffffff 000000000f000000' +
      `00000003 00 01 0000000000000006 ${ROW6} 00`,
  },
  {
    name: 'a qlist',
    vmstate: container,
    state: { id: 1, list: [{ id: 0x0a }, { id: 0x0b00 }, { id: 0xc0000 }, { id: 0xd000000 }] },
    bytes: '00000001 01 0000000a 01 00000b00 01 000c0000 01 0d000000 00',
  },
  {
    name: 'a temporary with a pointer back to its parent',
    vmstate: withTmp as unknown as Vmstate<Parent>,
    state: { a: 2, b: 4, d: 1n, parent: { f: 8n } },
    bytes: '00000002 0000000000000001 0000000000000002 0000000000000008',
    local: () => ({ a: 0, b: 0, d: 0n, parent: { f: 0n } }),
  },
]

describe.each(ENGINES)('byte vectors, engine %s', (engine) => {
  describe.each(vectors)('$name', ({ vmstate, state, bytes, local }) => {
    const text = bytes.replace(/\s+/g, '')
    const fresh = () => local?.() ?? vmstate.createState()

    it('is saved', () => expect(save(vmstate, state, engine)).toBe(text))

    it('is loaded, and leaves the byte behind it', async () => {
      const loaded = fresh()
      const left = loadWith(compileVmstate(vmstate, { engine }), loaded, fromHex(`${text}00`), vmstate.version)
      expect(left).toBe(1)
      expect(loaded).toEqual(state)
      const slowly = fresh()
      await loadSlowly(compileVmstate(vmstate, { engine }), slowly, fromHex(`${text}00`), vmstate.version)
      expect(slowly).toEqual(state)
    })

    it('cut at any byte is an error that names row and offset', async () => {
      const whole = fromHex(text)
      for (let length = 0; length < whole.length; length++) {
        const codec = compileVmstate(vmstate, { engine })
        const error = await loadSlowly(codec, fresh(), whole.subarray(0, length), vmstate.version, 3).catch((e) => e)
        expect(error, `${length} bytes`).toSatisfy(isVmstateError)
        expect(error.code).toBe('FERRY_VMSTATE_TRUNCATED')
        expect(error.path).toMatch(new RegExp(`^${vmstate.name} > .`))
        expect(error.offset).toBeLessThanOrEqual(length)
        expect(() => loadWith(codec, fresh(), whole.subarray(0, length), vmstate.version)).toThrow(error.message)
      }
    })

    it('the second half alone is not mistaken for the whole', () => {
      const whole = fromHex(text)
      const half = whole.subarray(Math.ceil(whole.length / 2))
      const codec = compileVmstate(vmstate, { engine })
      let left = 0
      try {
        left = loadWith(codec, fresh(), half, vmstate.version)
      } catch (error) {
        expect(error).toSatisfy(isVmstateError)
        return
      }
      expect(left).toBeGreaterThan(0)
    })
  })
})

describe.each(ENGINES)('versions and existence tests, engine %s', (engine) => {
  const versioned = defineVmstate({
    name: 'test/versioned',
    version: 2,
    minimumVersion: 1,
    fields: { a: u32(), b: u32({ since: 2 }), c: u32(), d: u64(), e: u32({ since: 2 }), f: u64({ since: 2 }) },
  })
  const preset = { a: 0, b: 200, c: 0, d: 0n, e: 500, f: 600n }
  const V2 = '0000000a 00000014 0000001e 0000000000000028 00000032 000000000000003c'

  it('a version 1 stream leaves later rows alone', () => {
    const text = '0000000a 0000001e 0000000000000028'
    expect(load(versioned, text, engine, { ...preset }, 1)).toEqual({ a: 10, b: 200, c: 30, d: 40n, e: 500, f: 600n })
  })

  it('a version 2 stream brings all rows', () => {
    expect(load(versioned, V2, engine, { ...preset }, 2)).toEqual({ a: 10, b: 20, c: 30, d: 40n, e: 50, f: 60n })
  })

  it.each([0, 3])('version %i is refused before a byte is used', (version) => {
    const error = catchError(() => load(versioned, V2, engine, { ...preset }, version))
    expect(error).toMatchObject({
      code: 'FERRY_VMSTATE_VERSION',
      path: 'test/versioned',
      incoming: version,
      minimum: 1,
      maximum: 2,
    })
  })

  const skip = (present: boolean) =>
    defineVmstate({
      name: 'test/skip',
      version: 2,
      minimumVersion: 1,
      fields: {
        a: u32(),
        b: u32(),
        c: u32({ when: () => present }),
        d: u64(),
        e: u32({ when: () => present, since: 9 }),
        f: u64({ since: 2 }),
      },
    })
  const values = { a: 1, b: 2, c: 3, d: 4n, e: 5, f: 6n }

  it('a predicate decides on save, whatever `since` says', () => {
    expect(save(skip(true), values, engine)).toBe(
      '00000001 00000002 00000003 0000000000000004 00000005 0000000000000006'.replaceAll(' ', ''),
    )
    expect(save(skip(false), values, engine)).toBe(
      '00000001 00000002 0000000000000004 0000000000000006'.replaceAll(' ', ''),
    )
  })

  it('a predicate decides on load', () => {
    expect(load(skip(true), V2, engine)).toEqual({ a: 10, b: 20, c: 30, d: 40n, e: 50, f: 60n })
    const text = '0000000a 00000014 0000000000000028 000000000000003c'
    expect(load(skip(false), text, engine, { a: 0, b: 0, c: 300, d: 0n, e: 500, f: 0n })).toEqual({
      a: 10,
      b: 20,
      c: 300,
      d: 40n,
      e: 500,
      f: 60n,
    })
  })
})

function catchError(run: () => unknown): Error {
  try {
    run()
  } catch (error) {
    return error as Error
  }
  throw new Error('nothing was thrown')
}
