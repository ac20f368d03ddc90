import { describe, expect, it } from 'vitest'
import { StreamFormatError } from '../errors/stream-error.ts'
import { VmstateMismatchError } from '../errors/vmstate-error.ts'
import { bufferReader, drive } from '../qemufile/qemufile-reader.ts'
import {
  bitmap,
  buffer,
  i32Array,
  pointerArray,
  u8Varray,
  u16Array,
  u16Varray,
  u32Array,
  u32Varray,
  u64Varray,
  unused,
  unusedVarray,
  vbuffer,
} from './array-rows.ts'
import { compileVmstate } from './codec.ts'
import { defineVmstate, vmstateFor } from './define-vmstate.ts'
import { i32, i32Le, timer, u8, u8Equal, u16, u32, u64Equal, u64Number } from './scalar-rows.ts'
import { custom, gtree, list, struct, structArray, structVarray, validate, vstruct } from './struct-rows.ts'
import { ENGINES, fromHex, hex, load, loadWith, save, saveWith } from './vmstate-testing.ts'

const pair = defineVmstate({ name: 'pair', version: 1, fields: { a: u8(), b: u8() } })

describe.each(ENGINES)('rows, engine %s', (engine) => {
  it('a varray has as many elements as another row says, times a factor', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { n: u8(), a: u16Varray('n', { times: 2 }) } })
    const state = v.createState()
    Object.assign(state, { n: 1, a: Uint16Array.of(7, 8) })
    expect(save(v, state, engine)).toBe('0100070008')
    expect(load(v, '0100070008', engine)).toEqual(state)
  })

  it('a negative int32 count is no element (vmstate.md section 5)', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { n: i32(), a: structVarray(pair, 'n'), end: u8() } })
    expect(load(v, 'ffffffff 42', engine)).toEqual({ n: -1, a: [], end: 0x42 })
  })

  it('a count above the bound of its row is refused before anything is read', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { n: u32(), a: u64Varray('n', { max: 100 }) } })
    expect(() => load(v, '00000065', engine)).toThrow(
      expect.objectContaining({ code: 'FERRY_VMSTATE_RANGE', path: 'v > a', offset: 4 }),
    )
    const unbounded = defineVmstate({ name: 'v', version: 1, fields: { n: u32(), a: structVarray(pair, 'n') } })
    expect(() => load(unbounded, 'ffffffff', engine)).toThrow(/limit of 65536/)
    const bytes = defineVmstate({ name: 'v', version: 1, fields: { n: u32(), b: vbuffer('n') } })
    expect(() => load(bytes, '01000001', engine)).toThrow(/limit of 16777216/)
  })

  it('an array with a capacity keeps its storage', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { n: u8(), a: u8Varray('n', { capacity: 4 }) } })
    const state = v.createState()
    const storage = state.a
    storage.fill(9)
    load(v, '020102', engine, state)
    expect(state.a).toBe(storage)
    expect([...storage]).toEqual([1, 2, 9, 9])
    expect(save(v, state, engine)).toBe('020102')
    expect(() => load(v, '05', engine)).toThrow(expect.objectContaining({ code: 'FERRY_VMSTATE_RANGE' }))
  })

  it('a count may come from the state alone, as the number of harts does', () => {
    const v = vmstateFor<{ harts: number; timecmp: Uint32Array }>()({
      name: 'mtimer',
      version: 1,
      fields: { timecmp: u32Varray((s) => s.harts) },
    })
    const state = { harts: 2, timecmp: new Uint32Array(2) }
    load(v, '0000000100000002', engine, state)
    expect(state.timecmp).toEqual(Uint32Array.of(1, 2))
  })

  it('a state with too few elements cannot be saved', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { n: u8(), a: u16Varray('n') } })
    expect(() => save(v, { n: 3, a: new Uint16Array(2) }, engine)).toThrow(/v > a: 3 elements are due; the state has 2/)
  })

  it('a range sends a part of an array or buffer', () => {
    const v = defineVmstate({
      name: 'v',
      version: 1,
      fields: { a: u16Array(4, { range: [1, 2] }), b: buffer(4, { range: [2, 2] }) },
    })
    expect(save(v, { a: Uint16Array.of(1, 2, 3, 4), b: Uint8Array.of(5, 6, 7, 8) }, engine)).toBe('000200030708')
    expect(load(v, '000200030708', engine)).toEqual({ a: Uint16Array.of(0, 2, 3, 0), b: Uint8Array.of(0, 0, 7, 8) })
  })

  it('a bitmap is 64-bit words, first bit least significant', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { bits: bitmap(65) } })
    expect(save(v, { bits: BigUint64Array.of(1n, 1n) }, engine)).toBe('00000000000000010000000000000001')
  })

  it('retired bytes are sent as zeros and anything is accepted', () => {
    const v = defineVmstate({
      name: 'v',
      version: 1,
      fields: { old: unused(2), n: u8(), more: unusedVarray(2, 'n'), end: u8() },
    })
    expect(save(v, { n: 2, end: 1 }, engine)).toBe('0000020000000001')
    expect(load(v, 'ffff02ffffffff01', engine)).toEqual({ n: 2, end: 1 })
    expect(v.createState()).toEqual({ n: 0, end: 0 })
  })

  it('an idle timer is all ones; the timer object stays', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { t: timer() } })
    const state = v.createState()
    const { t } = state
    expect(save(v, state, engine)).toBe('ffffffffffffffff')
    load(v, '0000000000000005', engine, state)
    expect(state.t).toBe(t)
    expect(t.expireNs).toBe(5n)
  })

  it('equal rows refuse another value, with the hint', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { ok: u8(), n: u8Equal('same -smp', { reset: 4 }) } })
    expect(load(v, '0104', engine)).toEqual({ ok: 1, n: 4 })
    expect(() => load(v, '0105', engine)).toThrow(
      'v > n: the sender has 5, this machine 4; same -smp (stream offset 0x1)',
    )
    const big = defineVmstate({ name: 'v', version: 1, fields: { n: u64Equal('', { reset: 1n }) } })
    expect(() => load(big, '0000000000000002', engine)).toThrow(VmstateMismatchError)
  })

  it('int32 le accepts 0 to the local value and takes it over', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { n: i32Le('', { reset: 2 }) } })
    expect(load(v, '00000001', engine)).toEqual({ n: 1 })
    expect(() => load(v, '00000003', engine)).toThrow(expect.objectContaining({ code: 'FERRY_VMSTATE_RANGE' }))
    expect(() => load(v, 'ffffffff', engine)).toThrow(expect.objectContaining({ code: 'FERRY_VMSTATE_RANGE' }))
  })

  it('a number row refuses what a double cannot hold', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { n: u64Number() } })
    expect(load(v, '001fffffffffffff', engine).n).toBe(Number.MAX_SAFE_INTEGER)
    expect(() => load(v, '0020000000000000', engine)).toThrow(/v > n: 0x20000000000000 does not fit 53 bits/)
    expect(() => save(v, { n: 2 ** 53 }, engine)).toThrow(/v > n/)
  })

  it('a check stands between the rows and sees what was loaded above it', () => {
    const v = defineVmstate({
      name: 'v',
      version: 1,
      fields: { n: u8(), fits: validate('n is at most 2', (s) => s.n <= 2), a: u8Varray('n') },
    })
    expect(load(v, '020102', engine)).toEqual({ n: 2, a: Uint8Array.of(1, 2) })
    expect(() => load(v, '03010203', engine)).toThrow('v > fits: n is at most 2')
    expect(() => save(v, { n: 3, a: new Uint8Array(3) }, engine)).toThrow('v > fits: n is at most 2')
  })

  it('a vstruct travels in its own version', () => {
    const child = defineVmstate({
      name: 'child',
      version: 2,
      minimumVersion: 1,
      fields: { a: u8(), b: u8({ since: 2, reset: 7 }) },
    })
    const v = defineVmstate({ name: 'v', version: 1, fields: { old: vstruct(child, 1), now: struct(child) } })
    expect(save(v, { old: { a: 1, b: 2 }, now: { a: 3, b: 4 } }, engine)).toBe('010304')
    expect(load(v, '010304', engine)).toEqual({ old: { a: 1, b: 7 }, now: { a: 3, b: 4 } })
  })

  it('lists and trees have bounds', () => {
    const l = defineVmstate({ name: 'l', version: 1, fields: { q: list(pair, { since: 1, max: 1 }) } })
    expect(() => load(l, '01 0102 01 0304 00', engine)).toThrow('l > q: more than 1 elements')
    const t = defineVmstate({ name: 't', version: 1, fields: { g: gtree(pair, pair, { since: 1, max: 1 }) } })
    expect(() => load(t, '00000002', engine)).toThrow(/limit of 1/)
    expect(() => load(t, '00000001 00', engine)).toThrow(/only 0 came/)
    expect(() => load(t, '00000001 01 01020304 01 01020304 00', engine)).toThrow(/more came/)
  })

  it('a local null pointer needs the marker', () => {
    const v = defineVmstate({ name: 'v', version: 1, fields: { a: pointerArray(u8(), 2) } })
    expect(() => load(v, '0102', engine, { a: [1, null] })).toThrow(/v > a\[1\]: the sender has an element/)
  })

  it('what code of a row throws is wrapped once', () => {
    const bad = custom<number>({
      wire: 'bad',
      reset: () => 0,
      put() {
        throw new TypeError('boom')
      },
      *get(input) {
        yield 1
        throw new TypeError(`boom ${input.getByte()}`)
      },
    })
    const v = defineVmstate({ name: 'v', version: 1, fields: { x: bad } })
    const error = expect.objectContaining({ code: 'FERRY_VMSTATE_HOOK', path: 'v > x', cause: expect.any(TypeError) })
    expect(() => save(v, { x: 1 }, engine)).toThrow(error)
    expect(() => load(v, '07', engine)).toThrow(error)
  })

  it('names element and row of an error deep inside', () => {
    const inner = defineVmstate({ name: 'inner', version: 1, fields: { n: u8Equal('', { reset: 1 }) } })
    const outer = defineVmstate({ name: 'outer', version: 1, fields: { ports: structArray(inner, 3) } })
    expect(() => load(outer, '010102', engine)).toThrow(
      expect.objectContaining({ path: 'outer > ports[2].n', offset: 2 }),
    )
  })
})

describe.each(ENGINES)('hooks and subsections, engine %s', (engine) => {
  const trace: string[] = []
  const note = (what: string) => () => void trace.push(what)
  const child = defineVmstate({
    name: 'child',
    version: 1,
    fields: { c: u8() },
    preLoad: note('child preLoad'),
    postLoad: note('child postLoad'),
    preSave: note('child preSave'),
    postSave: note('child postSave'),
  })
  const parent = defineVmstate({
    name: 'parent',
    version: 3,
    minimumVersion: 2,
    fields: { child: struct(child), after: u8({ when: () => trace.push('after') > 0 }) },
    subsections: {
      'parent/one': {
        fields: { one: u8() },
        needed: (s) => s.one > 0,
        postLoad: (_, version) => void trace.push(`one postLoad ${version}`),
      },
      'parent/one/deep': { inside: 'parent/one', fields: { deep: u8({ reset: 5 }) }, needed: (s) => s.deep !== 5 },
      'parent/two': { version: 4, minimumVersion: 2, fields: { two: u8(), retired: unused(1) }, needed: () => false },
    },
    preSave: note('preSave'),
    postSave: note('postSave'),
    preLoad: note('preLoad'),
    postLoad: (_, version) => void trace.push(`postLoad ${version}`),
  })
  const ONE = '050a' + hex(new TextEncoder().encode('parent/one')) + '00000001'
  const DEEP = '050f' + hex(new TextEncoder().encode('parent/one/deep')) + '00000001'
  const TWO = '050a' + hex(new TextEncoder().encode('parent/two'))

  it('run in the order of vmstate.md sections 2 and 4', () => {
    const state = { child: { c: 1 }, after: 2, one: 3, deep: 4, two: 0 }
    trace.length = 0
    const text = save(parent, state, engine)
    expect(text).toBe(`0102${ONE}03${DEEP}04`)
    expect(trace).toEqual(['preSave', 'child preSave', 'child postSave', 'after', 'postSave'])
    trace.length = 0
    expect(load(parent, text, engine, parent.createState(), 2)).toEqual(state)
    expect(trace).toEqual(['preLoad', 'child preLoad', 'child postLoad', 'after', 'one postLoad 1', 'postLoad 2'])
  })

  it('subsections come in any order, repeated, needed or not, in any version that the table reads', () => {
    expect(load(parent, `0102 ${TWO}00000002 0900 ${ONE}03 ${ONE}04`, engine)).toMatchObject({
      one: 4,
      two: 9,
      deep: 5,
    })
    expect(() => load(parent, `0102 ${TWO}00000005 0900`, engine)).toThrow(
      expect.objectContaining({ code: 'FERRY_VMSTATE_VERSION', path: 'parent > parent/two' }),
    )
  })

  it('an unknown subsection with our prefix is refused; a foreign one is left for the caller', () => {
    const name = (text: string) =>
      `05${text.length.toString(16).padStart(2, '0')}${hex(new TextEncoder().encode(text))}`
    expect(() => load(parent, `0102 ${name('parent/foo')}00000001`, engine)).toThrow(
      expect.objectContaining({
        code: 'FERRY_VMSTATE_SUBSECTION',
        subsection: 'parent/foo',
        path: 'parent',
        offset: 2,
      }),
    )
    const codec = compileVmstate(parent, { engine })
    const foreign = fromHex(`0102 ${name('other/foo')}00000001`)
    expect(loadWith(codec, parent.createState(), foreign, 3)).toBe(foreign.length - 2)
    // A data byte that happens to be 5 behind a nested struct (section 6, consequence 2).
    expect(load(parent, '0105', engine)).toMatchObject({ after: 5 })
  })

  it('a failed preSave writes nothing and skips postSave; a failed row still gets its postSave', () => {
    trace.length = 0
    const broken = defineVmstate({
      name: 'broken',
      version: 1,
      fields: { a: u8({ when: () => true }), n: u8(), v: u16Varray('n') },
      preSave: (s) => {
        if (s.a === 1) throw new Error('not now')
      },
      postSave: note('postSave'),
    })
    expect(() => save(broken, { a: 1, n: 0, v: new Uint16Array() }, engine)).toThrow('broken: preSave failed: not now')
    expect(trace).toEqual([])
    expect(() => save(broken, { a: 0, n: 2, v: new Uint16Array() }, engine)).toThrow('broken > v')
    expect(trace).toEqual(['postSave'])
  })

  it('postLoad refuses by throwing; the error names section and row', () => {
    const strict = defineVmstate({
      name: 'strict',
      version: 1,
      fields: { lsr: u8() },
      postLoad(s) {
        if (s.lsr !== 0) throw new VmstateMismatchError('lsr', 'TEMT must be 0')
      },
    })
    expect(() => load(strict, '01', engine)).toThrow('strict > lsr: TEMT must be 0')
  })

  it('errors of the channel pass through as they are', () => {
    const codec = compileVmstate(parent, { engine })
    const input = bufferReader(new Uint8Array())
    const coroutine = codec.load(parent.createState(), input, 3)
    coroutine.next()
    const error = new StreamFormatError(0, 'the wire is cut')
    expect(() => coroutine.throw(error)).toThrow(error)
  })
})

describe('reset values', () => {
  const v = defineVmstate({
    name: 'v',
    version: 1,
    fields: {
      lsr: u8({ reset: 0x60 }),
      regs: u32Array(2, { reset: Uint32Array.of(1, 2) }),
      lines: i32Array(2),
      t: timer(),
      child: struct(pair),
      many: structArray(pair, 2),
      queue: list(pair, { since: 1 }),
    },
    subsections: { 'v/more': { fields: { more: u16({ reset: 9 }) }, needed: () => true } },
  })

  it('every fresh state has its own objects, keys in table order', () => {
    const [a, b] = [v.createState(), v.createState()]
    expect(a).toEqual(b)
    expect(a.regs).not.toBe(b.regs)
    expect(Object.keys(a)).toEqual(['lsr', 'regs', 'lines', 't', 'child', 'many', 'queue', 'more'])
  })

  it('resetState puts the values back into the same objects', () => {
    const state = v.createState()
    const { regs, t, child, many, queue } = state
    state.lsr = 1
    regs.fill(7)
    state.lines.fill(7)
    t.expireNs = 3n
    child.a = 1
    many[1]!.b = 1
    queue.push({ a: 1, b: 1 })
    state.more = 0
    v.resetState(state)
    expect(state).toEqual(v.createState())
    expect(state).toMatchObject({ regs, t, child, many, queue })
    expect(state.regs).toBe(regs)
    expect(state.many).toBe(many)
  })
})

describe('a load that waits', () => {
  it('yields how many bytes must be there, and ends with the coroutine', () => {
    const codec = compileVmstate(defineVmstate({ name: 'v', version: 1, fields: { a: u32(), b: u16() } }))
    const coroutine = codec.load({ a: 0, b: 0 }, bufferReader(new Uint8Array()), 1)
    expect(coroutine.next()).toEqual({ done: false, value: 6 })
    expect(() => coroutine.next()).toThrow(/v > a: the stream ended/)
  })

  it('needs no promise when everything is here', () => {
    const codec = compileVmstate(pair)
    const input = bufferReader(Uint8Array.of(1, 2))
    expect(drive(input, codec.load(pair.createState(), input, 1))).toBeUndefined()
    expect(hex(saveWith(codec, { a: 1, b: 2 }))).toBe('0102')
  })
})
