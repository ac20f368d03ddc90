import { VmstateMismatchError, VmstateRangeError } from '../errors/vmstate-error.ts'
import type { QEMUFileReader, QEMUFileWriter } from '../qemufile/qemufile.ts'
import { initialElement } from './initial-value.ts'
import { locateInRow } from './locate.ts'
import type { Count, CountFrom, Element, Row } from './row.ts'
import { type Scalar, scalars } from './scalars.ts'
import type { TreeNode } from './struct-rows.ts'
import type { Vmstate } from './table.ts'
import type { ElementCodec, TableCodec } from './table-codec.ts'

/** Most bytes asked of the reader at once. */
export const RUN_BYTES = 1 << 16
export const NULL_MARKER = 0x30

export type TableOf = (vmstate: Vmstate<any>) => TableCodec

export function elementCodec(row: Row, tableOf: TableOf): ElementCodec {
  const { element } = row
  switch (element.kind) {
    case 'scalar':
      return element.check ? checkedCodec(element, scalars[element.type]) : scalars[element.type]
    case 'timer':
      return timerCodec
    case 'buffer':
      return bufferCodec(element.size, element.start, element.stateBytes)
    case 'bitmap':
      return bitmapCodec(element.size)
    case 'unused':
      return unusedCodec(element.bytes)
    case 'struct':
      return structCodec(tableOf(element.vmstate), element.version ?? element.vmstate.version)
    case 'list':
      return listCodec(row, element, tableOf(element.vmstate))
    case 'gtree':
      return element.key ? treeCodec(row, element, tableOf) : directTreeCodec(row, element, tableOf)
    case 'tmp':
      return tmpCodec(row, element, tableOf(element.vmstate))
    case 'custom':
      return {
        put: (value, out, state) => element.info.put(value, out, state),
        load: (input, current, state) => element.info.get(input, current, state),
      }
    case 'validate':
      return {
        bytes: 0,
        put: (_v, _o, state, version) => assertHolds(element, state, version),
        take: (_i, _c, state, version) => assertHolds(element, state, version),
      }
  }
}

function assertHolds(element: Element & { kind: 'validate' }, state: unknown, version: number): void {
  if (!element.holds(state, version)) throw new VmstateMismatchError('', element.message)
}

function checkedCodec(element: Element & { kind: 'scalar' }, scalar: Scalar): ElementCodec {
  const hint = element.hint ? `; ${element.hint}` : ''
  return {
    bytes: scalar.bytes,
    put: scalar.put,
    take(input, current) {
      const value = scalar.take(input)
      if (element.check === 'equal') {
        if (value !== current)
          throw new VmstateMismatchError('', `the sender has ${value}, this machine ${current}${hint}`)
      } else if (value < 0 || value > current) {
        throw new VmstateRangeError('', `${value} is not between 0 and ${current}${hint}`)
      }
      return value
    },
  }
}

const timerCodec: ElementCodec = {
  bytes: 8,
  put: (value, out) => out.putBe64(value.expireNs),
  take(input, current) {
    current.expireNs = BigInt.asIntN(64, input.getBe64())
    return current
  },
}

/** The element count or size as of now. @throws VmstateRangeError it is above the row's bound */
export function countNow(count: Count, state: any): number {
  return typeof count === 'number' ? count : dynamicCount(count, state)
}

function dynamicCount({ from, times, max }: CountFrom, state: any): number {
  const n = Number(typeof from === 'function' ? from(state) : state[from])
  const total = n * times
  if (!(total <= max)) {
    const source = typeof from === 'string' ? ` (row '${from}')` : ''
    throw new VmstateRangeError('', `a count of ${total}${source} is above the limit of ${max}`)
  }
  return total > 0 ? Math.floor(total) : 0
}

export function* ensure(input: QEMUFileReader, bytes: number): Generator<number, void> {
  if (input.available < bytes) yield bytes
}

function bufferCodec(size: Count, start: number, stateBytes: number): ElementCodec {
  const slice = (value: Uint8Array, bytes: number) => {
    if (value.length < start + bytes)
      throw new VmstateRangeError('', `${start + bytes} bytes are due; the state has ${value.length}`)
    return value.length === bytes ? value : value.subarray(start, start + bytes)
  }
  const put: ElementCodec['put'] = (value, out, state) => {
    const bytes = countNow(size, state)
    if (bytes > 0) out.putBuffer(slice(value, bytes))
  }
  if (typeof size === 'number' && size <= RUN_BYTES) {
    return {
      bytes: size,
      put,
      take(input, current) {
        input.getBuffer(slice(current, size))
        return current
      },
    }
  }
  return {
    put,
    *load(input, current: Uint8Array, state) {
      const bytes = countNow(size, state)
      const fixed = typeof size === 'number' || size.capacity !== undefined || current.length === bytes
      if (fixed) {
        yield* readInto(input, slice(current, bytes))
        return current
      }
      // Allocated as bytes arrive: a count alone must not cost memory.
      const parts: Uint8Array[] = []
      for (let left = bytes; left > 0; ) {
        const part = new Uint8Array(Math.min(left, RUN_BYTES))
        yield* readInto(input, part)
        parts.push(part)
        left -= part.length
      }
      const all = new Uint8Array(Math.max(bytes, stateBytes))
      let at = 0
      for (const part of parts) {
        all.set(part, at)
        at += part.length
      }
      return all
    },
  }
}

function* readInto(input: QEMUFileReader, into: Uint8Array): Generator<number, void> {
  for (let at = 0; at < into.length; at += RUN_BYTES) {
    const part = into.subarray(at, at + RUN_BYTES)
    yield* ensure(input, part.length)
    input.getBuffer(part)
  }
}

function bitmapCodec(size: Count): ElementCodec {
  const words = (state: any) => Math.ceil(countNow(size, state) / 64)
  const put: ElementCodec['put'] = (value: BigUint64Array, out, state) => {
    const count = words(state)
    if (value.length < count) throw new VmstateRangeError('', `${count} words are due; the state has ${value.length}`)
    for (let i = 0; i < count; i++) out.putBe64(value[i]!)
  }
  if (typeof size === 'number' && size <= RUN_BYTES * 8) {
    return {
      bytes: 8 * Math.ceil(size / 64),
      put,
      take(input, current: BigUint64Array) {
        for (let i = 0, count = Math.ceil(size / 64); i < count; i++) current[i] = input.getBe64()
        return current
      },
    }
  }
  return {
    put,
    *load(input, current: BigUint64Array, state) {
      const count = words(state)
      const into = current.length >= count ? current : new BigUint64Array(count)
      for (let i = 0; i < count; i++) {
        yield* ensure(input, 8)
        into[i] = input.getBe64()
      }
      return into
    },
  }
}

function unusedCodec(bytes: number): ElementCodec {
  const zeros = new Uint8Array(Math.min(bytes, RUN_BYTES))
  const put: ElementCodec['put'] = (_value, out) => {
    for (let left = bytes; left > 0; left -= zeros.length)
      out.putBuffer(left < zeros.length ? zeros.subarray(0, left) : zeros)
  }
  if (bytes <= RUN_BYTES) return { bytes, put, take: (input) => input.skip(bytes) }
  return {
    put,
    *load(input) {
      for (let left = bytes; left > 0; left -= RUN_BYTES) {
        const part = Math.min(left, RUN_BYTES)
        yield* ensure(input, part)
        input.skip(part)
      }
    },
  }
}

function structCodec(table: TableCodec, version: number): ElementCodec {
  return {
    put: (value, out) => table.save(value, out, version),
    *load(input, current) {
      yield* table.loadChecked(current, input, version)
      return current
    },
  }
}

function listCodec(row: Row, element: Element & { kind: 'list' }, table: TableCodec): ElementCodec {
  return {
    put(value: any[], out) {
      for (let i = 0; i < value.length; i++) {
        out.putByte(1)
        inElement(i, undefined, () => table.save(value[i], out, element.vmstate.version))
      }
      out.putByte(0)
    },
    *load(input, current: any[]) {
      current.length = 0
      for (;;) {
        yield* ensure(input, 1)
        if (input.getByte() === 0) return current
        if (current.length >= element.max) throw new VmstateRangeError('', `more than ${element.max} elements`)
        const item = element.vmstate.createState()
        const offset = input.position
        try {
          yield* table.load(item, input, row.since)
        } catch (error) {
          throw locateInRow(error, `[${current.length}]`, offset)
        }
        current.push(item)
      }
    },
  }
}

function treeCodec(row: Row, element: Element & { kind: 'gtree' }, tableOf: TableOf): ElementCodec {
  const keys = tableOf(element.key!)
  const values = tableOf(element.value)
  return {
    put(value: TreeNode<any, any>[], out) {
      const compare = element.compare
      const nodes = compare ? [...value].sort((a, b) => compare(a.key, b.key)) : value
      putNodes(nodes, out, (node) => {
        keys.save(node.key, out, element.key!.version)
        values.save(node.value, out, element.value.version)
      })
    },
    *load(input, current: TreeNode<any, any>[]) {
      current.length = 0
      yield* loadNodes(input, element.max, function* () {
        const node = { key: element.key!.createState(), value: element.value.createState() }
        yield* keys.load(node.key, input, row.since)
        yield* values.load(node.value, input, row.since)
        current.push(node)
      })
      return current
    },
  }
}

function directTreeCodec(row: Row, element: Element & { kind: 'gtree' }, tableOf: TableOf): ElementCodec {
  const values = tableOf(element.value)
  return {
    put(value: Map<bigint, any>, out) {
      const nodes = [...value].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
      putNodes(nodes, out, ([key, item]) => {
        out.putBe64(key)
        values.save(item, out, element.value.version)
      })
    },
    *load(input, current: Map<bigint, any>) {
      current.clear()
      yield* loadNodes(input, element.max, function* () {
        yield* ensure(input, 8)
        const key = input.getBe64()
        const item = element.value.createState()
        yield* values.load(item, input, row.since)
        current.set(key, item)
      })
      return current
    },
  }
}

function putNodes<T>(nodes: readonly T[], out: QEMUFileWriter, put: (node: T) => void): void {
  out.putBe32(nodes.length)
  nodes.forEach((node, i) => {
    out.putByte(1)
    inElement(i, undefined, () => put(node))
  })
  out.putByte(0)
}

function* loadNodes(input: QEMUFileReader, max: number, node: () => Generator<number, void>): Generator<number, void> {
  yield* ensure(input, 4)
  const count = input.getBe32()
  if (count > max) throw new VmstateRangeError('', `${count} nodes are above the limit of ${max}`)
  for (let i = 0; ; i++) {
    yield* ensure(input, 1)
    const more = input.getByte() !== 0
    if (!more && i === count) return
    if (more !== i < count)
      throw new VmstateRangeError('', `${count} nodes were announced, ${more ? 'more' : `only ${i}`} came`)
    const offset = input.position
    try {
      yield* node()
    } catch (error) {
      throw locateInRow(error, `[${i}]`, offset)
    }
  }
}

function tmpCodec(row: Row, element: Element & { kind: 'tmp' }, table: TableCodec): ElementCodec {
  return {
    put: (_value, out, state) => table.save(element.from(state), out, element.vmstate.version),
    *load(input, _current, state) {
      const temporary = element.from(state)
      yield* table.load(temporary, input, row.since)
      element.into(state, temporary, row.since)
    },
  }
}

/** Names the element that an error comes from. */
export function inElement(index: number, offset: number | undefined, run: () => void): void {
  try {
    run()
  } catch (error) {
    throw locateInRow(error, `[${index}]`, offset)
  }
}

/** An element that grows on load. */
export const newElement = (row: Row): unknown => initialElement(row)
