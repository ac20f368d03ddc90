import fc from 'fast-check'
import {
  array,
  bitmap,
  boolArray,
  buffer,
  i32Array,
  u8Array,
  u8Varray,
  u32Array,
  u64Array,
  unused,
  vbuffer,
} from './array-rows.ts'
import { defineVmstate } from './define-vmstate.ts'
import type { FieldTable, PresenceOptions } from './field.ts'
import {
  bool,
  cpuDouble,
  i8,
  i16,
  i32,
  i32Le,
  i64,
  i64Number,
  timer,
  u8,
  u16,
  u32,
  u32Equal,
  u64,
  u64Number,
} from './scalar-rows.ts'
import { custom, list, struct, structArray, structVarray, validate, vstruct } from './struct-rows.ts'
import type { Vmstate } from './table.ts'

/** A table, a state that it can save, and a fresh object that it can load into. For property tests of the codec. */
export interface RandomCase {
  readonly vmstate: Vmstate<any>
  readonly state: any
  readonly fresh: () => any
}
interface Built {
  fields: FieldTable
  fill(state: any): void
  /** What must be equal before a load. */
  prepare(state: any): void
}
type Piece = (key: string) => Built

const no = () => {}
const piece = (
  row: (key: string) => FieldTable,
  fill: (state: any, key: string) => void,
  prepare = no as any,
): Piece => {
  return (key) => ({ fields: row(key), fill: (s) => fill(s, key), prepare: (s) => prepare(s, key) })
}
const set = (value: unknown) => (state: any, key: string) => {
  state[key] = value
}
const copyInto = (values: any) => (state: any, key: string) => state[key].set(values)

const presence = fc.constantFrom<PresenceOptions>(
  {},
  {},
  {},
  { since: 1 },
  { since: 2 },
  { when: () => true },
  { when: () => false },
  { when: (s) => s.selector > 100 },
)

const integer = (min: number, max: number) => fc.integer({ min, max })
const scalarPiece: fc.Arbitrary<Piece> = presence.chain((o) =>
  fc.oneof(
    fc.boolean().map((v) => piece((k) => ({ [k]: bool(o) }), set(v))),
    integer(0, 255).map((v) => piece((k) => ({ [k]: u8(o) }), set(v))),
    integer(0, 65535).map((v) => piece((k) => ({ [k]: u16(o) }), set(v))),
    integer(0, 2 ** 32 - 1).map((v) => piece((k) => ({ [k]: u32(o) }), set(v))),
    integer(-128, 127).map((v) => piece((k) => ({ [k]: i8(o) }), set(v))),
    integer(-32768, 32767).map((v) => piece((k) => ({ [k]: i16(o) }), set(v))),
    integer(-(2 ** 31), 2 ** 31 - 1).map((v) => piece((k) => ({ [k]: i32(o) }), set(v))),
    fc.bigInt(0n, 2n ** 64n - 1n).map((v) => piece((k) => ({ [k]: u64(o) }), set(v))),
    fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n).map((v) => piece((k) => ({ [k]: i64(o) }), set(v))),
    fc.bigInt(0n, 2n ** 64n - 1n).map((v) => piece((k) => ({ [k]: cpuDouble(o) }), set(v))),
    fc.maxSafeNat().map((v) => piece((k) => ({ [k]: u64Number(o) }), set(v))),
    fc.maxSafeInteger().map((v) => piece((k) => ({ [k]: i64Number(o) }), set(v))),
    fc.bigInt(-1n, 2n ** 62n).map((v) =>
      piece(
        (k) => ({ [k]: timer(o) }),
        (s, k) => {
          s[k].expireNs = v
        },
      ),
    ),
    integer(0, 99).map((v) => piece((k) => ({ [k]: u32Equal('hint', o) }), set(v), set(v))),
    integer(0, 99).map((v) => piece((k) => ({ [k]: i32Le('hint', o) }), set(v), set(99))),
  ),
)

const arrayPiece: fc.Arbitrary<Piece> = presence.chain((o) =>
  integer(0, 9).chain((n) =>
    fc.oneof(
      fc.uint8Array({ minLength: n, maxLength: n }).map((v) => piece((k) => ({ [k]: u8Array(n, o) }), copyInto(v))),
      fc.uint8Array({ minLength: n, maxLength: n }).map((v) => piece((k) => ({ [k]: buffer(n, o) }), copyInto(v))),
      fc.uint32Array({ minLength: n, maxLength: n }).map((v) => piece((k) => ({ [k]: u32Array(n, o) }), copyInto(v))),
      fc.int32Array({ minLength: n, maxLength: n }).map((v) =>
        piece(
          (k) => ({ [k]: i32Array(n + 2, { ...o, range: [1, n] }) }),
          (s, k) => s[k].set(v, 1),
        ),
      ),
      fc
        .bigUint64Array({ minLength: n, maxLength: n })
        .map((v) => piece((k) => ({ [k]: u64Array(n, o) }), copyInto(v))),
      fc
        .array(fc.boolean(), { minLength: n, maxLength: n })
        .map((v) => piece((k) => ({ [k]: boolArray(n, o) }), set(v))),
      fc
        .array(fc.maxSafeNat(), { minLength: n, maxLength: n })
        .map((v) => piece((k) => ({ [k]: array(u64Number(), n, o) }), set(v))),
      fc.bigInt(0n, 2n ** 64n - 1n).map((v) =>
        piece(
          (k) => ({ [k]: bitmap(100, o) }),
          (s, k) => s[k].set([v, v & 0xfn]),
        ),
      ),
      fc.constant(piece((k) => ({ [k]: unused(n, o) }), no)),
      fc.uint8Array({ maxLength: 20 }).map((v) =>
        piece(
          (k) => ({ [`${k}_n`]: u8(), [k]: u8Varray(`${k}_n`), [`${k}_b`]: vbuffer(`${k}_n`) }),
          (s, k) => {
            s[`${k}_n`] = v.length
            s[k] = v
            s[`${k}_b`] = v
          },
        ),
      ),
      fc.constant(piece((k) => ({ [k]: validate('never fails', () => true) }), no)),
    ),
  ),
)

const text = custom<string>({
  wire: 'text',
  reset: () => '',
  put: (value, out) => out.putStr8(value),
  *get(input) {
    if (input.available < 1) yield 1
    const bytes = new Uint8Array(input.getByte())
    if (input.available < bytes.length) yield bytes.length
    input.getBuffer(bytes)
    return new TextDecoder().decode(bytes)
  },
})

function build(name: string, pieces: readonly Piece[], sub: readonly Piece[], subNeeded: boolean): RandomCase {
  const parts = pieces.map((p, i) => p(`f${i}`))
  const subParts = sub.map((p, i) => p(`g${i}`))
  const merge = (built: readonly Built[]) => Object.assign({}, ...built.map((b) => b.fields)) as FieldTable
  const subsections: Record<string, any> =
    sub.length > 0 ? { [`${name}/sub`]: { version: 2, fields: merge(subParts), needed: () => subNeeded } } : {}
  const vmstate = defineVmstate<any, any>({
    name,
    version: 2,
    minimumVersion: 0,
    fields: { selector: u8(), ...merge(parts) },
    subsections,
  }) as Vmstate<any>
  const state = vmstate.createState() as any
  state.selector = name.length * 40
  for (const part of [...parts, ...(subNeeded ? subParts : [])]) part.fill(state)
  const fresh = (): any => {
    const empty = vmstate.createState() as any
    for (const part of [...parts, ...subParts]) part.prepare(empty)
    return empty
  }
  return { vmstate, state, fresh }
}

const leafCase = (name: string, minLength: number) =>
  fc
    .tuple(
      fc.array(fc.oneof(scalarPiece, arrayPiece), { minLength, maxLength: 8 }),
      fc.array(scalarPiece, { maxLength: 3 }),
      fc.boolean(),
    )
    .map(([pieces, sub, needed]) => build(name, pieces, sub, needed))

const nestedPiece: fc.Arbitrary<Piece> = fc
  .tuple(leafCase('in', 0), integer(0, 4), fc.string({ maxLength: 9 }))
  .chain(([c, n, s]) => {
    const many = () => Array.from({ length: n }, () => structuredClone(c.state))
    const freshMany = (length: number) => Array.from({ length }, c.fresh)
    return fc.constantFrom<Piece>(
      piece(
        (k) => ({ [k]: struct(c.vmstate) }),
        set(c.state),
        (st: any, k: string) => set(c.fresh())(st, k),
      ),
      piece(
        (k) => ({ [k]: vstruct(c.vmstate, 1) }),
        set(c.state),
        (st: any, k: string) => set(c.fresh())(st, k),
      ),
      piece(
        (k) => ({ [k]: structArray(c.vmstate, n) }),
        (st, k) => set(many())(st, k),
        (st: any, k: string) => set(freshMany(n))(st, k),
      ),
      piece(
        (k) => ({ [`${k}_n`]: i32(), [k]: structVarray(c.vmstate, `${k}_n`) }),
        (st, k) => {
          st[`${k}_n`] = n
          st[k] = many()
        },
        (st: any, k: string) => set(freshMany(n))(st, k),
      ),
      piece((k) => ({ [k]: custom<string>((text as any).element.info) }), set(s)),
      piece(
        (k) => ({ [`${k}_e`]: list(elements, { since: 1 }) }),
        (st, k) => {
          st[`${k}_e`] = Array.from({ length: n }, (_, i) => ({ id: i, on: i % 2 === 1 }))
        },
      ),
    )
  })
const elements = defineVmstate({ name: 'el', version: 1, fields: { id: u32(), on: bool() } })

/** Tables with everything that rows can do, two levels deep, with subsections. */
export const randomCase: fc.Arbitrary<RandomCase> = fc
  .tuple(
    fc.array(
      fc.oneof(
        { weight: 3, arbitrary: scalarPiece },
        { weight: 2, arbitrary: arrayPiece },
        { weight: 2, arbitrary: nestedPiece },
      ),
      { maxLength: 10 },
    ),
    fc.array(scalarPiece, { maxLength: 3 }),
    fc.boolean(),
  )
  .map(([pieces, sub, needed]) => build('outer', pieces, sub, needed))
